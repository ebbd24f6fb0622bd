// One streamed request of a load test, and what its events tell. Calls run on gRPC's own threads,
// none waits. Thread-safe.
#ifndef TOOLS_BENCH_LOAD_CALL_H_
#define TOOLS_BENCH_LOAD_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "grpcpp/grpcpp.h"
#include "sliminfer/v1/inference.grpc.pb.h"

namespace slim {

// What one call did. Times are of the steady clock.
struct CallRecord {
  absl::Time due;                       // when it should have been sent
  std::vector<absl::Time> delta_times;  // of events with tokens
  std::vector<absl::Time> progress_times;
  int64_t tokens = 0;
  bool finished = false;  // Finished arrived
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;

  bool rejected() const { return code == grpc::StatusCode::RESOURCE_EXHAUSTED; }
  bool completed() const { return code == grpc::StatusCode::OK && finished; }
  // Seconds from `due` to the first token; NaN when there was none.
  double TimeToFirstToken() const;
};

// Adds the gaps between successive times within [begin, end] to `gaps`, in seconds.
void AppendGaps(const std::vector<absl::Time>& times, absl::Time begin, absl::Time end,
                std::vector<double>* gaps);

// Sends requests and gathers their records.
class LoadCalls {
 public:
  LoadCalls(sliminfer::v1::Inference::StubInterface* stub, const Clock* clock,
            std::string authorization, absl::Duration call_timeout);
  // Waits for all calls.
  ~LoadCalls();

  using Handle = int64_t;
  // Sends now. `due` is what time to first token counts from: queueing on this side counts.
  Handle Start(const sliminfer::v1::GenerateRequest& request, absl::Time due)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Cancel(Handle handle) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until the call has its first token or is over; false when `timeout` passes first.
  bool WaitForFirstToken(Handle handle, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  void WaitUntilDone(Handle handle) ABSL_LOCKS_EXCLUDED(mutex_);
  void WaitUntilAllDone() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until a time of the clock.
  void WaitUntil(absl::Time time) ABSL_LOCKS_EXCLUDED(mutex_);
  CallRecord Record(Handle handle) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<CallRecord> Records() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class Call;

  sliminfer::v1::Inference::StubInterface* const stub_;
  const Clock* const clock_;
  const std::string authorization_;
  const absl::Duration call_timeout_;
  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);
  std::vector<CallRecord> records_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> done_ ABSL_GUARDED_BY(mutex_);
  int64_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace slim

#endif  // TOOLS_BENCH_LOAD_CALL_H_
