#include "tools/eval/eval_item.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace slim {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> TextOf(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string() ||
      found->get_ref<const std::string&>().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("'", key, "' must be text that is not empty"));
  }
  return found->get<std::string>();
}

absl::StatusOr<std::vector<std::string>> TextsOf(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array() || found->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", key, "' must be a list with at least one text"));
  }
  std::vector<std::string> texts;
  for (const json& text : *found) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", key, "' must hold texts that are not empty"));
    }
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

absl::StatusOr<EvalItem> ParseItem(absl::string_view line) {
  const json object = json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("not a JSON object");
  EvalItem item;
  SLIM_ASSIGN_OR_RETURN(item.id, TextOf(object, "id"));
  SLIM_ASSIGN_OR_RETURN(item.prompt, TextOf(object, "prompt"));
  SLIM_ASSIGN_OR_RETURN(item.task, TextOf(object, "task"));
  SLIM_ASSIGN_OR_RETURN(item.answers, TextsOf(object, "answers"));
  if (object.contains("second_question")) {
    SLIM_ASSIGN_OR_RETURN(item.second_question, TextOf(object, "second_question"));
    SLIM_ASSIGN_OR_RETURN(item.second_answers, TextsOf(object, "second_answers"));
  }
  const auto length = object.find("length_tokens");
  if (length != object.end() && length->is_number_integer()) {
    item.length_tokens = length->get<int64_t>();
  }
  return item;
}

}  // namespace

absl::StatusOr<std::vector<EvalItem>> ParseEvalItems(absl::string_view name,
                                                     absl::string_view json_lines) {
  std::vector<EvalItem> items;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(json_lines, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<EvalItem> item = ParseItem(line);
    if (!item.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ", line ", number, ": ", item.status().message()));
    }
    items.push_back(*std::move(item));
  }
  return items;
}

int64_t LengthBucket(int64_t length_tokens) {
  if (length_tokens < 1) return 1;
  return int64_t{1} << std::min<int64_t>(
             std::llround(std::log2(static_cast<double>(length_tokens))), 62);
}

bool IsRetrievalTask(absl::string_view task) {
  return absl::StartsWith(task, "passkey") || absl::StartsWith(task, "niah") || task == "kv";
}

bool ContainsAnswer(absl::string_view text, absl::Span<const std::string> answers) {
  const std::string lower = absl::AsciiStrToLower(text);
  return std::any_of(answers.begin(), answers.end(), [&](const std::string& answer) {
    return absl::StrContains(lower, absl::AsciiStrToLower(answer));
  });
}

std::vector<AnswerSpan> FindAnswers(absl::Span<const int32_t> prompt,
                                    absl::Span<const std::string> answers,
                                    const Tokenizer& tokenizer) {
  std::string text;
  std::vector<int64_t> token_of_byte;
  for (size_t i = 0; i < prompt.size(); ++i) {
    absl::StrAppend(&text, absl::AsciiStrToLower(tokenizer.TokenBytes(prompt[i])));
    token_of_byte.resize(text.size(), static_cast<int64_t>(i));
  }
  std::vector<AnswerSpan> spans;
  for (const std::string& answer : answers) {
    const std::string lower = absl::AsciiStrToLower(answer);
    for (size_t at = text.find(lower); at != std::string::npos; at = text.find(lower, at + 1)) {
      spans.push_back(AnswerSpan{token_of_byte[at], token_of_byte[at + lower.size() - 1]});
    }
  }
  std::sort(spans.begin(), spans.end(),
            [](const AnswerSpan& a, const AnswerSpan& b) { return a.first < b.first; });
  return spans;
}

bool AnyAnswerRetained(absl::Span<const AnswerSpan> spans, absl::Span<const int32_t> block_ids,
                       int block_tokens) {
  return std::any_of(spans.begin(), spans.end(), [&](const AnswerSpan& span) {
    for (int64_t block = span.first / block_tokens; block <= span.last / block_tokens; ++block) {
      if (!std::binary_search(block_ids.begin(), block_ids.end(), static_cast<int32_t>(block))) {
        return false;
      }
    }
    return true;
  });
}

}  // namespace slim
