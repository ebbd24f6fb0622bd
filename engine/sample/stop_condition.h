// Decides when a generation ends, and which text may be shown before that is known: text that could
// be the beginning of a stop string is held back. One object per sequence, not thread-safe.
#ifndef ENGINE_SAMPLE_STOP_CONDITION_H_
#define ENGINE_SAMPLE_STOP_CONDITION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace slim {

struct StopRules {
  std::vector<std::string> strings;  // none empty
  std::vector<int32_t> token_ids;    // as the request says
  std::vector<int32_t> end_tokens;   // end-of-generation tokens of the model
  bool ignore_end_tokens = false;
  bool include_stop = false;  // the stop string or token's text is part of the output
  int64_t max_tokens = 0;     // >= 1
};

class StopCondition {
 public:
  enum class Reason { kStop, kLength };
  struct Result {
    std::string text;  // may be shown now
    absl::optional<Reason> finished;
    std::string match;  // the stop string, or the text of the stop token
  };

  explicit StopCondition(StopRules options);

  // The next token and the text that it completed (see IncrementalDecoder); `token_text` is the
  // text of the token itself, for the report. After a finished result no further call is made.
  Result Add(int32_t token, absl::string_view text, absl::string_view token_text);
  // What is still held back, at the end of a generation that nothing stopped.
  std::string Flush();

 private:
  // A stop string with the failure links of the Knuth-Morris-Pratt automaton.
  struct Pattern {
    std::string text;
    std::vector<size_t> links;
    size_t matched = 0;
  };

  static size_t Advance(const Pattern& pattern, size_t matched, char c);

  const StopRules options_;
  std::vector<Pattern> patterns_;
  std::string held_;  // the longest beginning of a stop string that the text ends with
  int64_t num_tokens_ = 0;
};

}  // namespace slim

#endif  // ENGINE_SAMPLE_STOP_CONDITION_H_
