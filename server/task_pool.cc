#include "server/task_pool.h"

#include <utility>

namespace slim {

TaskPool::TaskPool(int num_threads, size_t max_waiting) : queue_(max_waiting) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

TaskPool::~TaskPool() {
  queue_.Close();
  for (std::thread& thread : threads_) thread.join();
}

void TaskPool::Run() {
  while (auto task = queue_.Pop()) (*task)();
}

}  // namespace slim
