#include "tools/client/client_options.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/client/exit_codes.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

struct Parsed {
  bool complete = false;
  int exit_code = -1;
  ClientOptions options;
};

// On the heap: options hold the request that the parser's callbacks wrote into.
std::unique_ptr<Parsed> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "sliminfer");
  auto parsed = std::make_unique<Parsed>();
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  parsed->complete = ParseClientOptions(static_cast<int>(arguments.size()), arguments.data(),
                                        &parsed->options, &parsed->exit_code);
  testing::internal::GetCapturedStdout();
  testing::internal::GetCapturedStderr();
  return parsed;
}

TEST(ClientOptionsTest, GenerateTakesEveryOption) {
  const auto parsed = Parse({"generate",
                             "hello",
                             "--temperature",
                             "0",
                             "--top_p",
                             "0.9",
                             "--top_k",
                             "40",
                             "--min_p",
                             "0.05",
                             "--repetition_penalty",
                             "1.1",
                             "--frequency_penalty",
                             "-1",
                             "--presence_penalty",
                             "0.5",
                             "--seed",
                             "18446744073709551615",
                             "--logit_bias",
                             "7=-2.5",
                             "--logit_bias",
                             "8=1",
                             "--max_tokens",
                             "9",
                             "--min_tokens",
                             "2",
                             "--ignore_eos",
                             "--stop",
                             "a,b",
                             "--stop",
                             "c",
                             "--stop_token",
                             "5",
                             "--include_stop",
                             "--pruning",
                             "ratio:0.5",
                             "--score",
                             "random",
                             "--random_seed",
                             "3",
                             "--decode",
                             "reselect",
                             "--gamma",
                             "0.8",
                             "--sink_blocks",
                             "0",
                             "--overflow",
                             "truncate_left",
                             "--priority",
                             "-7",
                             "--cache_salt",
                             "s",
                             "--no_cache",
                             "--request_id",
                             "me",
                             "--logprobs",
                             "2",
                             "--token_ids",
                             "--address",
                             "unix:/x",
                             "--json"});
  ASSERT_TRUE(parsed->complete);
  EXPECT_EQ(parsed->options.command, Command::kGenerate);
  EXPECT_EQ(parsed->options.connection.address, "unix:/x");
  EXPECT_TRUE(parsed->options.connection.json);
  const GenerateOptions& generate = parsed->options.generate;
  EXPECT_EQ(generate.prompt, "hello");
  const v1::GenerateRequest& request = generate.common.request;
  EXPECT_TRUE(request.sampling().has_temperature());
  EXPECT_EQ(request.sampling().temperature(), 0);
  EXPECT_EQ(request.sampling().seed(), 18446744073709551615ull);
  EXPECT_EQ(request.sampling().logit_bias().at(7), -2.5f);
  EXPECT_EQ(request.sampling().logit_bias().size(), 2u);
  EXPECT_EQ(request.stopping().max_tokens(), 9);
  EXPECT_THAT(request.stopping().stop_strings(), testing::ElementsAre("a,b", "c"));
  EXPECT_THAT(request.stopping().stop_token_ids(), testing::ElementsAre(5));
  EXPECT_EQ(request.pruning().mode(), v1::PruningOptions::RATIO);
  EXPECT_EQ(request.pruning().score_kind(), v1::PruningOptions::RANDOM);
  EXPECT_EQ(request.pruning().decode_mode(), v1::PruningOptions::RESELECT);
  EXPECT_TRUE(request.pruning().has_sink_blocks());
  EXPECT_EQ(request.overflow(), v1::TRUNCATE_LEFT);
  EXPECT_EQ(request.priority(), -7);
  EXPECT_TRUE(request.bypass_prefix_cache());
  EXPECT_EQ(request.request_id(), "me");
}

TEST(ClientOptionsTest, WhatIsNotGivenStaysUnset) {
  const auto parsed = Parse({"generate", "hello"});
  ASSERT_TRUE(parsed->complete);
  const v1::GenerateRequest& request = parsed->options.generate.common.request;
  EXPECT_FALSE(request.sampling().has_temperature());
  EXPECT_FALSE(request.sampling().has_seed());
  EXPECT_FALSE(request.stopping().has_max_tokens());
  EXPECT_EQ(request.pruning().mode(), v1::PruningOptions::MODE_UNSPECIFIED);
  EXPECT_FALSE(request.has_priority());
}

TEST(ClientOptionsTest, ThePromptMayFollowAnyOption) {
  const std::pair<const char*, const char*> options[] = {
      {"--pruning", "off"},  {"--score", "unit_max"},  {"--decode", "frozen"},
      {"--stop", "x"},       {"--overflow", "reject"}, {"--stop_token", "5"},
      {"--max_tokens", "3"}, {"--logit_bias", "7=1"}};
  for (const auto& [name, value] : options) {
    const auto parsed = Parse({"generate", name, value, "hello"});
    ASSERT_TRUE(parsed->complete) << name;
    EXPECT_EQ(parsed->options.generate.prompt, "hello") << name;
  }
}

TEST(ClientOptionsTest, EveryCommandIsKnown) {
  EXPECT_EQ(Parse({"chat"})->options.command, Command::kChat);
  EXPECT_EQ(Parse({"tokenize", "x"})->options.command, Command::kTokenize);
  EXPECT_EQ(Parse({"info"})->options.command, Command::kInfo);
  EXPECT_EQ(Parse({"load"})->options.command, Command::kLoad);
  EXPECT_EQ(Parse({"health"})->options.command, Command::kHealth);
  const auto abort = Parse({"abort", "a", "b"});
  EXPECT_EQ(abort->options.command, Command::kAbort);
  EXPECT_THAT(abort->options.abort_ids, testing::ElementsAre("a", "b"));
}

TEST(ClientOptionsTest, GlobalOptionsMayComeFirst) {
  const auto parsed = Parse({"--address", "h:1", "--timeout", "2.5", "health"});
  ASSERT_TRUE(parsed->complete);
  EXPECT_EQ(parsed->options.connection.address, "h:1");
  EXPECT_EQ(parsed->options.connection.timeout_seconds, 2.5);
}

TEST(ClientOptionsTest, WrongCommandLinesExitWithTwo) {
  const std::vector<std::vector<const char*>> wrong = {
      {},
      {"nothing"},
      {"generate", "--temperature", "warm"},
      {"generate", "--pruning", "some"},
      {"generate", "--score", "best"},
      {"generate", "--logit_bias", "7"},
      {"generate", "--overflow", "drop"},
      {"generate", "--pruning", "off", "--pruning", "paper"},
      {"generate", "--unknown"},
      {"health", "--timeout", "-1"},
      {"abort"}};
  for (const auto& arguments : wrong) {
    const auto parsed = Parse(arguments);
    EXPECT_FALSE(parsed->complete) << testing::PrintToString(arguments);
    EXPECT_EQ(parsed->exit_code, kExitUsage) << testing::PrintToString(arguments);
  }
}

TEST(ClientOptionsTest, HelpExitsWithZero) {
  EXPECT_EQ(Parse({"--help"})->exit_code, kExitOk);
  EXPECT_EQ(Parse({"generate", "--help"})->exit_code, kExitOk);
}

TEST(ParsePruningTest, ReadsCustomStages) {
  v1::PruningOptions pruning;
  ASSERT_TRUE(ParsePruning("custom:8=1024,15=512", &pruning).ok());
  EXPECT_EQ(pruning.mode(), v1::PruningOptions::CUSTOM);
  ASSERT_EQ(pruning.stages_size(), 2);
  EXPECT_EQ(pruning.stages(1).layer(), 15);
  EXPECT_EQ(pruning.stages(1).budget_tokens(), 512);
}

TEST(ParsePruningTest, NamesValueAndWhatIsAllowed) {
  for (const char* text : {"", "OFF", "ratio:", "ratio:0", "ratio:nan", "ratio:2",
                           "custom:", "custom:8", "custom:8=x", "custom:8=1,", "off:1"}) {
    v1::PruningOptions pruning;
    const absl::Status status = ParsePruning(text, &pruning);
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("allowed")) << text;
  }
}

TEST(ParseLogitBiasTest, RefusesWhatIsOutOfRange) {
  v1::SamplingParams sampling;
  for (const char* text : {"1", "a=1", "1=101", "1=nan", "-1=1", "1=2=3"}) {
    EXPECT_FALSE(ParseLogitBias(text, &sampling).ok()) << text;
  }
}

}  // namespace
}  // namespace slim
