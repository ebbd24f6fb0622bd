#include "engine/sample/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

namespace slim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t SampleOnce(const SamplingParams& params, std::vector<float> logits, uint64_t seed = 1,
                   std::vector<int32_t> banned = {}) {
  Sampler sampler(params, seed, {}, static_cast<int64_t>(logits.size()));
  const auto token = sampler.Sample(absl::MakeSpan(logits), banned);
  EXPECT_TRUE(token.ok()) << token.status();
  return token.value_or(-1);
}

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

TEST(SamplerTest, GreedyTakesTheLargestAndOfEqualsTheLowestId) {
  EXPECT_EQ(SampleOnce(Greedy(), {0.1f, 0.7f, 0.3f}), 1);
  EXPECT_EQ(SampleOnce(Greedy(), {0.5f, 0.7f, 0.7f}), 1);
  EXPECT_EQ(SampleOnce(Greedy(), {0.5f, 0.7f, 0.7f}, 1, {1}), 2);
}

TEST(SamplerTest, NanAndNothingToChooseAreErrors) {
  std::vector<float> logits = {0.0f, std::nanf(""), 1.0f};
  Sampler sampler(SamplingParams{}, 1, {}, 3);
  EXPECT_EQ(sampler.Sample(absl::MakeSpan(logits), {}).status().code(),
            absl::StatusCode::kInternal);
  logits = {-kInfinity, -kInfinity, -kInfinity};
  EXPECT_EQ(sampler.Sample(absl::MakeSpan(logits), {}).status().code(),
            absl::StatusCode::kInternal);
  logits = {0.0f, kInfinity, 0.0f};
  EXPECT_FALSE(sampler.Sample(absl::MakeSpan(logits), {}).ok());
}

TEST(SamplerTest, FollowsTheDistribution) {
  // Probabilities 1/2, 1/4, 1/8, 1/8.
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0.0f, 0.0f};
  Sampler sampler(SamplingParams{}, 42, {}, 4);
  std::vector<int> counts(4);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> copy = logits;
    ++counts[*sampler.Sample(absl::MakeSpan(copy), {})];
  }
  const double expected[] = {0.5, 0.25, 0.125, 0.125};
  for (int t = 0; t < 4; ++t) {
    const double sigma = std::sqrt(expected[t] * (1 - expected[t]) / kDraws);
    EXPECT_NEAR(counts[t] / double{kDraws}, expected[t], 5 * sigma);
  }
}

TEST(SamplerTest, TheSameSeedGivesTheSameTokens) {
  const auto draw = [](uint64_t seed) {
    Sampler sampler(SamplingParams{}, seed, {}, 8);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 32; ++i) {
      std::vector<float> logits(8, 0.0f);
      tokens.push_back(*sampler.Sample(absl::MakeSpan(logits), {}));
    }
    return tokens;
  };
  EXPECT_EQ(draw(5), draw(5));
  EXPECT_NE(draw(5), draw(6));
}

std::set<int32_t> Support(const SamplingParams& params, const std::vector<float>& logits) {
  std::set<int32_t> seen;
  for (uint64_t seed = 0; seed < 400; ++seed) seen.insert(SampleOnce(params, logits, seed));
  return seen;
}

TEST(SamplerTest, TopKTopPAndMinPLimitTheChoice) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.2f),
                                     std::log(0.1f)};
  SamplingParams params;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1, 2, 3}));
  params.top_k = 2;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1}));
  params.top_k = 0;
  params.top_p = 0.65f;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1}));
  params.top_p = 0.75f;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1, 2}));
  params.top_p = 1.0f;
  params.min_p = 0.45f;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1, 2}));
}

TEST(SamplerTest, LogitBiasAndBannedTokens) {
  SamplingParams params = Greedy();
  params.logit_bias = {{2, 10.0f}};
  EXPECT_EQ(SampleOnce(params, {1.0f, 2.0f, 0.0f}), 2);
  EXPECT_EQ(SampleOnce(params, {1.0f, 2.0f, 0.0f}, 1, {2}), 1);
}

TEST(SamplerTest, RepetitionPenaltyCountsThePromptTheOthersOnlyTheOutput) {
  SamplingParams params = Greedy();
  params.repetition_penalty = 2.0f;
  std::vector<float> logits = {3.0f, 2.0f, -1.0f};
  Sampler repetition(params, 1, {0}, 3);
  EXPECT_EQ(*repetition.Sample(absl::MakeSpan(logits), {}), 1);  // 3 / 2 < 2
  params = Greedy();
  params.presence_penalty = 1.5f;
  Sampler presence(params, 1, {0}, 3);
  logits = {3.0f, 2.0f, -1.0f};
  EXPECT_EQ(*presence.Sample(absl::MakeSpan(logits), {}), 0);  // the prompt does not count
  logits = {3.0f, 2.0f, -1.0f};
  EXPECT_EQ(*presence.Sample(absl::MakeSpan(logits), {}), 1);  // 3 - 1.5 < 2
  params = Greedy();
  params.frequency_penalty = 0.6f;
  Sampler frequency(params, 1, {}, 3);
  for (const int32_t expected : {0, 0, 1}) {  // 3, 2.4, 1.8 against 2
    logits = {3.0f, 2.0f, -1.0f};
    EXPECT_EQ(*frequency.Sample(absl::MakeSpan(logits), {}), expected);
  }
}

TEST(LogprobsTest, AreALogSoftmaxAndTheMostLikelyComeFirst) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  const TokenLogprobs logprobs = ComputeLogprobs(logits, 1, 2);
  EXPECT_NEAR(logprobs.logprob, std::log(2.0 / 8), 1e-6);
  ASSERT_EQ(logprobs.top.size(), 2u);
  EXPECT_EQ(logprobs.top[0].first, 2);
  EXPECT_NEAR(logprobs.top[0].second, std::log(5.0 / 8), 1e-6);
  EXPECT_EQ(logprobs.top[1].first, 1);
  EXPECT_TRUE(ComputeLogprobs(logits, 0, 0).top.empty());
}

}  // namespace
}  // namespace slim
