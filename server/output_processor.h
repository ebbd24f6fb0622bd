// Turns the sampled tokens of one request into what its client sees: text that is whole UTF-8 and
// cannot be part of a stop string any more, with the token ids and log-probabilities that belong to
// it. Not thread-safe: one object per request, on the worker thread.
#ifndef SERVER_OUTPUT_PROCESSOR_H_
#define SERVER_OUTPUT_PROCESSOR_H_

#include <cstdint>
#include <deque>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "engine/sample/stop_condition.h"
#include "engine/sample/token_logprobs.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/request.h"

namespace slim {

class OutputProcessor {
 public:
  struct Result {
    absl::optional<DeltaEvent> delta;       // none where nothing may be shown yet
    absl::optional<FinishReason> finished;  // the generation ends with this token
    std::string stop_match;
  };

  // `stop` is complete (end_tokens and max_tokens set). Borrows `tokenizer`.
  OutputProcessor(const Tokenizer* tokenizer, StopRules stop, const ResponseOptions& response);

  // The next token. `logprobs` are kept with it, where the request asked for them. A token is
  // delivered with the first byte of its text, so that neither ids nor log-probabilities run ahead
  // of the text; the tokens of a hidden stop are not delivered at all, but count as completion.
  // No further call after a finished result.
  Result Add(int32_t token, absl::optional<TokenLogprobs> logprobs);

  int64_t completion_tokens() const { return completion_tokens_; }

 private:
  // A token whose text was not shown yet.
  struct Pending {
    int32_t token = 0;
    absl::optional<TokenLogprobs> logprobs;
    int64_t start = 0;  // byte of the decoded text where its text begins
  };

  bool EndsGeneration(int32_t token) const;
  absl::string_view BytesOf(int32_t token) const;
  std::string Decode(int32_t token, bool ends_generation);
  void Release(bool all, DeltaEvent* delta);

  const Tokenizer* const tokenizer_;
  const StopRules stop_;
  const ResponseOptions response_;
  const bool decodes_;  // text is shown or searched for stop strings
  IncrementalDecoder decoder_;
  StopCondition condition_;
  std::deque<Pending> pending_;
  int64_t decoded_bytes_ = 0;
  int64_t shown_bytes_ = 0;
  int64_t completion_tokens_ = 0;
};

}  // namespace slim

#endif  // SERVER_OUTPUT_PROCESSOR_H_
