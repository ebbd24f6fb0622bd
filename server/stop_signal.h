// SIGINT and SIGTERM as something to wait for. Nothing runs in a signal handler: the signals are
// blocked in every thread, and one thread takes them. Thread-safe.
#ifndef SERVER_STOP_SIGNAL_H_
#define SERVER_STOP_SIGNAL_H_

#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace slim {

class StopSignal {
 public:
  // Blocks the signals for this thread and all that it starts: made first in main. SIGPIPE is
  // ignored from now on.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Asks to stop from inside, e.g. after a fatal error; the first reason wins.
  void Request(const std::string& reason) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until somebody wants to stop, and says why. From then on a further signal ends the
  // process at once, with status 128 + signal.
  std::string Wait() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void TakeSignals();

  absl::Mutex mutex_;
  std::string reason_ ABSL_GUARDED_BY(mutex_);
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last
};

}  // namespace slim

#endif  // SERVER_STOP_SIGNAL_H_
