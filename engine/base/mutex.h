// A mutex with its condition variable, annotated for clang's thread-safety analysis. Thread-safe.
//
// Why not absl::Mutex: Debian's Abseil is a shared library without instrumentation, so
// ThreadSanitizer does not see its locks and reports everything they guard. pthread's it sees.
// Waiting is a loop in the caller: `while (!ready) mutex.Wait();`, and whoever makes `ready` true
// calls NotifyAll() with the mutex held.
#ifndef ENGINE_BASE_MUTEX_H_
#define ENGINE_BASE_MUTEX_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace slim {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

  // Releases the mutex, waits for NotifyAll (or, rarely, nothing), and takes it again.
  void Wait() ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // As Wait, for at most `timeout`; the infinite duration waits without a limit.
  void WaitWithTimeout(absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
    // A day is as good as for ever, and cannot overflow the clock.
    timeout = std::clamp(timeout, absl::ZeroDuration(), absl::Hours(24));
    condition_.wait_for(lock, absl::ToChronoNanoseconds(timeout));
    lock.release();
  }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace slim

#endif  // ENGINE_BASE_MUTEX_H_
