// Looks every second whether the service is what it claims: health follows the worker, and now and
// then a new connection to our own port shows whether connections are still accepted (a process
// that ran out of file descriptors may never accept again, and look fine). Thread-safe; owns its
// thread.
#ifndef SERVER_MONITOR_H_
#define SERVER_MONITOR_H_

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "server/config_values.h"

namespace slim {

class Monitor {
 public:
  struct Options {
    absl::Duration period = absl::Seconds(1);
    absl::Duration probe_period = absl::Seconds(5);
    absl::Duration probe_timeout = absl::Seconds(3);
    int probe_failures = 3;                           // in a row: given up
    ListenAddress probe;                              // a unix socket is not probed
    std::function<bool()> serving;                    // what the health should say
    std::function<void(bool)> set_serving;            // called on changes only
    std::function<void(const std::string&)> give_up;  // called once
  };

  explicit Monitor(Options options);
  ~Monitor();  // stops and joins

  // Whether the last probe got a reaction (true before the first).
  bool reachable() const { return reachable_; }

 private:
  void Run();
  void Probe();

  const Options options_;
  absl::Notification stop_;
  std::atomic<bool> reachable_{true};
  int failures_ = 0;    // in a row; only the thread
  std::thread thread_;  // last
};

// Connects and waits for any reaction to the beginning of an HTTP/2 connection: data, or a close.
// True too when no socket could be had, which says nothing about the server.
bool ReactsToConnection(const ListenAddress& address, absl::Duration timeout);

}  // namespace slim

#endif  // SERVER_MONITOR_H_
