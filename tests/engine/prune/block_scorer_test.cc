#include "engine/prune/block_scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SelectBlocksTest, ForcedBlocksStayAndTheBestFillTheRest) {
  const std::vector<int32_t> ids = {0, 1, 2, 3, 4, 5};
  const std::vector<float> scores = {0.0f, 0.5f, 0.9f, 0.1f, 0.8f, 0.0f};
  const auto kept = SelectBlocks(ids, scores, {0, 5}, 4);
  ASSERT_TRUE(kept.ok());
  EXPECT_THAT(*kept, ElementsAre(0, 2, 4, 5));
}

TEST(SelectBlocksTest, TiesGoToTheLowerBlock) {
  const std::vector<int32_t> ids = {0, 3, 7, 9};
  const std::vector<float> scores = {1.0f, 0.5f, 0.5f, 0.5f};
  EXPECT_THAT(*SelectBlocks(ids, scores, {9}, 3), ElementsAre(0, 3, 9));
}

TEST(SelectBlocksTest, MoreWantedThanThereAreKeepsAll) {
  EXPECT_THAT(*SelectBlocks({2, 4}, {0.1f, 0.2f}, {2}, 9), ElementsAre(2, 4));
  EXPECT_THAT(*SelectBlocks({2}, {0.1f}, {2}, 1), ElementsAre(2));
}

TEST(SelectBlocksTest, NanIsAnErrorNotARank) {
  const auto kept = SelectBlocks({0, 1}, {0.1f, std::nanf("")}, {0}, 1);
  EXPECT_EQ(kept.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(kept.status().message()), HasSubstr("block 1 is NaN"));
}

TEST(DilateTest, NeighboursLendHalfTheirScoreByBlockId) {
  std::vector<float> scores = {0.0f, 1.0f, 0.0f, 0.2f, 0.0f};
  Dilate({0, 1, 2, 3, 5}, scores);
  // Block 5 has no neighbour in the set; block 2 takes the larger half.
  EXPECT_THAT(scores, ElementsAre(0.5f, 1.0f, 0.5f, 0.2f, 0.0f));
}

TEST(DilateTest, KeepsNan) {
  std::vector<float> scores = {std::nanf(""), 1.0f};
  Dilate({0, 1}, scores);
  EXPECT_TRUE(std::isnan(scores[0]));
}

TEST(DigestTest, DependsOnLayerAndBlocks) {
  const uint64_t a = FoldDigest(kDigestSeed, 8, {1, 2, 3});
  EXPECT_EQ(a, FoldDigest(kDigestSeed, 8, {1, 2, 3}));
  EXPECT_NE(a, FoldDigest(kDigestSeed, 9, {1, 2, 3}));
  EXPECT_NE(a, FoldDigest(kDigestSeed, 8, {1, 2, 4}));
  EXPECT_NE(a, FoldDigest(kDigestSeed, 8, {1, 2}));
  EXPECT_EQ(DigestText(0x1f).size(), 16u);
}

TEST(NegativeControlTest, RecencyAndRandomNeedNoKeys) {
  PruneSchedule schedule;
  BlockScoreArgs args;
  const std::vector<int32_t> ids = {0, 4, 9};
  args.block_ids = ids;
  Backend* const none = nullptr;  // must not be asked
  schedule.score_kind = ScoreKind::kRecency;
  EXPECT_THAT(*ComputeScores(schedule, args, none), ElementsAre(0.0f, 4.0f, 9.0f));
  schedule.score_kind = ScoreKind::kRandom;
  const auto first = *ComputeScores(schedule, args, none);
  EXPECT_EQ(first, *ComputeScores(schedule, args, none));
  schedule.random_seed = 1;
  EXPECT_NE(first, *ComputeScores(schedule, args, none));
  for (const float score : first) EXPECT_TRUE(score >= 0 && score < 1);
}

}  // namespace
}  // namespace slim
