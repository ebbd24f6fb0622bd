#include "engine/backend/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace slim {
namespace {

// A few cycles between two looks. Not the PAUSE instruction: a hypervisor that watches for it takes
// the processor away in the middle of a wait of a microsecond.
inline void Relax() { __asm__ volatile("nop; nop; nop; nop" ::: "memory"); }

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
  stop_.store(true);
  state_.store((LoopNumber(state_.load()) + 1) << 32);
  {
    absl::MutexLock lock(&mutex_);
    loop_opened_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

// True when the condition came to hold within the bound.
template <typename Condition>
bool ThreadPool::Watch(const Condition& condition) const {
  if (options_.watch_microseconds <= 0) return condition();
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::microseconds(options_.watch_microseconds);
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      Relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

void ThreadPool::DealShares(const Loop& loop) {
  const int64_t chunks = (loop.count + loop.grain - 1) / loop.grain;
  for (int t = 0; t < options_.num_threads; ++t) {
    const auto boundary = [&](int64_t share) {
      return std::min(loop.count, chunks * share / options_.num_threads * loop.grain);
    };
    shares_[t].next.store(boundary(t), std::memory_order_relaxed);
    shares_[t].end = boundary(t + 1);
  }
}

// The own share first, then what the others have left.
void ThreadPool::Work(const Loop& loop, int thread) {
  const int threads = options_.num_threads;
  for (int i = 0; i < threads; ++i) {
    Share& share = shares_[(thread + i) % threads];
    while (true) {
      const int64_t begin = share.next.fetch_add(loop.grain, std::memory_order_relaxed);
      if (begin >= share.end) break;
      loop.call(loop.context, begin, std::min(share.end, begin + loop.grain), thread);
    }
  }
}

bool ThreadPool::AloneRule::RunAlone() {
  if (alone_loops_ == 0) return false;
  --alone_loops_;
  return true;
}

void ThreadPool::AloneRule::Add(int num_threads, std::chrono::nanoseconds worked,
                                std::chrono::nanoseconds waited) {
  worked_ += worked;
  waited_ += waited;
  if (++shared_loops_ < kWindow) return;
  // Alone, the others' shares would take about as long as the own one, each.
  if (waited_ > (num_threads - 1) * worked_ + std::chrono::milliseconds(1)) {
    alone_loops_ = next_alone_;
    next_alone_ = std::min(2 * next_alone_, kMostAlone);
  } else {
    next_alone_ = kFewestAlone;
  }
  worked_ = waited_ = std::chrono::nanoseconds(0);
  shared_loops_ = 0;
}

void ThreadPool::Run(const Loop& loop) {
  if (loop.count <= 0) return;
  if (threads_.empty() || loop.count <= loop.grain || alone_.RunAlone()) {
    for (int64_t begin = 0; begin < loop.count; begin += loop.grain) {
      loop.call(loop.context, begin, std::min(loop.count, begin + loop.grain), 0);
    }
    return;
  }
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  loop_ = loop;
  DealShares(loop);
  state_.store(((LoopNumber(state_.load()) + 1) << 32) | kOpen);
  if (sleeping_threads_.load() > 0) {
    absl::MutexLock lock(&mutex_);
    loop_opened_.SignalAll();
  }
  Work(loop, 0);
  const Clock::time_point worked = Clock::now();
  // A thread that has not woken up yet finds the loop closed and is not waited for.
  state_.fetch_and(~kOpen);
  WaitUntilAllLeft();
  alone_.Add(options_.num_threads, worked - start, Clock::now() - worked);
}

void ThreadPool::WaitUntilAllLeft() {
  const auto all_left = [this] { return (state_.load() & kInside) == 0; };
  if (Watch(all_left)) return;
  absl::MutexLock lock(&mutex_);
  caller_sleeps_.store(true);
  while (!all_left()) all_left_.Wait(&mutex_);
  caller_sleeps_.store(false);
}

void ThreadPool::WaitForLoopAfter(uint64_t number) {
  const auto changed = [this, number] { return LoopNumber(state_.load()) != number; };
  if (Watch(changed)) return;
  absl::MutexLock lock(&mutex_);
  sleeping_threads_.fetch_add(1);
  while (!changed()) loop_opened_.Wait(&mutex_);
  sleeping_threads_.fetch_sub(1);
}

void ThreadPool::ThreadMain(int thread) {
  uint64_t seen = 0;
  while (true) {
    WaitForLoopAfter(seen);
    if (stop_.load()) return;
    uint64_t state = state_.load();
    while ((state & kOpen) != 0 && !state_.compare_exchange_weak(state, state + 1)) {
    }
    seen = LoopNumber(state);
    if ((state & kOpen) == 0) continue;
    Work(loop_, thread);
    const uint64_t before = state_.fetch_sub(1);
    if ((before & kInside) == 1 && caller_sleeps_.load()) {
      absl::MutexLock lock(&mutex_);
      all_left_.Signal();
    }
  }
}

}  // namespace slim
