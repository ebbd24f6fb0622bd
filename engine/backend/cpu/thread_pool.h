// The compute threads of the CPU backend: one loop at a time, shared by the calling thread and
// num_threads - 1 persistent threads that take chunks as they become free.
//
// Thread rule: ParallelFor is called by one thread at a time and not from inside a body. Between
// loops the threads wait on a condition; because the loops of a forward pass follow each other
// within microseconds, they first watch for the next one for at most Options::watch_microseconds.
#ifndef ENGINE_BACKEND_CPU_THREAD_POOL_H_
#define ENGINE_BACKEND_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace slim {

class ThreadPool {
 public:
  struct Options {
    int num_threads = 1;  // the caller counts as one; at least 1
    int watch_microseconds =
        50;  // bound of the busy part of a wait; 0 = wait on the condition at once
  };

  // INVALID_ARGUMENT for num_threads outside [1, 1024], RESOURCE_EXHAUSTED when the system refuses
  // a thread.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Create(const Options& options);
  ~ThreadPool();

  int num_threads() const { return options_.num_threads; }

  // Calls body(begin, end, thread) for disjoint chunks of at most `grain` that cover [0, count);
  // thread is in [0, num_threads) and is not used by two chunks at once. Returns when all is done.
  // Allocates nothing.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    Run({count, grain,
         [](void* context, int64_t begin, int64_t end, int thread) {
           (*static_cast<Plain*>(context))(begin, end, thread);
         },
         const_cast<void*>(static_cast<const void*>(&body))});
  }

 private:
  struct Loop {
    int64_t count = 0;
    int64_t grain = 1;
    void (*call)(void*, int64_t, int64_t, int) = nullptr;
    void* context = nullptr;
  };

  explicit ThreadPool(const Options& options) : options_(options) {}
  void Run(const Loop& loop);
  void Work(const Loop& loop, int thread);
  void ThreadMain(int thread);
  template <typename Condition>
  void Watch(const Condition& condition) const;

  const Options options_;
  std::atomic<int64_t> next_{0};         // first index nobody has taken
  std::atomic<uint64_t> generation_{0};  // counts loops; written under mutex_
  std::atomic<int> joined_{0};           // threads inside the open loop; raised under mutex_
  absl::Mutex mutex_;
  absl::CondVar loop_opened_;
  absl::CondVar thread_left_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;  // threads may still join loop_
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Loop loop_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_THREAD_POOL_H_
