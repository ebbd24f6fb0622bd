// A bounded multi-producer multi-consumer queue between threads. Thread-safe.
// Producers never block: a full queue is an answer (false), not a wait.
#ifndef ENGINE_BASE_BOUNDED_QUEUE_H_
#define ENGINE_BASE_BOUNDED_QUEUE_H_

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace slim {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // Appends and returns true; returns false, leaving `item` untouched, when full or closed.
  bool TryPush(T&& item) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    if (closed_ || items_.size() >= capacity_) return false;
    items_.push_back(std::move(item));
    mutex_.NotifyAll();
    return true;
  }

  // Removes the oldest item; waits until there is one. Empty when closed and drained.
  std::optional<T> Pop() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    while (!HasItemOrClosed()) mutex_.Wait();
    return TakeFront();
  }

  // As Pop, but gives up after `timeout` and returns empty.
  std::optional<T> PopWithTimeout(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    const SteadyClock clock;
    const absl::Time give_up = clock.Now() + timeout;
    while (!HasItemOrClosed()) {
      const absl::Duration left = give_up - clock.Now();
      if (left <= absl::ZeroDuration()) break;
      mutex_.WaitWithTimeout(left);
    }
    return TakeFront();
  }

  // Removes the oldest item if there is one; never waits.
  std::optional<T> TryPop() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return TakeFront();
  }

  // No push succeeds from now on; waiting consumers drain what is left, then get empty.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    closed_ = true;
    mutex_.NotifyAll();
  }

  size_t size() const ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return items_.size();
  }

 private:
  bool HasItemOrClosed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || !items_.empty();
  }
  std::optional<T> TakeFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  const size_t capacity_;
  mutable Mutex mutex_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace slim

#endif  // ENGINE_BASE_BOUNDED_QUEUE_H_
