// Copies with memcpy. Without a bandwidth it copies inside Enqueue, on the service thread, which
// saves a change of threads per copy. With one it plays a link, on a thread of its own: each
// direction carries one request at a time and a request completes no earlier than such a link would
// end it, so that benches and tests run the KV manager as it would run beside an accelerator.
// Thread rule as BlockCopier. Owns its thread.
#ifndef KVCACHE_BLOCK_COPIER_HOST_H_
#define KVCACHE_BLOCK_COPIER_HOST_H_

#include <cstdint>
#include <deque>
#include <queue>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"
#include "kvcache/block_copier.h"

namespace slim {

class HostBlockCopier final : public BlockCopier {
 public:
  // bytes_per_second: of each direction; 0 means as fast as memcpy goes.
  explicit HostBlockCopier(double bytes_per_second = 0);
  ~HostBlockCopier() override;

  void SetDone(Done done) override;
  void Enqueue(CopyRequest request) override;
  bool Cancel(uint64_t id) override;

 private:
  struct Finished {
    absl::Time at;  // when the link would end it
    CopyResult result;
    bool operator<(const Finished& other) const { return at > other.at; }  // earliest on top
  };

  void Run();
  Finished CopyOne(const CopyRequest& request);

  const SteadyClock clock_;
  const double bytes_per_second_;
  Done done_;
  // Touched by the copy thread only.
  absl::Time link_free_[2] = {absl::InfinitePast(), absl::InfinitePast()};
  std::priority_queue<Finished> finished_;

  Mutex mutex_;
  std::deque<CopyRequest> requests_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // with a bandwidth only; last: it uses all of the above
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_COPIER_HOST_H_
