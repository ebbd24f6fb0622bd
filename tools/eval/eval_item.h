// Evaluation items: long prompts with known answers, one JSON object a line:
//   {"id": "...", "prompt": "the user's message", "answers": ["14872"], "task": "passkey",
//    "length_tokens": 1917}
// and for conversations of two turns "second_question": "...", "second_answers": ["..."].
// Pure functions and plain values.
#ifndef TOOLS_EVAL_EVAL_ITEM_H_
#define TOOLS_EVAL_EVAL_ITEM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/tokenizer/tokenizer.h"

namespace slim {

struct EvalItem {
  std::string id;
  std::string prompt;
  std::vector<std::string> answers;  // at least one, none empty
  std::string task;
  int64_t length_tokens = 0;
  std::string second_question;  // about the same text, empty: none
  std::vector<std::string> second_answers;
};

// INVALID_ARGUMENT with `name`, line number and what is wrong. Empty lines are skipped.
absl::StatusOr<std::vector<EvalItem>> ParseEvalItems(absl::string_view name,
                                                     absl::string_view json_lines);

// 2048, 4096, 8192, ...: the power of two nearest to the length on a logarithmic scale.
int64_t LengthBucket(int64_t length_tokens);

// Whether the task only asks to find what the text says: passkey..., niah..., kv.
bool IsRetrievalTask(absl::string_view task);

// Case-insensitive (ASCII): some answer is part of `text`.
bool ContainsAnswer(absl::string_view text, absl::Span<const std::string> answers);

// Tokens [first, last] of a prompt that hold one occurrence of an answer.
struct AnswerSpan {
  int64_t first = 0;
  int64_t last = 0;
};

// All occurrences of all answers in the text that the tokens stand for, ascending.
std::vector<AnswerSpan> FindAnswers(absl::Span<const int32_t> prompt,
                                    absl::Span<const std::string> answers,
                                    const Tokenizer& tokenizer);

// Some occurrence lies wholly in the blocks `block_ids` (ascending).
bool AnyAnswerRetained(absl::Span<const AnswerSpan> spans, absl::Span<const int32_t> block_ids,
                       int block_tokens);

}  // namespace slim

#endif  // TOOLS_EVAL_EVAL_ITEM_H_
