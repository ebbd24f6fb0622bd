// The KV service as a pure state machine: which slab is where, what is copied next, what is
// evicted, what a completion, a failure or a time-out does. It has no thread, no lock and no clock;
// KvService gives it all three, tests drive it step by step.
//
// A slab is named by its id in the host pool. States: ABSENT (never written: reads as zeroes),
// HOST, DEVICE (newer than the host's), BOTH, and the two in flight. Only BOTH and unpinned may be
// evicted. Eviction is by furthest next use, where a layer that was just used is the furthest,
// because steps go through the layers again and again.
//
// Thread rule: not thread-safe, guarded by KvService's mutex. Borrows the pools; the host pool's
// free list is the worker's, the device pool is the core's alone.
#ifndef KVCACHE_KV_SERVICE_CORE_H_
#define KVCACHE_KV_SERVICE_CORE_H_

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kvcache/block_copier.h"
#include "kvcache/block_pool.h"
#include "kvcache/eviction_order.h"
#include "kvcache/kv_manager.h"
#include "kvcache/sequence_table.h"

namespace slim {

enum class SlabState : uint8_t { kAbsent, kHost, kDevice, kBoth, kToDevice, kToHost };

// A slab that a step is going to read, and for whom.
struct KvNeed {
  SlabId slab = kNoSlab;
  KvSequenceId sequence{};
};

class KvServiceCore {
 public:
  struct Options {
    int num_layers = 0;
    bool prefetch = true;
    absl::Duration transfer_timeout = absl::Seconds(10);
  };
  // In flight at a time, so that a later but more urgent copy waits behind little.
  static constexpr int kMaxOpenToDevice = 6;
  static constexpr int kMaxOpenToHost = 2;
  static constexpr int kMaxSlabsPerCopy = 16;

  KvServiceCore(const Options& options, BlockPool* host, BlockPool* device);

  // --- For the worker.
  void AddSequence(KvSequenceId sequence);
  // Drops what was planned for it; its slabs are freed one by one.
  void ForgetSequence(KvSequenceId sequence);
  // True: the slab's host memory is free now. False: a copy still touches it; it comes through
  // TakeDrained when that has ended.
  bool FreeSlab(SlabId slab);
  std::vector<SlabId> TakeDrained() { return std::exchange(drained_, {}); }

  // needs[layer]: what the step reads of that layer, in the order of use.
  void BeginStep(std::vector<std::vector<KvNeed>> needs);
  // The rest of the step reads other slabs of `layer` for `sequence` than BeginStep said.
  void ReplaceNeeds(KvSequenceId sequence, int layer, absl::Span<const SlabId> slabs);
  void EndStep();

  // Pins the holds and asks for what is not on the device; one acquisition at a time.
  void BeginAcquire(KvSequenceId sequence, int layer, absl::Span<const KvHold> holds,
                    absl::Time now);
  bool acquire_done() const { return demand_.done; }
  // After acquire_done(). OK: `device` names the device slab of each hold, `to_zero` those that the
  // caller has to fill with zeroes. Else the pins are gone.
  absl::Status FinishAcquire(std::vector<SlabId>* device, std::vector<SlabId>* to_zero);
  void Release(absl::Span<const KvHold> holds);

  // --- For the service thread.
  // The most urgent copy that can begin now, if any.
  bool NextCopy(absl::Time now, CopyRequest* request);
  void OnCopyDone(const CopyResult& result);
  // Transfers over their deadline; each is to be cancelled and reported to OnExpired.
  std::vector<uint64_t> Expired(absl::Time now);
  // memory_is_safe: the copier touches the slabs no more.
  void OnExpired(uint64_t id, bool memory_is_safe, absl::Time now);
  // When Expired() may next have something to say.
  absl::Time NextDeadline() const;

  // Whether the data of one of them went with a failed copy.
  bool AnyLost(absl::Span<const SlabId> slabs) const;
  // Transfers neither done, failed nor timed out.
  int64_t open_transfers() const { return static_cast<int64_t>(transfers_.size()); }
  // Adds the device tier and the transfer counters to `stats`.
  void AddStats(KvStats* stats) const;
  // INTERNAL when R1, R2 or R6 is broken; `held` is what the ledger counts as held.
  absl::Status Check(int64_t held) const;

 private:
  struct Slab {
    SlabState state = SlabState::kAbsent;
    bool lost = false;    // its only copy went with a failed write-back
    bool doomed = false;  // freed by its owner while a copy was in flight
    bool queued = false;  // waits for its write-back
    bool ahead = false;   // fetched ahead of a use that the plan still names
    bool unused = false;  // fetched ahead and not used yet
    SlabId device = kNoSlab;
    int32_t pins = 0;
    int32_t writers = 0;
    int32_t zombies = 0;  // timed-out copies that may still touch the host slab
    int32_t layer = 0;
    KvSequenceId writer{};  // who acquired it last to write
    uint64_t planned_step = 0;
    uint64_t used_step = 0;
  };
  struct Transfer {
    CopyDirection direction = CopyDirection::kToDevice;
    KvSequenceId sequence{};  // to the device: for whom
    absl::Time deadline;
    std::vector<std::pair<SlabId, SlabId>> slabs;  // host, device
  };
  struct Demand {
    bool active = false;
    bool done = false;
    KvSequenceId sequence{};
    absl::Time deadline;
    absl::Status status;
    std::vector<KvHold> holds;
    size_t ready = 0;    // holds before this one are on the device
    size_t fetched = 0;  // holds before this one need no fetch
    std::vector<SlabId> to_zero;
  };

  bool OnDevice(SlabState state) const {
    return state == SlabState::kDevice || state == SlabState::kBoth || state == SlabState::kToHost;
  }
  int RankOf(const Slab& slab) const;
  void UpdateEvictable(SlabId id);
  // A device slab for `owner`, by evicting one of a rank above `above` if need be and allowed.
  SlabId TakeDeviceSlab(int above, bool may_evict);
  void Detach(SlabId id);
  void ClearAhead(Slab& slab) {
    if (slab.ahead) --ahead_;
    slab.ahead = false;
  }
  void AdaptAheadLimit();
  void QueueWriteBack(SlabId id);
  void Pin(SlabId id, bool writable);
  void Unpin(SlabId id, bool writable);

  void AdvanceDemand();
  void FailDemand(absl::Status status);
  void FailSequence(KvSequenceId sequence, const absl::Status& status);

  bool DemandCopy(absl::Time now, CopyRequest* request);
  bool PlannedCopy(absl::Time now, int end_layer, CopyRequest* request);
  bool WriteBackCopy(absl::Time now, CopyRequest* request);
  void Open(Transfer transfer, absl::Time now, CopyRequest* request);
  void EndTransfer(uint64_t id, const Transfer& transfer, const absl::Status& status,
                   bool memory_is_safe);
  void EndToDevice(SlabId id, bool ok, bool memory_is_safe);
  void EndToHost(SlabId id, bool ok, bool memory_is_safe);
  bool EndZombie(uint64_t id);
  void Attach(SlabId id, SlabId device, SlabState state);
  void DropDevice(SlabId id, bool memory_is_safe);
  void MaybeDrain(SlabId id);
  absl::Status CheckSlab(SlabId id) const;

  const Options options_;
  BlockPool* const host_;
  BlockPool* const device_;
  std::vector<Slab> slabs_;           // by host slab
  std::vector<SlabId> device_owner_;  // host slab on each device slab, or kNoSlab
  EvictionOrder evictable_;           // holds host slabs
  absl::flat_hash_map<KvSequenceId, absl::Status> sequences_;  // live; not OK once a copy failed

  uint64_t step_ = 1;
  bool in_step_ = false;
  int current_layer_ = 0;
  std::vector<std::vector<KvNeed>> needs_;  // by layer
  int cursor_layer_ = 0;                    // in [0, 2 L): from L on it speculates on a next step
  size_t cursor_index_ = 0;

  Demand demand_;
  std::deque<SlabId> write_back_;
  uint64_t last_transfer_ = 0;
  absl::flat_hash_map<uint64_t, Transfer> transfers_;
  absl::flat_hash_map<uint64_t, std::vector<std::pair<SlabId, SlabId>>> zombies_;
  int open_[2] = {0, 0};
  int64_t ahead_ = 0;
  // How many slabs may be fetched ahead into room that others have to leave. Grows when slabs come
  // late, shrinks while none does: what need not run ahead stays resident and is not copied at all.
  int64_t ahead_limit_ = 1;
  int64_t late_before_step_ = 0;
  // The last step in which a device slab was wanted and none was free. Without such pressure
  // nothing is written back: a slab that is about to be written again would only be in the way.
  uint64_t pressure_step_ = 0;
  int64_t quarantined_ = 0;  // device slabs that zombies may still touch
  int64_t doomed_ = 0;
  std::vector<SlabId> drained_;

  int64_t transfers_done_ = 0, transfers_failed_ = 0, transfers_timed_out_ = 0;
  KvStats counters_;
};

}  // namespace slim

#endif  // KVCACHE_KV_SERVICE_CORE_H_
