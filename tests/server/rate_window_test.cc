#include "server/rate_window.h"

#include <gtest/gtest.h>

namespace slim {
namespace {

const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

TEST(RateWindowTest, NothingIsZero) { EXPECT_EQ(RateWindow().PerSecond(kStart), 0); }

TEST(RateWindowTest, SteadyFlowGivesItsRate) {
  RateWindow window;
  for (int i = 0; i < 300; ++i) window.Add(kStart + i * absl::Milliseconds(100), 5);
  EXPECT_NEAR(window.PerSecond(kStart + absl::Seconds(29.95)), 50, 5);
}

TEST(RateWindowTest, ShortHistoryIsNotDiluted) {
  RateWindow window;
  window.Add(kStart, 10);
  window.Add(kStart + absl::Seconds(2), 10);
  EXPECT_NEAR(window.PerSecond(kStart + absl::Seconds(2)), 10, 1e-9);
}

TEST(RateWindowTest, OldCountsAreForgotten) {
  RateWindow window;
  window.Add(kStart, 1000);
  EXPECT_GT(window.PerSecond(kStart + absl::Seconds(5)), 0);
  EXPECT_EQ(window.PerSecond(kStart + absl::Seconds(9)), 0);
  EXPECT_EQ(window.PerSecond(kStart + absl::Hours(1)), 0);
}

}  // namespace
}  // namespace slim
