// A generation request after validation, and the events that answer it. No gRPC type: the service
// translates at the wire, the worker knows only these. Plain values.
#ifndef SERVER_REQUEST_H_
#define SERVER_REQUEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/variant.h"
#include "engine/engine.h"
#include "engine/sample/stop_condition.h"

namespace slim {

class TokenStream;

struct ResponseOptions {
  bool text = true;
  bool token_ids = false;
  bool progress = false;
  bool pruning_report = false;
};

struct Request {
  std::string id;     // unique among the requests in flight
  SequenceSpec spec;  // end_tokens are filled in by the worker
  StopRules stop;   // end_tokens and max_tokens are filled in by the worker
  ResponseOptions response;
  int priority = 0;                              // -100 .. 100, larger first
  absl::Time arrival;                            // steady clock
  absl::Time deadline = absl::InfiniteFuture();  // steady clock
  std::shared_ptr<TokenStream> stream;           // where the answer goes
};

enum class FinishReason { kStop, kLength };

struct AcceptedEvent {
  std::string request_id;
  int64_t prompt_tokens = 0;
  int64_t queue_position = 0;
};

struct ProgressEvent {
  PrefillProgress progress;
};

struct DeltaEvent {
  std::string text;  // valid UTF-8
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;
};

struct FinishedEvent {
  FinishReason reason = FinishReason::kStop;
  std::string stop_match;
  int64_t completion_tokens = 0;
  SequenceReport report;
  absl::Duration queue_time;
  absl::Duration prefill_time;
  absl::Duration time_to_first_token;
  absl::Duration decode_time;
};

using StreamEvent = absl::variant<AcceptedEvent, ProgressEvent, DeltaEvent, FinishedEvent>;

}  // namespace slim

#endif  // SERVER_REQUEST_H_
