#include "server/proto_events.h"

#include "absl/types/variant.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

void FillLogprob(int32_t token, float logprob, const PromptCodec& codec, v1::TokenLogprob* out) {
  out->set_token_id(static_cast<uint32_t>(token));
  out->set_logprob(logprob);
  out->set_token_bytes(codec.TokenBytes(token));
}

void FillLogprobs(const TokenLogprobs& logprobs, const PromptCodec& codec, v1::Logprobs* out) {
  FillLogprob(logprobs.token, logprobs.logprob, codec, out->mutable_chosen());
  for (const auto& [token, logprob] : logprobs.top) {
    FillLogprob(token, logprob, codec, out->add_top());
  }
}

// token_ids and logprobs have the same names in Delta and GenerateUnaryResponse.
template <typename Message>
void FillTokens(const DeltaEvent& event, const PromptCodec& codec, Message* message) {
  for (const int32_t token : event.token_ids) {
    message->add_token_ids(static_cast<uint32_t>(token));
  }
  for (const TokenLogprobs& logprobs : event.logprobs) {
    FillLogprobs(logprobs, codec, message->add_logprobs());
  }
}

void FillUsage(const FinishedEvent& event, v1::Usage* usage) {
  usage->set_prompt_tokens(static_cast<int32_t>(event.report.prompt_tokens));
  usage->set_completion_tokens(static_cast<int32_t>(event.completion_tokens));
  usage->set_cached_tokens(static_cast<int32_t>(event.report.cached_tokens));
  usage->set_pruned_tokens(static_cast<int32_t>(event.report.pruned_tokens));
}

void FillTiming(const FinishedEvent& event, v1::Timing* timing) {
  timing->set_queue_seconds(absl::ToDoubleSeconds(event.queue_time));
  timing->set_prefill_seconds(absl::ToDoubleSeconds(event.prefill_time));
  timing->set_time_to_first_token_seconds(absl::ToDoubleSeconds(event.time_to_first_token));
  timing->set_decode_seconds(absl::ToDoubleSeconds(event.decode_time));
  timing->set_kv_stall_seconds(absl::ToDoubleSeconds(event.report.kv_stall));
}

void FillPruning(const SequenceReport& report, const EventContext& context,
                 v1::PruningReport* pruning) {
  for (const StageReport& stage : report.stages) {
    v1::PruningReport::Stage* out = pruning->add_stages();
    out->set_layer(stage.layer);
    out->set_retained_tokens(static_cast<int32_t>(stage.retained_tokens));
    out->set_retained_blocks(static_cast<int32_t>(stage.retained_blocks));
    out->set_chosen_blocks(static_cast<int32_t>(stage.chosen_blocks));
    out->set_decision_seconds(absl::ToDoubleSeconds(stage.decision_time));
    out->set_segment_seconds(absl::ToDoubleSeconds(stage.segment_time));
    out->mutable_block_ids()->Add(stage.block_ids.begin(), stage.block_ids.end());
    out->mutable_scores()->Add(stage.scores.begin(), stage.scores.end());
  }
  pruning->set_digest(report.digest);
  pruning->set_reselect_swaps(static_cast<int32_t>(report.reselect_swaps));
  pruning->set_block_tokens(context.block_tokens);
  pruning->set_profile(context.profile);
}

}  // namespace

void FillDelta(const DeltaEvent& event, const EventContext& context, v1::Delta* delta) {
  delta->set_text(event.text);
  FillTokens(event, *context.codec, delta);
}

void FillFinished(const FinishedEvent& event, const EventContext& context, v1::Finished* finished) {
  finished->set_finish_reason(event.reason == FinishReason::kStop ? v1::STOP : v1::LENGTH);
  finished->set_stop_match(event.stop_match);
  FillUsage(event, finished->mutable_usage());
  FillTiming(event, finished->mutable_timing());
  if (context.pruning_report) FillPruning(event.report, context, finished->mutable_pruning());
}

v1::GenerateResponse ToResponse(const StreamEvent& event, const EventContext& context) {
  v1::GenerateResponse response;
  if (const auto* accepted = absl::get_if<AcceptedEvent>(&event)) {
    v1::Accepted* out = response.mutable_accepted();
    out->set_request_id(accepted->request_id);
    out->set_prompt_tokens(static_cast<int32_t>(accepted->prompt_tokens));
    out->set_queue_position(static_cast<int32_t>(accepted->queue_position));
  } else if (const auto* progress = absl::get_if<ProgressEvent>(&event)) {
    v1::Progress* out = response.mutable_progress();
    out->set_prefilled_tokens(static_cast<int32_t>(progress->progress.done_tokens));
    out->set_total_tokens(static_cast<int32_t>(progress->progress.total_tokens));
    out->set_retained_tokens(static_cast<int32_t>(progress->progress.retained_tokens));
  } else if (const auto* delta = absl::get_if<DeltaEvent>(&event)) {
    FillDelta(*delta, context, response.mutable_delta());
  } else if (const auto* finished = absl::get_if<FinishedEvent>(&event)) {
    FillFinished(*finished, context, response.mutable_finished());
  }
  return response;
}

void AddToUnary(const StreamEvent& event, const EventContext& context,
                v1::GenerateUnaryResponse* response) {
  if (const auto* accepted = absl::get_if<AcceptedEvent>(&event)) {
    response->set_request_id(accepted->request_id);
  } else if (const auto* delta = absl::get_if<DeltaEvent>(&event)) {
    response->mutable_text()->append(delta->text);
    FillTokens(*delta, *context.codec, response);
  } else if (const auto* finished = absl::get_if<FinishedEvent>(&event)) {
    FillFinished(*finished, context, response->mutable_finished());
  }
}

}  // namespace slim
