#include "tools/eval/eval_item.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/eval/calibrate.h"
#include "tools/eval/eval_runner.h"

namespace slim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kLine[] =
    R"({"id":"a","prompt":"p","answers":["x","y"],"task":"kv","length_tokens":2000})";

TEST(ParseEvalItemsTest, ReadsLinesAndSkipsEmptyOnes) {
  const auto items = ParseEvalItems("f", std::string("\n") + kLine + "\n\n" + kLine);
  ASSERT_TRUE(items.ok()) << items.status();
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[0].task, "kv");
  EXPECT_EQ((*items)[0].length_tokens, 2000);
  EXPECT_THAT((*items)[0].answers, ElementsAre("x", "y"));
}

TEST(ParseEvalItemsTest, ReadsASecondTurn) {
  const auto items = ParseEvalItems(
      "f", R"({"id":"a","prompt":"p","answers":["x"],"task":"kv","second_question":"q?",)"
           R"("second_answers":["z"]})");
  ASSERT_TRUE(items.ok()) << items.status();
  EXPECT_EQ((*items)[0].second_question, "q?");
  EXPECT_THAT((*items)[0].second_answers, ElementsAre("z"));
}

TEST(ParseEvalItemsTest, NamesFileLineAndFault) {
  for (const char* line :
       {"{", "[]", "1", R"({"id":"a"})", R"({"id":"a","prompt":"p","answers":[],"task":"t"})",
        R"({"id":"a","prompt":"p","answers":[1],"task":"t"})",
        R"({"id":"a","prompt":"p","answers":[""],"task":"t"})",
        R"({"id":1,"prompt":"p","answers":["x"],"task":"t"})",
        R"({"id":"a","prompt":"","answers":["x"],"task":"t"})",
        R"({"id":"a","prompt":"p","answers":["x"],"task":"t","second_question":"q?"})"}) {
    const auto items = ParseEvalItems("f.jsonl", std::string(kLine) + "\n" + line);
    ASSERT_FALSE(items.ok()) << line;
    EXPECT_THAT(std::string(items.status().message()), HasSubstr("f.jsonl, line 2")) << line;
  }
}

TEST(LengthBucketTest, RoundsToTheNearestPowerOfTwo) {
  EXPECT_EQ(LengthBucket(1877), 2048);
  EXPECT_EQ(LengthBucket(2500), 2048);
  EXPECT_EQ(LengthBucket(4000), 4096);
  EXPECT_EQ(LengthBucket(8000), 8192);
  EXPECT_EQ(LengthBucket(0), 1);
}

TEST(IsRetrievalTaskTest, KnowsTheTasks) {
  for (const char* task : {"passkey", "passkeyg", "niah", "niah1", "kv"}) {
    EXPECT_TRUE(IsRetrievalTask(task)) << task;
  }
  EXPECT_FALSE(IsRetrievalTask("mdqa"));
}

TEST(ContainsAnswerTest, IgnoresCase) {
  EXPECT_TRUE(ContainsAnswer("It is PARIS.", {"rome", "Paris"}));
  EXPECT_FALSE(ContainsAnswer("It is 1487.", {"14872"}));
}

TEST(AnyAnswerRetainedTest, NeedsEveryBlockOfOneOccurrence) {
  const std::vector<AnswerSpan> spans = {{30, 33}, {70, 70}};
  EXPECT_TRUE(AnyAnswerRetained(spans, {0, 1}, 32));
  EXPECT_FALSE(AnyAnswerRetained(spans, {0}, 32));
  EXPECT_FALSE(AnyAnswerRetained(spans, {1}, 32));
  EXPECT_TRUE(AnyAnswerRetained(spans, {2}, 32));
  EXPECT_FALSE(AnyAnswerRetained({}, {0, 1, 2}, 32));
}

TEST(LogSoftmaxTest, GivesLogProbabilities) {
  std::vector<float> logits = {0, 0, 0, 0};
  LogSoftmax(logits);
  for (const float value : logits) EXPECT_NEAR(value, std::log(0.25), 1e-6);
  std::vector<float> large = {1000, 1000 - std::log(3.0f)};
  LogSoftmax(large);
  EXPECT_NEAR(std::exp(large[0]), 0.75, 1e-4);
}

TEST(KlDivergenceTest, IsZeroForEqualsAndKnownOtherwise) {
  std::vector<float> p = {std::log(0.5f), std::log(0.5f)};
  std::vector<float> q = {std::log(0.25f), std::log(0.75f)};
  EXPECT_EQ(KlDivergence(p, p), 0);
  EXPECT_NEAR(KlDivergence(p, q), 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-6);
}

CandidateRow Candidate(int layer, double recall) {
  CandidateRow row;
  row.layer = layer;
  row.n = 10;
  row.recall = recall;
  return row;
}

TEST(ChooseLayersTest, TakesTheShallowestPassingLayersFarEnoughApart) {
  const std::vector<CandidateRow> rows = {Candidate(18, 0.9), Candidate(7, 0.92),
                                          Candidate(8, 0.95), Candidate(14, 0.9),
                                          Candidate(10, 0.2), Candidate(22, 1.0)};
  EXPECT_THAT(ChooseLayers(rows, ScoreKind::kWindowAttention, 0.9, 4, 3), ElementsAre(7, 14, 18));
  EXPECT_THAT(ChooseLayers(rows, ScoreKind::kWindowAttention, 0.94, 4, 3), ElementsAre(8, 22));
  EXPECT_TRUE(ChooseLayers(rows, ScoreKind::kUnitMax, 0.5, 4, 3).empty());
}

}  // namespace
}  // namespace slim
