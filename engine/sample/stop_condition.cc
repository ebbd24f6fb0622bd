#include "engine/sample/stop_condition.h"

#include <algorithm>
#include <utility>

namespace slim {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

StopCondition::StopCondition(StopRules options) : options_(std::move(options)) {
  for (const std::string& text : options_.strings) {
    Pattern pattern;
    pattern.text = text;
    pattern.links.assign(text.size() + 1, 0);
    for (size_t i = 1, matched = 0; i < text.size(); ++i) {
      while (matched > 0 && text[i] != text[matched]) matched = pattern.links[matched];
      if (text[i] == text[matched]) ++matched;
      pattern.links[i + 1] = matched;
    }
    patterns_.push_back(std::move(pattern));
  }
}

size_t StopCondition::Advance(const Pattern& pattern, size_t matched, char c) {
  while (matched > 0 && pattern.text[matched] != c) matched = pattern.links[matched];
  return pattern.text[matched] == c ? matched + 1 : 0;
}

StopCondition::Result StopCondition::Add(int32_t token, absl::string_view text,
                                         absl::string_view token_text) {
  Result result;
  ++num_tokens_;
  const bool ends = Contains(options_.end_tokens, token) && !options_.ignore_end_tokens;
  if (ends || Contains(options_.token_ids, token)) {
    result.text = Flush();
    if (options_.include_stop) result.text += std::string(text);
    result.finished = Reason::kStop;
    result.match = std::string(token_text);
    return result;
  }
  for (const char c : text) {
    held_.push_back(c);
    size_t longest = 0;  // beginning of a stop string that the text ends with
    for (Pattern& pattern : patterns_) {
      pattern.matched = Advance(pattern, pattern.matched, c);
      if (pattern.matched == pattern.text.size()) {
        // Of stop strings that end here the first one named wins; what came before is output.
        if (!options_.include_stop) held_.resize(held_.size() - pattern.text.size());
        result.text += held_;
        held_.clear();
        result.finished = Reason::kStop;
        result.match = pattern.text;
        return result;
      }
      longest = std::max(longest, pattern.matched);
    }
    const size_t safe = held_.size() - longest;
    result.text.append(held_, 0, safe);
    held_.erase(0, safe);
  }
  if (num_tokens_ >= options_.max_tokens) {
    result.text += Flush();
    result.finished = Reason::kLength;
  }
  return result;
}

std::string StopCondition::Flush() { return std::exchange(held_, std::string()); }

}  // namespace slim
