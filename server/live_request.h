// A request in flight inside the worker. Made by Submit; once it is in the worker's table, only the
// worker's thread touches it.
#ifndef SERVER_LIVE_REQUEST_H_
#define SERVER_LIVE_REQUEST_H_

#include <cstdint>
#include <utility>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "engine/engine.h"
#include "server/output_processor.h"
#include "server/request.h"
#include "server/scheduler.h"

namespace slim {

struct LiveRequest {
  LiveRequest(RequestKey request_key, Request taken, const Tokenizer* tokenizer)
      : key(request_key),
        request(std::move(taken)),
        prompt_tokens(static_cast<int64_t>(request.spec.prompt.size())),
        output(tokenizer, request.stop, request.response) {}

  // For metrics and logs.
  const char* phase() const {
    if (!sequence.has_value()) return "queued";
    return in_prefill ? "prefill" : "decode";
  }

  const RequestKey key;
  Request request;
  const int64_t prompt_tokens;
  OutputProcessor output;
  int64_t queue_position = 0;
  bool announced = false;               // Accepted was pushed
  absl::optional<SequenceId> sequence;  // while the engine has it
  bool in_prefill = true;
  absl::optional<absl::Time> first_unit;  // start of the first unit of work
  absl::optional<absl::Time> first_token;
  absl::Time last_token;
  absl::optional<absl::Time> stalled_since;  // the stream has been full
};

}  // namespace slim

#endif  // SERVER_LIVE_REQUEST_H_
