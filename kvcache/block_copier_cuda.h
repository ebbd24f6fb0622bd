// Copies slabs over a device's copy streams, beside its computing. The part that needs CUDA is
// behind CopyLink, so that order, completion and cancelling can be tested without a GPU.
//
// Events both ways: a copy waits for all work that the compute stream had been given when the copy
// was enqueued (what it reads has been written, what it overwrites has been read), and a completion
// is reported when the bytes have arrived, which is before the KV service lets anyone use them.
// Thread rule as BlockCopier. Owns the link and one thread per direction, which waits for copies.
#ifndef KVCACHE_BLOCK_COPIER_CUDA_H_
#define KVCACHE_BLOCK_COPIER_CUDA_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "kvcache/block_copier.h"

namespace slim {

// The device's streams. Thread-safe.
class CopyLink {
 public:
  using Mark = void*;  // a place in a stream, to be given back once

  virtual ~CopyLink() = default;
  // Behind all work that the compute stream was given so far.
  virtual absl::StatusOr<Mark> MarkCompute() = 0;
  // Starts the pieces on the stream of their direction, behind `after` (given back), and marks
  // their end. On failure no piece is under way any more.
  virtual absl::StatusOr<Mark> StartCopy(const CopyRequest& request, Mark after) = 0;
  // Waits for the end of a copy (given back); the seconds that the stream was busy with it.
  virtual absl::StatusOr<double> WaitForCopy(Mark end) = 0;
  // Gives back a mark of MarkCompute that is not needed.
  virtual void Drop(Mark mark) = 0;
};

class CudaBlockCopier final : public BlockCopier {
 public:
  explicit CudaBlockCopier(std::unique_ptr<CopyLink> link);
  ~CudaBlockCopier() override;

  void SetDone(Done done) override;
  void Enqueue(CopyRequest request) override;
  bool Cancel(uint64_t id) override;

 private:
  struct Queued {
    CopyRequest request;
    CopyLink::Mark after = nullptr;
  };
  struct Started {
    CopyResult result;  // as it will be when all goes well
    CopyLink::Mark end = nullptr;
  };
  static constexpr int kDirections = 2;
  // On a stream at a time; what waits behind them can still be cancelled.
  static constexpr size_t kMaxStarted = 4;

  void Run(int direction);
  // Takes what may be started now; waits while there is nothing to do. False: stop.
  bool Take(int direction, size_t started, std::deque<Queued>* taken);

  const std::unique_ptr<CopyLink> link_;
  Mutex mutex_;
  Done done_ ABSL_GUARDED_BY(mutex_);
  std::deque<Queued> queued_[kDirections] ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread threads_[kDirections];  // last: they use all of the above
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_COPIER_CUDA_H_
