// Events of a TokenStream as messages of sliminfer.v1. Thread-safe (pure functions).
#ifndef SERVER_PROTO_EVENTS_H_
#define SERVER_PROTO_EVENTS_H_

#include "server/prompt_codec.h"
#include "server/request.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {

// What the conversion needs beyond the event.
struct EventContext {
  const PromptCodec* codec = nullptr;  // bytes of tokens, for logprobs
  int block_tokens = 0;
  bool pruning_report = false;
  std::string profile;  // of the request's schedule
};

void FillDelta(const DeltaEvent& event, const EventContext& context, sliminfer::v1::Delta* delta);
void FillFinished(const FinishedEvent& event, const EventContext& context,
                  sliminfer::v1::Finished* finished);
sliminfer::v1::GenerateResponse ToResponse(const StreamEvent& event, const EventContext& context);

// Adds a Delta or Finished event to the answer of GenerateUnary; other events are left out.
void AddToUnary(const StreamEvent& event, const EventContext& context,
                sliminfer::v1::GenerateUnaryResponse* response);

}  // namespace slim

#endif  // SERVER_PROTO_EVENTS_H_
