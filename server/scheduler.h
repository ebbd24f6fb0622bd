// Decides which request is queued, admitted and computed next. Pure policy: no thread, no clock of
// its own (time is an argument), no engine, no output. Not thread-safe (the worker guards it).
//
// A request is *waiting* (queued), *admitted* (its KV is reserved; the worker has to start it), in
// *prefill*, or in *decode*, until Remove. Order of the queue: priority, then arrival. Admission
// reserves the worst case in KV slabs; what does not fit may be passed by a bounded number of later
// requests that do. Prefill shares the processor by start-time fair queueing on cost, so that no
// prompt waits for the whole of another; between two prefill steps all streams advance one token.
// A prompt that nothing shares the processor with takes longer steps, which cost less in all; but
// not soon after requests met, because the next to come would have to wait for such a step.
#ifndef SERVER_SCHEDULER_H_
#define SERVER_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"

namespace slim {

// Identifies a request inside one Scheduler; never reused.
enum class RequestKey : uint64_t {};

struct SchedulerOptions {
  int64_t max_running = 64;            // requests admitted, in prefill or in decode
  int64_t max_queued_requests = 64;    // requests waiting
  int64_t max_queued_tokens = 262144;  // their prompt tokens together; one request always fits
  absl::Duration max_queue_wait = absl::Seconds(10);
  int64_t kv_capacity_slabs = 0;  // 0: the engine's (set by Worker::Create)
  // The most slabs of one layer that the sequences of a step may hold together: a bounded device
  // arena has to take them all at a time. 0: the engine's (set by Worker::Create).
  int64_t max_layer_slabs_per_step = 0;
  int64_t prefill_chunk_tokens = 256;  // most rows of one prefill step, but see lone_step_factor
  // Most cost of such a step, in row-layers. Rows cost more late in a long prompt (attention), so a
  // step takes fewer of them there and lasts about as long. 0: prefill_chunk_tokens * layers (set
  // by Worker::Create).
  double prefill_step_cost = 0;
  int64_t min_chunk_tokens = 64;       // a step is never cut below this for its cost
  int64_t chunk_multiple_tokens = 32;  // cut chunks are multiples of this
  // While one request is alone, and no step of the last `company_memory` found several, its steps
  // are up to so many times as large, if they are likely to end within `lone_step_time`. 1: never.
  double lone_step_factor = 4;
  absl::Duration lone_step_time = absl::Milliseconds(750);
  absl::Duration company_memory = absl::Seconds(10);
  int max_bypasses = 16;  // later requests that may pass one waiting for KV room
};

// INVALID_ARGUMENT naming field, value and range.
absl::Status ValidateSchedulerOptions(const SchedulerOptions& options);

class Scheduler {
 public:
  // What the policy has to know of a request.
  struct Entry {
    RequestKey key{};
    int priority = 0;  // -100 .. 100; orders the queue and weighs the share in prefill
    int64_t prompt_tokens = 0;
    KvDemand kv;  // worst case
    absl::Time arrival;
    absl::Time deadline = absl::InfiniteFuture();
  };
  enum class Expiry { kQueueWait, kDeadline };
  struct Expired {
    RequestKey key{};
    Expiry expiry = Expiry::kDeadline;
  };
  struct PrefillUnit {
    RequestKey key{};
    int64_t rows = 0;
  };
  // One step: prefill units or decode rows, never both.
  struct Plan {
    std::vector<PrefillUnit> prefill;
    std::vector<RequestKey> decode;
    bool empty() const { return prefill.empty() && decode.empty(); }
  };

  explicit Scheduler(const SchedulerOptions& options);

  // Queues a request, or admits it at once when there is room and nobody is before it. Returns the
  // number of requests waiting before it. RESOURCE_EXHAUSTED (OVERLOAD) when the queue is full,
  // INVALID_ARGUMENT (EXCEEDS_CAPACITY) when it needs more slabs than there are,
  // DEADLINE_EXCEEDED when its deadline is not after `now`.
  absl::StatusOr<int64_t> Enqueue(const Entry& entry, absl::Time now);

  // Requests admitted since the last call, in order of admission; the caller starts them.
  std::vector<RequestKey> TakeAdmitted();
  // An admitted request found no room after all: back into the queue, at its place. Nothing is
  // admitted until a running request is removed. False (nothing changes) when no other runs, so
  // that waiting would not help.
  bool Defer(RequestKey key);

  // An admitted request was started; `work` as the engine says. rows == 0: it can decode at once.
  void StartPrefill(RequestKey key, const PrefillWork& work);
  // The work left after a unit of it was computed; rows == 0: it decodes from now on.
  void UpdatePrefill(RequestKey key, const PrefillWork& work);

  // Forgets a request in any state and admits what now fits. No effect for an unknown key.
  void Remove(RequestKey key);

  // Waiting requests past their queue time and requests of any state past their deadline, each once
  // per call until removed; and when to look again.
  std::vector<Expired> FindExpired(absl::Time now) const;
  absl::Time NextExpiry() const;
  // All waiting requests, first to last (for the drain).
  std::vector<RequestKey> Waiting() const;

  // The next step. `can_decode` says whether a stream takes another token now. Empty when there is
  // nothing to compute. The plan is taken to be carried out: its cost is charged.
  Plan NextStep(absl::FunctionRef<bool(RequestKey)> can_decode, absl::Time now);
  // How long the last step took; a hint for the size of the next.
  void StepTook(absl::Duration time);

  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return num_running_; }
  int64_t waiting_prompt_tokens() const { return waiting_prompt_tokens_; }
  int64_t reserved_slabs() const { return reserved_slabs_; }

 private:
  enum class State { kWaiting, kAdmitted, kPrefill, kDecode };
  struct Item {
    Entry entry;
    State state = State::kWaiting;
    uint64_t order = 0;  // of arrival
    int bypassed = 0;    // later requests admitted while this one did not fit
    PrefillWork work;
    double weight = 1;
    bool begun = false;  // some of it was computed
    double tag = 0;      // virtual time at which its next unit is due
  };
  // Sorts the queue: higher priority first, then arrival.
  using QueueKey = std::pair<int, uint64_t>;

  static QueueKey QueueKeyOf(const Item& item) { return {-item.entry.priority, item.order}; }
  absl::Time ExpiryOf(const Item& item) const;
  void AdmitWhatFits();
  void LeaveQueue(const Item& item);
  double StepFactor(absl::Time now) const;
  int64_t RowsFor(const PrefillWork& work, double step_factor) const;
  std::vector<Item*> PrefillByTag();
  void ChargePrefill(const std::vector<PrefillUnit>& units);
  std::vector<PrefillUnit> NextPrefill(double step_factor);
  std::vector<RequestKey> NextDecode(absl::FunctionRef<bool(RequestKey)> can_decode);
  void ClampVirtualTime();

  const SchedulerOptions options_;
  absl::flat_hash_map<RequestKey, Item> items_;
  std::map<QueueKey, RequestKey> waiting_;
  std::map<uint64_t, RequestKey> decoding_;  // by order of arrival
  std::vector<RequestKey> admitted_;
  uint64_t next_order_ = 0;
  int64_t num_running_ = 0;
  int64_t num_prefill_ = 0;
  int64_t waiting_prompt_tokens_ = 0;
  int64_t reserved_slabs_ = 0;
  bool admission_paused_ = false;  // after Defer, until a Remove of a running request
  absl::Time last_meeting_ = absl::InfinitePast();  // when a step last found several requests
  double last_cost_ = 0;                            // of the last step; 0: it was decode
  int64_t last_rows_ = 0;                           // of the last prefill step
  double cost_per_second_ = 0;                      // of the last prefill step; 0: not known yet
  bool prefill_was_last_ = false;
  uint64_t next_decode_ = 0;  // order of arrival at which the next decode step begins
  double virtual_time_ = 0;   // service per unit of weight that a request active all along has had
  double arrival_tag_ = 0;    // virtual time when the last prefill step was planned
};

}  // namespace slim

#endif  // SERVER_SCHEDULER_H_
