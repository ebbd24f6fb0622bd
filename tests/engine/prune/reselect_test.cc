#include "engine/prune/reselect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace slim {
namespace {

using ::testing::ElementsAre;

// Recency scores need no keys, so the reselector can be driven without a backend: which blocks a
// query sees decides what it scores.
class ReselectTest : public ::testing::Test {
 protected:
  static PruneSchedule Schedule(int window, double gamma) {
    PruneSchedule schedule;
    schedule.score_kind = ScoreKind::kRecency;
    schedule.window_tokens = window;
    schedule.gamma = gamma;
    return schedule;
  }
  static void Add(Reselector& reselector, std::vector<int32_t> visible) {
    BlockScoreArgs args;
    args.block_ids = visible;
    Backend* const none = nullptr;
    ASSERT_TRUE(reselector.AddQuery(args, none).ok());
  }
};

TEST_F(ReselectTest, TheFirstChoiceAlwaysSetsTheActiveBlocks) {
  Reselector reselector(Schedule(2, 0.9), {0, 2, 4, 6, 8}, {0}, 3);
  Add(reselector, {0, 1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_TRUE(*reselector.Update());
  EXPECT_THAT(reselector.active(), ElementsAre(0, 6, 8));
  EXPECT_FALSE(*reselector.Update());
}

TEST_F(ReselectTest, SwapsWhenTheOverlapFallsBelowGamma) {
  Reselector reselector(Schedule(1, 0.9), {0, 2, 4, 6, 8}, {0}, 3);
  Add(reselector, {0, 2, 4, 6, 8});
  ASSERT_TRUE(*reselector.Update());
  Add(reselector, {0, 2, 4});  // 6 and 8 are not scored: candidates 0, 2, 4 overlap by a third
  EXPECT_TRUE(*reselector.Update());
  EXPECT_THAT(reselector.active(), ElementsAre(0, 2, 4));
}

TEST_F(ReselectTest, KeepsTheActiveBlocksWhileTheOverlapIsLargeEnough) {
  Reselector reselector(Schedule(1, 0.6), {0, 2, 4, 6, 8}, {0}, 3);
  Add(reselector, {0, 2, 4, 6, 8});
  ASSERT_TRUE(*reselector.Update());
  Add(reselector, {0, 2, 4, 6});  // candidates 0, 4, 6 overlap with 0, 6, 8 by two thirds
  EXPECT_FALSE(*reselector.Update());
  EXPECT_THAT(reselector.active(), ElementsAre(0, 6, 8));
}

TEST_F(ReselectTest, RemembersTheWindowAndNoMore) {
  Reselector reselector(Schedule(2, 1.0), {0, 2, 4, 6, 8}, {0}, 2);
  Add(reselector, {0, 8});
  Add(reselector, {0, 2});
  ASSERT_TRUE(*reselector.Update());
  EXPECT_THAT(reselector.active(), ElementsAre(0, 8));  // the older query still counts
  Add(reselector, {0, 2});
  ASSERT_TRUE(*reselector.Update());
  EXPECT_THAT(reselector.active(), ElementsAre(0, 2));
}

}  // namespace
}  // namespace slim
