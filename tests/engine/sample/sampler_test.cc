#include "engine/sample/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
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

// The tokens that top_p leaves, by a full sort.
std::set<int32_t> Nucleus(const std::vector<float>& logits, float temperature, double top_p) {
  std::vector<std::pair<double, int32_t>> ranked;
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    ranked.emplace_back(-std::exp(double{logits[i]} / temperature), static_cast<int32_t>(i));
    total -= ranked.back().first;
  }
  std::sort(ranked.begin(), ranked.end());
  std::set<int32_t> kept;
  double reached = 0;
  for (const auto& [probability, token] : ranked) {
    if (reached >= top_p * total) break;
    reached -= probability;
    kept.insert(token);
  }
  return kept;
}

TEST(SamplerTest, TopPOnALargeVocabularyKeepsExactlyTheNucleus) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (const float top_p : {0.05f, 0.3f, 0.9f, 0.9999f}) {
    std::vector<float> logits(3000);
    for (float& logit : logits) logit = normal(random);
    SamplingParams params;
    params.top_p = top_p;
    params.temperature = 0.7f;
    const std::set<int32_t> nucleus = Nucleus(logits, params.temperature, top_p);
    // One least likely token more or less may be a matter of rounding.
    Sampler sampler(params, 3, {}, 3000);
    std::set<int32_t> seen;
    int outside = 0;
    constexpr int kDraws = 3000;
    for (int i = 0; i < kDraws; ++i) {
      std::vector<float> copy = logits;
      const int32_t token = *sampler.Sample(absl::MakeSpan(copy), {});
      seen.insert(token);
      outside += nucleus.count(token) == 0 ? 1 : 0;
    }
    EXPECT_LE(outside, 1) << top_p;
    EXPECT_LE(seen.size(), nucleus.size() + 1);
    // The most likely token comes as often as it must.
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(seen.count(static_cast<int32_t>(best)), 1u);
  }
}

TEST(SamplerTest, FollowsTheDistributionThatTopKAndTopPLeave) {
  // Of 0.4, 0.3, 0.2, 0.1 in shuffled places top_p 0.65 leaves 4/7 and 3/7, top_k 3 4/9, 3/9, 2/9.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.3f), std::log(0.4f),
                                     std::log(0.2f)};
  const auto check = [&](const SamplingParams& params, const std::vector<double>& expected) {
    Sampler sampler(params, 12, {}, 4);
    std::vector<int> counts(4);
    constexpr int kDraws = 20000;
    for (int i = 0; i < kDraws; ++i) {
      std::vector<float> copy = logits;
      ++counts[*sampler.Sample(absl::MakeSpan(copy), {})];
    }
    for (int t = 0; t < 4; ++t) {
      const double sigma = std::sqrt(expected[t] * (1 - expected[t]) / kDraws);
      EXPECT_NEAR(counts[t] / double{kDraws}, expected[t], 5 * sigma) << t;
    }
  };
  SamplingParams params;
  params.top_p = 0.65f;
  check(params, {0, 3.0 / 7, 4.0 / 7, 0});
  params = SamplingParams{};
  params.top_k = 3;
  check(params, {0, 3.0 / 9, 4.0 / 9, 2.0 / 9});
  params = SamplingParams{};
  params.temperature = 0.5f;  // probabilities squared
  check(params, {1.0 / 30, 9.0 / 30, 16.0 / 30, 4.0 / 30});
}

TEST(SamplerTest, ASeedGivesTheseTokensOnEveryMachine) {
  Sampler sampler(SamplingParams{}, 1234, {}, 16);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 12; ++i) {
    std::vector<float> logits(16, 0.0f);
    tokens.push_back(*sampler.Sample(absl::MakeSpan(logits), {}));
  }
  EXPECT_THAT(tokens, ::testing::ElementsAre(11, 9, 3, 4, 11, 11, 7, 3, 5, 12, 1, 4));
}

TEST(SamplerTest, TiesAtTheEdgeOfTopKGoToTheLowestIds) {
  SamplingParams params;
  params.top_k = 2;
  EXPECT_EQ(Support(params, {1.0f, 1.0f, 1.0f, 1.0f}), (std::set<int32_t>{0, 1}));
  params.top_k = 1;
  EXPECT_EQ(Support(params, {0.0f, 1.0f, 1.0f}), (std::set<int32_t>{1}));
  params.top_k = 4;
  EXPECT_EQ(Support(params, {1.0f, 1.0f}), (std::set<int32_t>{0, 1}));
}

TEST(SamplerTest, ExtremeParametersStillChooseAToken) {
  const std::vector<float> logits = {-3.0f, 2.0f, 1.0f, -kInfinity};
  for (const float temperature : {0.0f, -0.0f, 1e-45f, 1e-38f, 1e-6f}) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_p = 1e-45f;
    EXPECT_EQ(SampleOnce(params, logits), 1) << temperature;
  }
  for (const float tiny : {1e-45f, 1e-30f}) {
    SamplingParams params;
    params.top_p = tiny;
    EXPECT_EQ(Support(params, logits), (std::set<int32_t>{1}));
    params = SamplingParams{};
    params.min_p = tiny;
    EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1, 2}));
    params.min_p = 1.0f;
    EXPECT_EQ(Support(params, logits), (std::set<int32_t>{1}));
    // A tiny repetition penalty makes huge logits, never infinite ones.
    params = SamplingParams{};
    params.repetition_penalty = tiny;
    Sampler sampler(params, 1, {1, 2}, 4);
    for (int i = 0; i < 3; ++i) {
      std::vector<float> copy = logits;
      const auto token = sampler.Sample(absl::MakeSpan(copy), {});
      ASSERT_TRUE(token.ok()) << token.status();
      EXPECT_TRUE(*token == 1 || *token == 2);
    }
  }
}

TEST(SamplerTest, AllCombinationsOfParametersChooseAnAllowedToken) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 5.0f);
  for (int round = 0; round < 2000; ++round) {
    const auto pick = [&](std::initializer_list<float> values) {
      return values.begin()[random() % values.size()];
    };
    SamplingParams params;
    params.temperature = pick({0.0f, 0.01f, 1.0f, 2.0f});
    params.top_p = pick({0.01f, 0.5f, 1.0f});
    params.top_k = static_cast<int32_t>(pick({0.0f, 1.0f, 7.0f, 50.0f}));
    params.min_p = pick({0.0f, 0.1f, 1.0f});
    params.repetition_penalty = pick({0.5f, 1.0f, 2.0f});
    params.frequency_penalty = pick({-2.0f, 0.0f, 2.0f});
    params.presence_penalty = pick({-2.0f, 0.0f, 2.0f});
    params.logit_bias = {{3, pick({-100.0f, 0.0f, 100.0f})}, {49, 1.0f}, {50, 1.0f}, {-1, 1.0f}};
    Sampler sampler(params, random(), {0, 1, 1, 49, 50, -1}, 50);
    for (int step = 0; step < 4; ++step) {
      std::vector<float> logits(50);
      for (float& logit : logits) logit = normal(random);
      const auto token = sampler.Sample(absl::MakeSpan(logits), {5, 3, 99, -1});
      ASSERT_TRUE(token.ok()) << token.status();
      EXPECT_TRUE(*token >= 0 && *token < 50 && *token != 5 && *token != 3);
    }
  }
}

TEST(SamplerTest, ANanOrTheLargestIsFoundWhereverItLies) {
  for (const size_t size : {1u, 7u, 8u, 9u, 16u, 29u}) {
    for (size_t at = 0; at < size; ++at) {
      std::vector<float> logits(size, -1.0f);
      logits[at] = 3.0f;
      logits.back() = 3.0f;  // a tie with a higher id
      EXPECT_EQ(SampleOnce(Greedy(), logits), static_cast<int32_t>(at));
      logits[at] = std::nanf("");
      Sampler sampler(Greedy(), 1, {}, static_cast<int64_t>(size));
      EXPECT_EQ(sampler.Sample(absl::MakeSpan(logits), {}).status().code(),
                absl::StatusCode::kInternal);
    }
  }
}

TEST(SamplerTest, BanningEveryTokenIsAnError) {
  std::vector<float> logits = {1.0f, 2.0f};
  Sampler sampler(SamplingParams{}, 1, {}, 2);
  EXPECT_EQ(sampler.Sample(absl::MakeSpan(logits), {0, 1}).status().code(),
            absl::StatusCode::kInternal);
  std::vector<float> none;
  EXPECT_EQ(sampler.Sample(absl::MakeSpan(none), {}).status().code(), absl::StatusCode::kInternal);
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
