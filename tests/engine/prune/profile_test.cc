#include "engine/prune/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"

namespace slim {
namespace {

using ::testing::HasSubstr;

constexpr char kGood[] = R"({
  "name": "test", "model": {"architecture": "llama", "layers": 30, "width": 576, "heads": 9,
                            "vocabulary": 49152},
  "block_tokens": 32,
  "stages": [{"layer": 8, "tokens": 768, "ratio": 0.1}, {"layer": 15, "tokens": 384}],
  "score": "window_attention", "window_tokens": 16, "dilation": false, "sink_blocks": 2,
  "local_tokens": 64, "min_prompt_tokens": 900})";

ModelConfig SmolConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 30;
  config.width = 576;
  config.num_heads = 9;
  config.vocab_size = 49152;
  return config;
}

TEST(ProfileTest, ReadsEveryKey) {
  const auto profile = ParseProfile(kGood);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->name, "test");
  EXPECT_EQ(profile->block_tokens, 32);
  EXPECT_EQ(profile->defaults.window_tokens, 16);
  EXPECT_FALSE(profile->defaults.dilation);
  EXPECT_EQ(profile->defaults.sink_blocks, 2);
  EXPECT_EQ(profile->defaults.local_tokens, 64);
  EXPECT_EQ(profile->defaults.min_prompt_tokens, 900);
  EXPECT_TRUE(profile->Matches(SmolConfig()));
  const PruneSchedule schedule = profile->ScheduleFor(1001);
  ASSERT_EQ(schedule.stages.size(), 2u);
  EXPECT_EQ(schedule.stages[0].layer, 8);
  EXPECT_EQ(schedule.stages[0].budget_tokens, 896);  // 768 + 100.1, rounded up to 32
  EXPECT_EQ(schedule.stages[1].budget_tokens, 384);
  EXPECT_EQ(schedule.profile, "test");
}

TEST(ProfileTest, WritesWhatItReads) {
  const auto profile = ParseProfile(kGood);
  ASSERT_TRUE(profile.ok());
  const auto again = ParseProfile(FormatProfile(*profile));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(FormatProfile(*again), FormatProfile(*profile));
}

TEST(ProfileTest, RefusesWhatItDoesNotUnderstand) {
  const std::pair<const char*, const char*> edits[][1] = {
      {{"\"dilation\": false", "\"dilate\": false"}},
      {{"\"layer\": 15", "\"layer\": 8"}},
      {{"\"layer\": 15", "\"layer\": 30"}},
      {{"\"ratio\": 0.1", "\"ratio\": 1.5"}},
      {{"\"ratio\": 0.1", "\"ratio\": \"x\""}},
      {{"\"tokens\": 384", "\"tokens\": 800"}},
      {{"\"tokens\": 384", "\"tokens\": -1"}},
      {{"\"block_tokens\": 32", "\"block_tokens\": 48"}},
      {{"window_attention", "attention"}},
      {{"\"window_tokens\": 16", "\"window_tokens\": 0"}},
      {{"\"sink_blocks\": 2", "\"sink_blocks\": 2.5"}},
      {{"\"layers\": 30", "\"layers\": 0"}},
      {{"\"name\": \"test\",", ""}},
      {{"}", ""}},
  };
  for (const auto& edit : edits) {
    const std::string text = absl::StrReplaceAll(kGood, {{edit[0].first, edit[0].second}});
    const auto profile = ParseProfile(text);
    EXPECT_EQ(profile.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(std::string(ParseProfile("{}").status().message()), HasSubstr("name"));
}

TEST(ProfileTest, BuiltInProfilesAreFoundByTheModelsShape) {
  const auto profile = BuiltInProfile(SmolConfig());
  ASSERT_TRUE(profile.has_value());
  EXPECT_EQ(profile->name, "smollm2-135m");
  ModelConfig llama = SmolConfig();
  llama.num_layers = 32;
  llama.width = 4096;
  llama.num_heads = 32;
  llama.vocab_size = 128256;
  ASSERT_TRUE(BuiltInProfile(llama).has_value());
  EXPECT_EQ(BuiltInProfile(llama)->stages.size(), 3u);
  llama.width = 4095;
  EXPECT_FALSE(BuiltInProfile(llama).has_value());
}

TEST(ProfileTest, PublishedSchedulesHaveThePublishedLayersAndBudgets) {
  ModelConfig config = SmolConfig();
  config.num_layers = 32;
  PruneSchedule schedule = PaperSchedule(config);
  ASSERT_EQ(schedule.stages.size(), 3u);
  EXPECT_EQ(schedule.stages[0].layer, 10);
  EXPECT_EQ(schedule.stages[1].layer, 20);
  EXPECT_EQ(schedule.stages[2].layer, 30);
  EXPECT_EQ(schedule.stages[0].budget_tokens, 8192);
  EXPECT_EQ(schedule.score_kind, ScoreKind::kUnitMax);
  config.architecture = "qwen2";
  config.num_layers = 28;
  schedule = PaperSchedule(config);
  EXPECT_EQ(schedule.stages[0].layer, 9);
  EXPECT_EQ(schedule.stages[2].layer, 26);
  EXPECT_EQ(schedule.stages[2].budget_tokens, 4096);
  config.num_layers = 2;
  EXPECT_TRUE(PaperSchedule(config).stages.empty());
}

TEST(ProfileTest, RatioHalvesFromStageToStage) {
  const PruneSchedule schedule = RatioSchedule(0.25, 8000, 64, SmolConfig(), nullptr);
  ASSERT_EQ(schedule.stages.size(), 3u);
  EXPECT_EQ(schedule.stages[0].layer, 10);
  EXPECT_EQ(schedule.stages[0].budget_tokens, 2048);  // 2000 rounded up to 64
  EXPECT_EQ(schedule.stages[1].budget_tokens, 1024);
  EXPECT_EQ(schedule.stages[2].budget_tokens, 512);
}

}  // namespace
}  // namespace slim
