// The one thread that owns the Engine: asks the scheduler what to do next, runs one step, turns
// tokens into text and delivers it to the requests' streams.
//
// Thread rule: every public method is thread-safe; none of them blocks on a step, except Stop,
// which joins the thread and hence must not be called from an observer, on_fatal or a stream's
// callback.
#ifndef SERVER_WORKER_H_
#define SERVER_WORKER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/base/clock.h"
#include "engine/engine.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/request.h"
#include "server/scheduler.h"

namespace slim {

// Why a request was cancelled, for the metric's label.
enum class CancelCause { kClient, kAbort, kDeadline, kSlowConsumer, kShutdown };

// Receives one call per happening, on the worker thread or on the submitting thread; must not
// block. The metrics implement it; it keeps Prometheus out of the worker.
class WorkerObserver {
 public:
  virtual ~WorkerObserver() = default;
  virtual void OnRejected(absl::string_view reason) {}
  virtual void OnFirstToken(absl::Duration time_to_first_token) {}
  virtual void OnInterTokenGap(absl::Duration gap) {}
  virtual void OnFinished(const Request& request, const FinishedEvent& event) {}
  // phase: "queued", "prefill" or "decode"; latency: from the cancel to the last page freed.
  virtual void OnCancelled(absl::string_view phase, CancelCause cause, absl::Duration latency) {}
  virtual void OnStep(const StepResult& result, absl::Duration step_time) {}
};

// A snapshot for GetLoad and the gauges.
struct WorkerStats {
  int64_t running_requests = 0;
  int64_t waiting_requests = 0;
  int64_t waiting_prompt_tokens = 0;
  double prefill_tokens_per_second = 0;  // over the last seconds
  double decode_tokens_per_second = 0;
  bool accepting = false;
  bool healthy = false;  // false after a fatal backend error or when a step makes no progress
  EngineStats engine;
};

class Worker {
 public:
  struct Options {
    SchedulerOptions scheduler;
    absl::Duration write_stall_timeout = absl::Seconds(30);
    absl::Duration max_request_time = absl::Minutes(10);  // from arrival to the end
    // A step that takes longer makes stats().healthy false until it ends.
    absl::Duration stuck_step_time = absl::Seconds(10);
    // Called once, on the worker thread, when the backend failed for good.
    std::function<void(const absl::Status&)> on_fatal;
  };

  // Starts the thread. `tokenizer`, `clock` and `observer` outlive the worker.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(Options options,
                                                        std::unique_ptr<Engine> engine,
                                                        const Tokenizer* tokenizer,
                                                        const Clock* clock,
                                                        WorkerObserver* observer);
  virtual ~Worker() = default;  // as Stop(absl::ZeroDuration())

  // Queues a request; its stream gets Accepted first, then events, then one terminal status. Errors
  // (the stream is left untouched): ALREADY_EXISTS for an id in flight, RESOURCE_EXHAUSTED when the
  // queue is full (with a retry delay), INVALID_ARGUMENT when it can never fit the KV cache,
  // UNAVAILABLE while shutting down or after a fatal error, DEADLINE_EXCEEDED when already past.
  virtual absl::Status Submit(Request request) = 0;

  // Asks to cancel; takes effect within one unit of work. False when no such request is in flight.
  virtual bool Cancel(absl::string_view request_id, CancelCause cause) = 0;

  // From now on Submit answers UNAVAILABLE; what is queued is ended with UNAVAILABLE, what runs
  // goes on. Returns at once.
  virtual void BeginDrain() = 0;
  // Waits until nothing runs or `timeout` is over, then ends what is left with UNAVAILABLE and
  // joins the thread. Idempotent.
  virtual void Stop(absl::Duration timeout) = 0;

  virtual WorkerStats stats() const = 0;
  // The engine's fixed facts (thread-safe part of its interface).
  virtual const Engine& engine() const = 0;
};

}  // namespace slim

#endif  // SERVER_WORKER_H_
