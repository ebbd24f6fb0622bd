// The Worker, inside: what is shared under the mutex, and what belongs to the thread alone.
//
// Lock order: the worker's mutex, then a stream's. No engine call, no callback and no observer call
// is made under the worker's mutex.
#ifndef SERVER_WORKER_IMPL_H_
#define SERVER_WORKER_IMPL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "engine/base/mutex.h"
#include "server/live_request.h"
#include "server/rate_window.h"
#include "server/scheduler.h"
#include "server/worker.h"

namespace slim {

class WorkerImpl final : public Worker {
 public:
  WorkerImpl(Options options, std::unique_ptr<Engine> engine, const Tokenizer* tokenizer,
             const Clock* clock, WorkerObserver* observer);
  ~WorkerImpl() override;

  absl::Status Submit(Request request) override;
  bool Cancel(absl::string_view request_id, CancelCause cause) override;
  void BeginDrain() override;
  void Stop(absl::Duration timeout) override;
  WorkerStats stats() const override;
  const Engine& engine() const override { return *engine_; }

 private:
  struct CancelOrder {
    RequestKey key{};
    CancelCause cause = CancelCause::kClient;
    absl::Time when;
  };
  // Why a request is ended early, for the observer.
  struct Cancellation {
    CancelCause cause = CancelCause::kClient;
    absl::Time when;  // since when it should end
  };
  struct Ending {
    LiveRequest* live = nullptr;
    absl::Status status;
    Cancellation cancellation;
  };
  // What came in since the thread looked last.
  struct Commands {
    std::vector<LiveRequest*> arrived;
    std::vector<Ending> endings;
    bool stop = false;
  };
  // One step: the requests in the order of the plan, prefill first.
  struct Step {
    StepPlan plan;
    std::vector<LiveRequest*> requests;
  };

  // ---- any thread ----
  absl::Status Refusal(const std::string& id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Take(Request request, const KvDemand& kv) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration RetryDelay(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_);
  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // ---- the worker's thread ----
  void Run();
  Commands TakeCommands() ABSL_LOCKS_EXCLUDED(mutex_);
  void CollectEndings(absl::Time now, std::vector<Ending>* endings)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  LiveRequest* FindLive(RequestKey key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartAdmitted() ABSL_LOCKS_EXCLUDED(mutex_);
  void Start(LiveRequest* live) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits where there is nothing to compute; an empty step means "look again".
  Step NextStep() ABSL_LOCKS_EXCLUDED(mutex_);
  bool CanDecode(RequestKey key, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Time NextWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunStep(const Step& step) ABSL_LOCKS_EXCLUDED(mutex_);
  void Deliver(LiveRequest* live, SequenceOutput* output, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void DeliverToken(LiveRequest* live, SequenceOutput* output, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Announce(LiveRequest* live);
  void Finish(LiveRequest* live, FinishReason reason, std::string stop_match)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends a request with an error; `live` is gone afterwards.
  void End(LiveRequest* live, absl::Status status,
           const absl::optional<Cancellation>& cancellation = absl::nullopt)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void EndAll(const absl::Status& status, const absl::optional<Cancellation>& cancellation)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Frees all that a request holds in engine, scheduler and tables, so that whoever sees its end
  // finds its KV and its id free.
  std::unique_ptr<LiveRequest> Release(LiveRequest* live) ABSL_LOCKS_EXCLUDED(mutex_);
  void FailForGood(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  const std::unique_ptr<Engine> engine_;
  const Tokenizer* const tokenizer_;
  const Clock* const clock_;
  WorkerObserver* const observer_;

  mutable Mutex mutex_;
  Scheduler scheduler_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<RequestKey, std::unique_ptr<LiveRequest>> live_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, RequestKey> keys_ ABSL_GUARDED_BY(mutex_);  // by request id
  uint64_t next_key_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<RequestKey> arrived_ ABSL_GUARDED_BY(mutex_);
  std::vector<CancelOrder> cancels_ ABSL_GUARDED_BY(mutex_);
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;  // something came in since TakeCommands
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);  // not OK once the backend failed
  absl::optional<absl::Time> step_started_ ABSL_GUARDED_BY(mutex_);
  RateWindow prefill_rate_ ABSL_GUARDED_BY(mutex_);
  RateWindow decode_rate_ ABSL_GUARDED_BY(mutex_);

  Mutex join_mutex_;
  bool joined_ ABSL_GUARDED_BY(join_mutex_) = false;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace slim

#endif  // SERVER_WORKER_IMPL_H_
