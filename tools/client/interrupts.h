// Ctrl-C and SIGTERM for a program that waits for a server. Nothing runs in a signal handler: the
// signals are blocked in every thread, and one thread of this object takes them.
//
// Without an action a signal ends the process at once, with status 128 + signal (130 for Ctrl-C).
// With one (an RPC that can be cancelled), the first signal runs the action, the next ends the
// process. Thread-safe.
#ifndef TOOLS_CLIENT_INTERRUPTS_H_
#define TOOLS_CLIENT_INTERRUPTS_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace slim {

class Interrupts {
 public:
  // Made first in main: blocks the signals for this thread and all that it starts.
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While it lives, the first signal calls `action` (on the signal thread) instead of ending the
  // process. One at a time.
  class Scope {
   public:
    Scope(Interrupts* interrupts, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    // The signal that came, 0 for none.
    int signal() const;

   private:
    Interrupts* const interrupts_;
  };

 private:
  void TakeSignals() ABSL_LOCKS_EXCLUDED(mutex_);
  // Runs the action or ends the process.
  void HandleSignal(int signal) ABSL_LOCKS_EXCLUDED(mutex_);

  mutable absl::Mutex mutex_;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
  int signal_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last
};

}  // namespace slim

#endif  // TOOLS_CLIENT_INTERRUPTS_H_
