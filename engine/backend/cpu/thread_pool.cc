#include "engine/backend/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace slim {
namespace {

inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

absl::StatusOr<std::unique_ptr<ThreadPool>> ThreadPool::Create(const Options& options) {
  if (!(options.num_threads >= 1 && options.num_threads <= 1024)) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_threads is ", options.num_threads, ", allowed are 1 to 1024"));
  }
  std::unique_ptr<ThreadPool> pool(new ThreadPool(options));
  pool->threads_.reserve(options.num_threads - 1);
  for (int i = 1; i < options.num_threads; ++i) {
    try {
      pool->threads_.emplace_back([p = pool.get(), i] { p->ThreadMain(i); });
    } catch (const std::system_error& error) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "compute thread ", i, " of ", options.num_threads, " not started: ", error.what()));
    }
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    loop_opened_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

// Returns when the condition holds or the bound has passed; the caller checks again under the lock.
template <typename Condition>
void ThreadPool::Watch(const Condition& condition) const {
  if (options_.watch_microseconds <= 0) return;
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::microseconds(options_.watch_microseconds);
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return;
      Relax();
    }
  } while (std::chrono::steady_clock::now() < end);
}

void ThreadPool::Work(const Loop& loop, int thread) {
  while (true) {
    const int64_t begin = next_.fetch_add(loop.grain, std::memory_order_relaxed);
    if (begin >= loop.count) return;
    loop.call(loop.context, begin, std::min(loop.count, begin + loop.grain), thread);
  }
}

void ThreadPool::Run(const Loop& loop) {
  if (loop.count <= 0) return;
  if (threads_.empty() || loop.count <= loop.grain) {
    loop.call(loop.context, 0, loop.count, 0);
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    next_.store(0, std::memory_order_relaxed);
    loop_ = loop;
    open_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    loop_opened_.SignalAll();
  }
  Work(loop, 0);
  {
    // A thread that has not woken up yet finds the loop closed and is not waited for.
    absl::MutexLock lock(&mutex_);
    open_ = false;
  }
  Watch([this] { return joined_.load(std::memory_order_acquire) == 0; });
  absl::MutexLock lock(&mutex_);
  while (joined_.load(std::memory_order_acquire) != 0) thread_left_.Wait(&mutex_);
}

void ThreadPool::ThreadMain(int thread) {
  uint64_t seen = 0;
  while (true) {
    Watch([&] { return generation_.load(std::memory_order_acquire) != seen; });
    Loop loop;
    {
      absl::MutexLock lock(&mutex_);
      while (!stop_ && generation_.load(std::memory_order_relaxed) == seen) {
        loop_opened_.Wait(&mutex_);
      }
      if (stop_) return;
      seen = generation_.load(std::memory_order_relaxed);
      if (!open_) continue;
      loop = loop_;
      joined_.fetch_add(1, std::memory_order_relaxed);
    }
    Work(loop, thread);
    if (joined_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      absl::MutexLock lock(&mutex_);
      thread_left_.Signal();
    }
  }
}

}  // namespace slim
