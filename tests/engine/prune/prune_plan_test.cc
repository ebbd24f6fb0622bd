#include "engine/prune/prune_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

PruneSchedule Schedule(std::vector<PruneStage> stages) {
  PruneSchedule schedule;
  schedule.stages = std::move(stages);
  return schedule;
}

TEST(ForcedBlocksTest, SinkAndLocalBlocksAscendWithoutOverlap) {
  PruneSchedule schedule;  // 1 sink block, 128 local tokens, window 24
  EXPECT_THAT(ForcedBlocks(schedule, 64, 1000), ElementsAre(0, 13, 14, 15));
  // 1000 - 128 = 872 = 13.6 blocks: block 13 holds the first local token.
  EXPECT_THAT(ForcedBlocks(schedule, 64, 64), ElementsAre(0));
  EXPECT_THAT(ForcedBlocks(schedule, 64, 65), ElementsAre(0, 1));
  EXPECT_THAT(ForcedBlocks(schedule, 64, 63), ElementsAre(0));
}

TEST(ForcedBlocksTest, TheWindowIsForcedEvenWithoutLocalTokens) {
  PruneSchedule schedule;
  schedule.local_tokens = 0;
  schedule.sink_blocks = 0;
  EXPECT_THAT(ForcedBlocks(schedule, 32, 1024), ElementsAre(31));
  EXPECT_THAT(ForcedBlocks(schedule, 32, 1030), ElementsAre(31, 32));
}

TEST(ResolvePlanTest, NoStagesIsOneDenseSegment) {
  const auto plan = ResolvePlan(PruneSchedule{}, 30, 32, 1000);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].first_layer, 0);
  EXPECT_EQ(plan[0].end_layer, 30);
  EXPECT_EQ(plan[0].num_blocks, 32);
  EXPECT_EQ(plan[0].num_tokens, 1000);
}

TEST(ResolvePlanTest, StagesCutLayersIntoSegmentsWithExactTokenCounts) {
  const auto plan = ResolvePlan(Schedule({{8, 1024}, {15, 512}, {19, 416}}), 30, 32, 4001);
  ASSERT_EQ(plan.size(), 4u);
  EXPECT_EQ(plan[0].end_layer, 8);
  EXPECT_EQ(plan[0].num_blocks, 126);
  EXPECT_EQ(plan[0].num_tokens, 4001);
  EXPECT_EQ(plan[1].first_layer, 8);
  EXPECT_EQ(plan[1].end_layer, 15);
  EXPECT_EQ(plan[1].num_blocks, 32);
  // The last block holds 1 of 32 tokens and is always retained.
  EXPECT_EQ(plan[1].num_tokens, 1024 - 31);
  EXPECT_EQ(plan[2].num_blocks, 16);
  EXPECT_EQ(plan[3].num_blocks, 14);  // raised: 6 forced blocks and 256 tokens to choose
  EXPECT_EQ(plan[3].end_layer, 30);
}

TEST(ResolvePlanTest, BudgetsThatDropNothingAreLeftOut) {
  for (const int64_t n : {63, 64, 65, 1024}) {
    EXPECT_EQ(ResolvePlan(Schedule({{8, 1024}}), 30, 64, n).size(), 1u) << n;
  }
  const auto plan = ResolvePlan(Schedule({{8, 1024}}), 30, 64, 1025);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[1].num_blocks, 16);
  EXPECT_EQ(plan[1].num_tokens, 1024 - 63);
}

TEST(ResolvePlanTest, EqualBudgetsMergeIntoOneStage) {
  const auto plan = ResolvePlan(Schedule({{8, 1024}, {15, 1024}}), 30, 32, 5000);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[1].first_layer, 8);
  EXPECT_EQ(plan[1].end_layer, 30);
}

TEST(ResolvePlanTest, ATinyBudgetIsRaisedSoThatSomethingCanBeChosen) {
  // Forced: sink block and 128 local tokens of 32 = 1 + 4 blocks; 256 / 32 = 8 chosen.
  const auto plan = ResolvePlan(Schedule({{8, 32}}), 30, 32, 4096);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[1].num_blocks, 13);
  EXPECT_EQ(plan[1].forced_blocks, 5);
}

TEST(ResolvePlanTest, ShortPromptsAreNotPruned) {
  PruneSchedule schedule = Schedule({{8, 512}});
  schedule.min_prompt_tokens = 2000;
  EXPECT_EQ(ResolvePlan(schedule, 30, 32, 1999).size(), 1u);
  EXPECT_EQ(ResolvePlan(schedule, 30, 32, 2000).size(), 2u);
}

TEST(ResolvePlanTest, RetainedSetsNeverGrow) {
  for (int64_t n = 1; n < 3000; n += 37) {
    const auto plan = ResolvePlan(Schedule({{2, 1024}, {4, 512}, {6, 64}}), 8, 32, n);
    for (size_t s = 1; s < plan.size(); ++s) {
      EXPECT_LT(plan[s].num_blocks, plan[s - 1].num_blocks);
      EXPECT_LT(plan[s].num_tokens, plan[s - 1].num_tokens);
      EXPECT_GT(plan[s].num_tokens, 0);
      EXPECT_EQ(plan[s].first_layer, plan[s - 1].end_layer);
    }
    EXPECT_EQ(plan.back().end_layer, 8);
  }
}

TEST(ValidateScheduleTest, NamesFieldValueAndRange) {
  const auto message = [](const PruneSchedule& schedule) {
    const absl::Status status = ValidateSchedule(schedule, 30, 32, 8192);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_TRUE(ValidateSchedule(Schedule({{8, 1024}, {14, 512}}), 30, 32, 8192).ok());
  EXPECT_THAT(message(Schedule({{0, 1024}})), HasSubstr("stages.layer is 0"));
  EXPECT_THAT(message(Schedule({{30, 1024}})), HasSubstr("1 to 29"));
  EXPECT_THAT(message(Schedule({{8, 1024}, {8, 512}})), HasSubstr("strictly increasing"));
  EXPECT_THAT(message(Schedule({{8, 1000}})), HasSubstr("budget_tokens is 1000"));
  EXPECT_THAT(message(Schedule({{8, 512}, {9, 1024}})), HasSubstr("non-increasing"));
  PruneSchedule schedule;
  schedule.gamma = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(message(schedule), HasSubstr("gamma"));
  schedule = PruneSchedule{};
  schedule.sink_blocks = -1;
  EXPECT_THAT(message(schedule), HasSubstr("sink_blocks is -1"));
  schedule = PruneSchedule{};
  schedule.window_tokens = 0;
  EXPECT_THAT(message(schedule), HasSubstr("window_tokens is 0"));
  schedule = PruneSchedule{};
  schedule.local_tokens = 8193;
  EXPECT_THAT(message(schedule), HasSubstr("0 to 8192"));
}

}  // namespace
}  // namespace slim
