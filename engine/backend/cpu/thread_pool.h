// The CPU backend's own compute threads: one parallel loop at a time, the caller takes part.
// Thread rule: ParallelFor by one thread at a time. Between loops the workers look out for the next
// one for some microseconds (a layer has many short loops), then sleep until they are woken.
#ifndef ENGINE_BACKEND_CPU_THREAD_POOL_H_
#define ENGINE_BACKEND_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace slim {

class ThreadPool {
 public:
  // num_threads >= 1 counts the caller: num_threads - 1 are started.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls work(task, thread) for every task in [0, num_tasks), thread in [0, num_threads), and
  // returns when all are done. Tasks are handed out in ascending order to whoever is free.
  void ParallelFor(int64_t num_tasks, absl::FunctionRef<void(int64_t task, int thread)> work);

 private:
  void Loop(int thread);
  void TakeTasks(int thread);

  using Work = absl::FunctionRef<void(int64_t, int)>;
  const Work* work_ = nullptr;
  int64_t num_tasks_ = 0;
  std::atomic<int64_t> next_task_{0};
  std::atomic<int> busy_{0};        // workers that have not finished the current loop
  std::atomic<uint32_t> epoch_{0};  // counts loops
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;  // last member: they use all of the above
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_THREAD_POOL_H_
