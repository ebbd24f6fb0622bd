// The size of the prefill steps of a request that nothing shares the processor with.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/scheduler.h"

namespace slim {
namespace {

constexpr double kLayers = 10;
const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

// Prompts of many rows that cost kLayers each.
class LoneStepTest : public ::testing::Test {
 protected:
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.kv_capacity_slabs = 1000;
    options.max_layer_slabs_per_step = 1000;
    options.prefill_chunk_tokens = 256;
    options.prefill_step_cost = 256 * kLayers;
    options.chunk_multiple_tokens = 32;
    options.lone_step_factor = 4;
    options.lone_step_time = absl::Milliseconds(500);
    options.company_memory = absl::Seconds(10);
    return options;
  }
  void Arrive(uint64_t key, absl::Time when, int64_t rows = 100000, double row_cost = kLayers) {
    Scheduler::Entry entry;
    entry.key = RequestKey{key};
    entry.prompt_tokens = rows;
    entry.kv = {1, 1};
    entry.arrival = when;
    ASSERT_TRUE(scheduler_.Enqueue(entry, when).ok());
    for (const RequestKey admitted : scheduler_.TakeAdmitted()) {
      scheduler_.StartPrefill(admitted, {rows, row_cost});
    }
  }
  void Leave(uint64_t key) { scheduler_.Remove(RequestKey{key}); }
  // Rows of the next step, which is prefill of one request and takes `time`.
  int64_t Rows(absl::Time when, absl::Duration time = absl::ZeroDuration()) {
    const Scheduler::Plan plan = scheduler_.NextStep([](RequestKey) { return true; }, when);
    scheduler_.StepTook(time);
    return plan.prefill.size() == 1 ? plan.prefill[0].rows : -1;
  }
  Scheduler scheduler_{Options()};
};

TEST_F(LoneStepTest, StepsGrowUpToTheFactorAndTheTime) {
  Arrive(1, kStart);
  EXPECT_EQ(Rows(kStart, absl::Milliseconds(100)), 256) << "nothing known about the speed";
  EXPECT_EQ(Rows(kStart, absl::Milliseconds(1000)), 4 * 256);
  EXPECT_EQ(Rows(kStart, absl::Milliseconds(307)), 2 * 256) << "1024 rows took a second";
  EXPECT_EQ(Rows(kStart, absl::Seconds(2)), 832) << "833 rows fit, steps are multiples of 32";
  EXPECT_EQ(Rows(kStart), 256) << "never below a step in company";
}

TEST_F(LoneStepTest, CompanyMakesThemShortForAWhile) {
  const auto after = [](int seconds) { return kStart + absl::Seconds(seconds); };
  Arrive(1, kStart);
  EXPECT_EQ(Rows(kStart, absl::Milliseconds(100)), 256);
  EXPECT_EQ(Rows(after(1)), 4 * 256);
  Arrive(2, after(1));
  EXPECT_EQ(Rows(after(1)), 256);
  EXPECT_EQ(Rows(after(30)), 256) << "still two";
  Leave(2);
  EXPECT_EQ(Rows(after(39)), 256) << "the last step of both was nine seconds ago";
  EXPECT_EQ(Rows(after(40)), 4 * 256);
  // One after the other is no company, even where they meet between two steps.
  Arrive(3, after(41));
  Leave(1);
  EXPECT_EQ(Rows(after(41)), 4 * 256);
}

TEST_F(LoneStepTest, OnlyWholePrefillStepsTellTheSpeed) {
  Arrive(1, kStart);
  EXPECT_EQ(Rows(kStart, absl::Milliseconds(100)), 256);
  scheduler_.UpdatePrefill(RequestKey{1}, {0, 0});
  EXPECT_EQ(Rows(kStart, absl::Seconds(100)), -1) << "a decode step";
  Leave(1);
  Arrive(2, kStart, /*rows=*/20);
  EXPECT_EQ(Rows(kStart, absl::Seconds(100)), 20) << "a few rows";
  Leave(2);
  Arrive(3, kStart);
  EXPECT_EQ(Rows(kStart), 4 * 256);
}

// The first segment of a pruned prompt has few layers.
TEST_F(LoneStepTest, WholeChunksThatCostLittleTellTheSpeedToo) {
  Arrive(1, kStart, 100000, 0.25 * kLayers);
  EXPECT_EQ(Rows(kStart, absl::Milliseconds(50)), 256);
  EXPECT_EQ(Rows(kStart, absl::Seconds(1)), 640) << "2.5 times the cost of a step in half a second";
  EXPECT_EQ(Rows(kStart), 256);
}

}  // namespace
}  // namespace slim
