#include "tools/bench/bench_options.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

using testing::ElementsAre;

struct Parsed {
  bool complete = false;
  int exit_code = -1;
  BenchOptions options;
};

Parsed Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "sliminfer-bench");
  Parsed parsed;
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  parsed.complete = ParseBenchOptions(static_cast<int>(arguments.size()), arguments.data(),
                                      &parsed.options, &parsed.exit_code);
  testing::internal::GetCapturedStdout();
  testing::internal::GetCapturedStderr();
  return parsed;
}

TEST(BenchOptionsTest, PrefillReadsListsAndSizesTheCache) {
  const Parsed parsed = Parse({"prefill", "--lengths", "512,8000", "--pruning", "off,ratio:0.25",
                               "--runs", "3", "--max_new_tokens", "5", "--json", "x.json"});
  ASSERT_TRUE(parsed.complete);
  EXPECT_EQ(parsed.options.command, BenchOptions::Command::kPrefill);
  EXPECT_THAT(parsed.options.prefill.lengths, ElementsAre(512, 8000));
  EXPECT_EQ(parsed.options.prefill.pruning.size(), 2u);
  EXPECT_EQ(parsed.options.prefill.runs, 3);
  EXPECT_EQ(parsed.options.local.tokens_per_stream, 8005);
  EXPECT_EQ(parsed.options.json, "x.json");
  EXPECT_TRUE(parsed.options.prefill.roofline);
}

TEST(BenchOptionsTest, TheRooflineCanBeLeftOut) {
  EXPECT_FALSE(Parse({"prefill", "--no_roofline"}).options.prefill.roofline);
  EXPECT_FALSE(Parse({"decode", "--no_roofline"}).options.decode.roofline);
}

TEST(BenchOptionsTest, PublishedShapesNeedRandomWeights) {
  const Parsed parsed = Parse({"prefill", "--geometry", "llama-3.1-8b", "--random_weights",
                               "--lengths", "131072", "--backend", "cuda"});
  ASSERT_TRUE(parsed.complete);
  EXPECT_EQ(parsed.options.local.geometry, "llama-3.1-8b");
  EXPECT_EQ(parsed.options.local.backend, BackendKind::kCuda);
  EXPECT_FALSE(Parse({"prefill", "--geometry", "llama-3.1-8b"}).complete);
  EXPECT_FALSE(Parse({"prefill", "--random_weights"}).complete);
  EXPECT_FALSE(Parse({"prefill", "--backend", "tpu"}).complete);
}

TEST(BenchOptionsTest, DecodeReadsTierAndStreams) {
  const Parsed parsed =
      Parse({"decode", "--contexts", "16,128", "--streams", "4,1", "--kv_tier",
             "discrete_no_prefetch,unified", "--device_share", "0.25", "--decode", "reselect"});
  ASSERT_TRUE(parsed.complete);
  EXPECT_THAT(parsed.options.decode.streams, ElementsAre(4, 1));
  EXPECT_EQ(parsed.options.local.streams, 4);
  ASSERT_EQ(parsed.options.decode.kv.size(), 2u);
  EXPECT_EQ(parsed.options.decode.kv[0].tier, KvTier::kDiscrete);
  EXPECT_FALSE(parsed.options.decode.kv[0].prefetch);
  EXPECT_EQ(parsed.options.decode.kv[1].tier, KvTier::kUnified);
  EXPECT_EQ(parsed.options.decode.decode_mode, DecodeMode::kReselect);
  // Two stream counts, each with 32 measured steps and two before them.
  EXPECT_EQ(parsed.options.local.tokens_per_stream, 128 + 2 * 34 + 1);
}

TEST(BenchOptionsTest, ServeReadsRatesMixAndScenario) {
  const Parsed parsed = Parse({"serve", "--rates", "1,2.5", "--mix", "64:1,512:1", "--duration",
                               "5", "--fairness", "--long_tokens", "4000"});
  ASSERT_TRUE(parsed.complete);
  EXPECT_THAT(parsed.options.serve.rates, ElementsAre(1, 2.5));
  EXPECT_EQ(parsed.options.serve.duration, absl::Seconds(5));
  EXPECT_TRUE(parsed.options.fairness);
  EXPECT_EQ(parsed.options.fair.long_tokens, 4000);
}

TEST(BenchOptionsTest, WrongCommandLinesExitWithTwo) {
  const std::vector<std::vector<const char*>> wrong = {
      {},
      {"prefill", "--lengths", "0"},
      {"prefill", "--pruning", "much"},
      {"prefill", "--runs", "0"},
      {"prefill", "--pruning", "profile:/nowhere.json"},
      {"decode", "--kv_tier", "other"},
      {"decode", "--device_share", "0"},
      {"serve", "--rates", "nan"},
      {"serve", "--mix", "64:-1"}};
  for (const auto& arguments : wrong) {
    const Parsed parsed = Parse(arguments);
    EXPECT_FALSE(parsed.complete) << testing::PrintToString(arguments);
    EXPECT_EQ(parsed.exit_code, 2) << testing::PrintToString(arguments);
  }
}

}  // namespace
}  // namespace slim
