// Time as an argument: everything that waits or expires takes a Clock, so that tests need no sleep.
#ifndef ENGINE_BASE_CLOCK_H_
#define ENGINE_BASE_CLOCK_H_

#include <chrono>

#include "absl/time/time.h"

namespace slim {

// Thread-safe. Now() never goes backwards and has no relation to the time of day: a change of the
// system clock cannot expire a request.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// The steady clock of the machine.
class SteadyClock final : public Clock {
 public:
  absl::Time Now() const override {
    return absl::UnixEpoch() +
           absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
};

// Moves only when told to. Not thread-safe: for single-threaded tests.
class FakeClock final : public Clock {
 public:
  absl::Time Now() const override { return now_; }
  void Advance(absl::Duration duration) { now_ += duration; }

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

}  // namespace slim

#endif  // ENGINE_BASE_CLOCK_H_
