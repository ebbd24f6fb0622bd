// The KV service: KvServiceCore behind a mutex, a copier, and the thread that feeds it. The worker
// posts what it needs and waits only for a layer that is not there yet.
//
// Thread rule: the methods are for one thread, the worker, except AddStats, which is thread-safe.
// Ownership: owns the copier and the thread; borrows pools and clock. Its destructor ends both.
#ifndef KVCACHE_KV_SERVICE_H_
#define KVCACHE_KV_SERVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"
#include "kvcache/block_copier.h"
#include "kvcache/kv_service_core.h"

namespace slim {

class KvService {
 public:
  // `idle` set: no thread is started; the caller drives with Pump(), and a waiting Acquire calls
  // Pump() and idle() in turn, so idle() has to let time or copies go on (deterministic tests).
  KvService(const KvServiceCore::Options& options, BlockPool* host, BlockPool* device,
            const Clock* clock, std::unique_ptr<BlockCopier> copier, std::function<void()> idle);
  ~KvService();
  KvService(const KvService&) = delete;
  KvService& operator=(const KvService&) = delete;

  // See KvServiceCore.
  void AddSequence(KvSequenceId sequence);
  void ForgetSequence(KvSequenceId sequence);
  bool FreeSlab(SlabId slab);
  std::vector<SlabId> TakeDrained();
  bool AnyLost(absl::Span<const SlabId> slabs) const;
  void BeginStep(std::vector<std::vector<KvNeed>> needs);
  void ReplaceNeeds(KvSequenceId sequence, int layer, absl::Span<const SlabId> slabs);
  void EndStep();
  // Waits until all holds are on the device, at most a few transfer time-outs.
  absl::Status Acquire(KvSequenceId sequence, int layer, absl::Span<const KvHold> holds,
                       std::vector<SlabId>* device, std::vector<SlabId>* to_zero);
  void Release(absl::Span<const KvHold> holds);

  // Starts what can be started and closes what is overdue, as the thread does on each round.
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t open_transfers() const;
  void AddStats(KvStats* stats) const;
  absl::Status Check(int64_t held) const;

 private:
  void Run();
  void OnDone(const CopyResult& result);
  void WaitForDemand() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Something changed that the thread, or a waiting layer, may be waiting for.
  void Post() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    work_ = true;
    mutex_.NotifyAll();
  }

  const Clock* const clock_;
  const std::function<void()> idle_;
  mutable Mutex mutex_;
  KvServiceCore core_ ABSL_GUARDED_BY(mutex_);
  absl::Duration stall_ ABSL_GUARDED_BY(mutex_);
  bool work_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<BlockCopier> copier_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace slim

#endif  // KVCACHE_KV_SERVICE_H_
