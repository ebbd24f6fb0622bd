#include "tools/common/explain_page.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// Five blocks of 4 tokens, the last one partial; stage 1 keeps 0, 2, 4, stage 2 keeps 0, 4.
ExplainReport TwoStages() {
  ExplainReport report;
  report.answer = "forty-two";
  report.prompt_tokens = 18;
  report.pruned_tokens = 12;
  report.block_tokens = 4;
  report.digest = "00ff";
  ExplainStage first;
  first.layer = 8;
  first.block_ids = {0, 2, 4};
  first.scores = {0.5f, 0.1f, 0.4f, 0.2f, 0.3f};
  ExplainStage second;
  second.layer = 15;
  second.block_ids = {0, 4};
  second.scores = {0.9f, 0.6f, 0.7f};
  report.stages = {first, second};
  report.block_texts = {"zero", "one", "two", "three", "four"};
  return report;
}

TEST(EscapeHtmlTest, ReplacesWhatHtmlWouldRead) {
  EXPECT_EQ(EscapeHtml("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(EscapeHtml("plain \xc3\xa9"), "plain \xc3\xa9");
}

TEST(BlockFatesTest, FollowsEveryBlockThroughTheStages) {
  const std::vector<BlockFate> fates = BlockFates(TwoStages());
  ASSERT_EQ(fates.size(), 5u);
  EXPECT_EQ(fates[0].dropped_at, 2);
  EXPECT_EQ(fates[1].dropped_at, 0);
  EXPECT_EQ(fates[2].dropped_at, 1);
  EXPECT_EQ(fates[3].dropped_at, 0);
  EXPECT_EQ(fates[4].dropped_at, 2);
  EXPECT_THAT(fates[2].scores, ElementsAre(0.4f, 0.6f));
  EXPECT_THAT(fates[1].scores, ElementsAre(0.1f));
  // Shades are ranks within the stage that scored the block last.
  EXPECT_DOUBLE_EQ(fates[1].shade, 0);
  EXPECT_DOUBLE_EQ(fates[3].shade, 0.25);
  EXPECT_DOUBLE_EQ(fates[2].shade, 0);
  EXPECT_DOUBLE_EQ(fates[0].shade, 1);
}

TEST(BlockFatesTest, IgnoresWhatDoesNotFitThePrompt) {
  ExplainReport report = TwoStages();
  report.stages[0].block_ids = {-1, 0, 0, 99, 2};
  report.stages[0].scores = {std::numeric_limits<float>::quiet_NaN()};
  report.stages[1].block_ids = {3};  // was dropped by the stage before
  report.stages[1].scores.assign(50, 1.0f);
  const std::vector<BlockFate> fates = BlockFates(report);
  EXPECT_EQ(fates[0].dropped_at, 1);
  EXPECT_EQ(fates[2].dropped_at, 1);
  EXPECT_EQ(fates[3].dropped_at, 0);
}

TEST(BlockFatesTest, IsEmptyWithoutABlockSize) {
  ExplainReport report = TwoStages();
  report.block_tokens = 0;
  EXPECT_TRUE(BlockFates(report).empty());
}

TEST(RenderExplainPageTest, ShowsBlocksStagesAndAnswer) {
  const std::string html = RenderExplainPage(TwoStages());
  EXPECT_THAT(html, HasSubstr("block 3, tokens 12 to 15: dropped before layer 8 (stage 1)"));
  EXPECT_THAT(html, HasSubstr("block 4, tokens 16 to 17: kept in every layer"));
  EXPECT_THAT(html, HasSubstr("score at stage 2: 0.6"));
  EXPECT_THAT(html, HasSubstr(">three</span>"));
  EXPECT_THAT(html, HasSubstr("forty-two"));
}

TEST(RenderExplainPageTest, EscapesAllThatComesFromOutside) {
  ExplainReport report = TwoStages();
  const std::string evil = "\"><script>alert(1)</script>";
  report.block_texts[1] = evil;
  report.answer = evil;
  report.profile = evil;
  report.digest = evil;
  report.note = evil;
  EXPECT_THAT(RenderExplainPage(report), Not(HasSubstr("<script")));
}

TEST(RenderExplainPageTest, LoadsNothingFromElsewhere) {
  const std::string html = RenderExplainPage(TwoStages());
  for (const char* mark : {"http://", "https://", "src=", "@import", "url("}) {
    EXPECT_THAT(html, Not(HasSubstr(mark)));
  }
}

TEST(RenderExplainPageTest, SaysWhenNothingWasPruned) {
  ExplainReport report = TwoStages();
  report.stages.clear();
  report.block_texts.clear();
  EXPECT_THAT(RenderExplainPage(report), HasSubstr("Nothing was pruned"));
}

}  // namespace
}  // namespace slim
