// How many things per second happened lately: a window of whole-second buckets. Not thread-safe;
// time is an argument.
#ifndef SERVER_RATE_WINDOW_H_
#define SERVER_RATE_WINDOW_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace slim {

class RateWindow {
 public:
  static constexpr int kSeconds = 8;

  void Add(absl::Time now, int64_t count) {
    const int64_t second = absl::ToUnixSeconds(now);
    Bucket& bucket = buckets_[Index(second)];
    if (bucket.second != second) bucket = {second, 0};
    bucket.count += count;
    if (first_ == absl::InfiniteFuture()) first_ = now;
  }

  // Per second over the window, or since the first count where that is shorter.
  double PerSecond(absl::Time now) const {
    const int64_t second = absl::ToUnixSeconds(now);
    int64_t sum = 0;
    for (const Bucket& bucket : buckets_) {
      if (bucket.second > second - kSeconds && bucket.second <= second) sum += bucket.count;
    }
    const double since_first = first_ < now ? absl::ToDoubleSeconds(now - first_) : 0.0;
    // The oldest second counts as far as the current one has come, on average: half of it.
    return static_cast<double>(sum) / std::clamp(since_first, 1.0, kSeconds - 0.5);
  }

 private:
  struct Bucket {
    int64_t second = INT64_MIN;
    int64_t count = 0;
  };
  static size_t Index(int64_t second) {
    return static_cast<size_t>(((second % kSeconds) + kSeconds) % kSeconds);
  }
  std::array<Bucket, kSeconds> buckets_;
  absl::Time first_ = absl::InfiniteFuture();
};

}  // namespace slim

#endif  // SERVER_RATE_WINDOW_H_
