#include "tools/common/pruning_choice.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

using testing::HasSubstr;

ModelConfig SmolLm2() {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 30;
  config.width = 576;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.ffn_width = 1536;
  config.vocab_size = 49152;
  config.context_tokens = 8192;
  return config;
}

TEST(ParsePruningListTest, ReadsEveryKind) {
  const auto choices = ParsePruningList(
      "off,paper,ratio:0.25,profile,profile:a/b:c.json,random:0.5,recency:1,random:profile");
  ASSERT_TRUE(choices.ok()) << choices.status();
  ASSERT_EQ(choices->size(), 8u);
  EXPECT_EQ((*choices)[0].budget, PruningChoice::Budget::kOff);
  EXPECT_EQ((*choices)[1].budget, PruningChoice::Budget::kPaper);
  EXPECT_EQ((*choices)[2].ratio, 0.25);
  EXPECT_EQ((*choices)[3].budget, PruningChoice::Budget::kProfile);
  EXPECT_EQ((*choices)[4].profile_path, "a/b:c.json");
  EXPECT_EQ((*choices)[5].control, ScoreKind::kRandom);
  EXPECT_EQ((*choices)[6].control, ScoreKind::kRecency);
  EXPECT_EQ((*choices)[7].budget, PruningChoice::Budget::kProfile);
  EXPECT_EQ((*choices)[7].control, ScoreKind::kRandom);
}

TEST(ParsePruningListTest, NamesWhatItDoesNotKnow) {
  for (const char* text : {"", "on", "ratio", "ratio:0", "ratio:1.1", "ratio:nan", "random", "off,",
                           "profile:", "ratio:profile", "paper:1", "off,off"}) {
    const auto choices = ParsePruningList(text);
    ASSERT_FALSE(choices.ok()) << text;
    EXPECT_THAT(std::string(choices.status().message()), HasSubstr("--pruning")) << text;
  }
}

TEST(ScheduleOfTest, OffHasNoStage) {
  const auto choices = ParsePruningList("off");
  EXPECT_TRUE(ScheduleOf((*choices)[0], 8000, 32, SmolLm2(), absl::nullopt)->stages.empty());
}

TEST(ScheduleOfTest, ProfileIsTheModelsOwn) {
  const ModelConfig config = SmolLm2();
  const absl::optional<PruneProfile> profile = BuiltInProfile(config);
  ASSERT_TRUE(profile.has_value());
  const auto choices = ParsePruningList("profile,random:profile");
  const auto own = ScheduleOf((*choices)[0], 8000, profile->block_tokens, config, profile);
  const auto control = ScheduleOf((*choices)[1], 8000, profile->block_tokens, config, profile);
  ASSERT_TRUE(own.ok() && control.ok());
  ASSERT_EQ(own->stages.size(), profile->stages.size());
  EXPECT_EQ(own->score_kind, profile->defaults.score_kind);
  // The control keeps as much at the same layers, by a score that knows nothing.
  EXPECT_EQ(control->score_kind, ScoreKind::kRandom);
  EXPECT_FALSE(control->dilation);
  for (size_t i = 0; i < own->stages.size(); ++i) {
    EXPECT_EQ(control->stages[i].layer, own->stages[i].layer);
    EXPECT_EQ(control->stages[i].budget_tokens, own->stages[i].budget_tokens);
  }
}

TEST(ScheduleOfTest, RefusesAProfileThatDoesNotFit) {
  ModelConfig other = SmolLm2();
  const absl::optional<PruneProfile> profile = BuiltInProfile(other);
  const auto choices = ParsePruningList("profile");
  EXPECT_EQ(ScheduleOf((*choices)[0], 8000, 32, other, absl::nullopt).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ScheduleOf((*choices)[0], 8000, 64, other, profile).status().code(),
            absl::StatusCode::kFailedPrecondition);
  other.num_layers = 31;
  EXPECT_EQ(ScheduleOf((*choices)[0], 8000, 32, other, profile).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(LoadProfilesTest, SaysWhichFileIsMissing) {
  auto choices = ParsePruningList("profile:/nowhere/p.json");
  const absl::Status status = LoadProfiles(*choices);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/p.json"));
}

}  // namespace
}  // namespace slim
