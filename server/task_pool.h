// A few threads for work that must not run on gRPC's own callback threads: tokenizing long prompts,
// and writing answers on behalf of the worker. Thread-safe.
#ifndef SERVER_TASK_POOL_H_
#define SERVER_TASK_POOL_H_

#include <functional>
#include <thread>
#include <vector>

#include "engine/base/bounded_queue.h"

namespace slim {

class TaskPool {
 public:
  // `max_waiting`: tasks that may wait; TryPost refuses more.
  TaskPool(int num_threads, size_t max_waiting);
  // Runs what was posted, then joins.
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  // False when too many tasks wait; `task` is left untouched then. A task must not throw.
  bool TryPost(std::function<void()>&& task) { return queue_.TryPush(std::move(task)); }

 private:
  void Run();

  BoundedQueue<std::function<void()>> queue_;
  std::vector<std::thread> threads_;  // last: they use the queue
};

}  // namespace slim

#endif  // SERVER_TASK_POOL_H_
