#include "engine/base/clock.h"

#include <gtest/gtest.h>

#include "absl/time/time.h"

namespace slim {
namespace {

TEST(ClockTest, SteadyClockNeverGoesBackwards) {
  const SteadyClock clock;
  absl::Time before = clock.Now();
  EXPECT_LT(absl::UnixEpoch(), before);
  EXPECT_LT(before, absl::InfiniteFuture());
  for (int i = 0; i < 10'000; ++i) {
    const absl::Time now = clock.Now();
    ASSERT_LE(before, now);
    before = now;
  }
}

TEST(ClockTest, FakeClockMovesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Milliseconds(1500));
  EXPECT_EQ(clock.Now() - start, absl::Milliseconds(1500));
  clock.Advance(absl::ZeroDuration());
  EXPECT_EQ(clock.Now() - start, absl::Milliseconds(1500));
  EXPECT_GT(start, absl::UnixEpoch()) << "a deadline before the start must be possible";
}

}  // namespace
}  // namespace slim
