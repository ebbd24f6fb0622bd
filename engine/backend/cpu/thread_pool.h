// The compute threads of the CPU backend: one loop at a time, shared by the calling thread and
// num_threads - 1 persistent threads. Each thread has a share of the loop, the same part of the
// range every time, and takes chunks of other shares when its own is done: what one loop wrote, the
// next one mostly finds in the cache of the same core.
//
// On processors that others keep busy, a thread may lose its processor in the middle of a chunk and
// every loop then waits for it. When waiting costs more than the other threads' help is worth, the
// caller runs the next loops alone, and tries again from time to time; results do not change.
//
// Thread rule: ParallelFor is called by one thread at a time and not from inside a body. Between
// loops the threads wait on a condition; because the loops of a forward pass follow each other
// within microseconds, they first watch for the next one for at most Options::watch_microseconds.
#ifndef ENGINE_BACKEND_CPU_THREAD_POOL_H_
#define ENGINE_BACKEND_CPU_THREAD_POOL_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

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

  // Decides from the times of the last loops whether the caller should run alone for a while.
  class AloneRule {
   public:
    // Whether the next loop is the caller's alone.
    bool RunAlone();
    // A shared loop took the caller `worked` and then `waited` for the other threads.
    void Add(int num_threads, std::chrono::nanoseconds worked, std::chrono::nanoseconds waited);

   private:
    std::chrono::nanoseconds worked_{0}, waited_{0};
    int shared_loops_ = 0;  // in the two sums
    int alone_loops_ = 0;   // still to come
    int next_alone_ = kFewestAlone;
    static constexpr int kFewestAlone = 64;
    static constexpr int kMostAlone = 1024;
    static constexpr int kWindow = 16;
  };

  // A thread's part of the loop; anybody takes chunks from it.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};  // first index nobody has taken
    int64_t end = 0;
  };

  // state_: number of the loop << 32 | kOpen while threads may join | threads inside.
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kInside = kOpen - 1;
  static constexpr uint64_t LoopNumber(uint64_t state) { return state >> 32; }

  explicit ThreadPool(const Options& options)
      : options_(options), shares_(new Share[options.num_threads]) {}
  void DealShares(const Loop& loop);
  void Run(const Loop& loop);
  void Work(const Loop& loop, int thread);
  void WaitUntilAllLeft();
  void WaitForLoopAfter(uint64_t number);
  void ThreadMain(int thread);
  template <typename Condition>
  bool Watch(const Condition& condition) const;

  const Options options_;
  AloneRule alone_;
  // The loop's fields are written by the caller while the state is closed and nobody is inside;
  // opening it (release) and joining it (acquire) make them visible. Results go back the same way:
  // leaving (release), the caller seeing nobody inside (acquire).
  Loop loop_;
  alignas(64) std::atomic<uint64_t> state_{0};
  const std::unique_ptr<Share[]> shares_;  // one per thread, written like loop_
  // Sleeping: whoever is about to sleep says so, then looks again under the mutex; whoever changes
  // the state then looks whether somebody sleeps. Both sequentially consistent, so that one of the
  // two sees the other.
  alignas(64) std::atomic<int> sleeping_threads_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  absl::Mutex mutex_;
  absl::CondVar loop_opened_;
  absl::CondVar all_left_;
  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_THREAD_POOL_H_
