#include "server/output_processor.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace slim {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

OutputProcessor::OutputProcessor(const Tokenizer* tokenizer, StopRules stop,
                                 const ResponseOptions& response)
    : tokenizer_(tokenizer),
      stop_(std::move(stop)),
      response_(response),
      decodes_(response.text || !stop_.strings.empty()),
      condition_(stop_) {}

bool OutputProcessor::EndsGeneration(int32_t token) const {
  return Contains(stop_.token_ids, token) ||
         (!stop_.ignore_end_tokens && Contains(stop_.end_tokens, token));
}

// A model's output may be wider than its vocabulary (padding): such a token has no text.
absl::string_view OutputProcessor::BytesOf(int32_t token) const {
  if (token < 0 || token >= tokenizer_->vocab_size()) return "";
  return tokenizer_->TokenBytes(token);
}

// The text that the token completes. What ends the generation is no part of the text, except a stop
// token that the client asked to see.
std::string OutputProcessor::Decode(int32_t token, bool ends_generation) {
  if (!decodes_) return "";
  if (ends_generation) {
    if (!stop_.include_stop || !Contains(stop_.token_ids, token)) return "";
    return decoder_.Add(BytesOf(token)) + decoder_.Flush();
  }
  const absl::string_view bytes = BytesOf(token);
  return bytes.empty() || tokenizer_->IsControl(token) ? "" : decoder_.Add(bytes);
}

OutputProcessor::Result OutputProcessor::Add(int32_t token,
                                             absl::optional<TokenLogprobs> logprobs) {
  ++completion_tokens_;
  const bool ends = EndsGeneration(token);
  const bool hidden = ends && !(stop_.include_stop && Contains(stop_.token_ids, token));
  if (!hidden && (response_.token_ids || logprobs.has_value())) {
    pending_.push_back({token, std::move(logprobs), decoded_bytes_});
  }
  const std::string text = Decode(token, ends);
  decoded_bytes_ += static_cast<int64_t>(text.size());
  StopCondition::Result decision = condition_.Add(token, text, BytesOf(token));

  Result result;
  result.stop_match = std::move(decision.match);
  if (decision.finished.has_value()) {
    result.finished = *decision.finished == StopCondition::Reason::kLength ? FinishReason::kLength
                                                                           : FinishReason::kStop;
  }
  const bool by_string = result.finished == FinishReason::kStop && !ends;
  // A character that was begun and never completed is shown as U+FFFD, unless a stop came before.
  if (result.finished.has_value() && !by_string) decision.text += decoder_.Flush();
  shown_bytes_ += static_cast<int64_t>(decision.text.size());

  DeltaEvent delta;
  if (response_.text) delta.text = std::move(decision.text);
  const bool all = !decodes_ || (result.finished.has_value() && (!by_string || stop_.include_stop));
  Release(all, &delta);
  if (!delta.text.empty() || !delta.token_ids.empty() || !delta.logprobs.empty()) {
    result.delta = std::move(delta);
  }
  return result;
}

void OutputProcessor::Release(bool all, DeltaEvent* delta) {
  while (!pending_.empty() && (all || pending_.front().start < shown_bytes_)) {
    Pending& front = pending_.front();
    if (response_.token_ids) delta->token_ids.push_back(front.token);
    if (front.logprobs.has_value()) delta->logprobs.push_back(*std::move(front.logprobs));
    pending_.pop_front();
  }
}

}  // namespace slim
