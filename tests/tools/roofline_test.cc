// The rooflines of the benches over the smallest geometry: counts against ones made by hand, and
// what is printed where there is nothing to compare with.

#include "tools/bench/roofline.h"

#include "engine/prune/cost_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_engine.h"
#include "tools/bench/local_benches.h"

namespace slim {
namespace {

using testing::HasSubstr;
using testing::Not;

// "tiny": 6 layers, width 128, 4 heads and 2 kv heads of 32, FFN 256, vocabulary 512, bf16 weights,
// the embedding is the LM head.
constexpr double kTinyWeightBytes =
    2.0 * (512 * 128 + 6 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128)) + 4.0 * 13 * 128;

std::unique_ptr<LocalModel> OpenTiny(const std::string& isa = "") {
  LocalModelOptions options;
  options.geometry = "tiny";
  options.isa = isa;
  options.threads = 2;
  options.streams = 2;
  options.tokens_per_stream = 1600;
  auto model = OpenLocalModel(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

PruningChoice Off() {
  PruningChoice choice;
  choice.name = "off";
  return choice;
}

PruningChoice Half() {
  PruningChoice choice;
  choice.name = "ratio:0.5";
  choice.budget = PruningChoice::Budget::kRatio;
  choice.ratio = 0.5;
  return choice;
}

PrefillBenchOptions PrefillOptions() {
  PrefillBenchOptions options;
  options.lengths = {300};
  options.pruning = {Off()};
  options.runs = 1;
  return options;
}

DecodeBenchOptions DecodeOptions() {
  DecodeBenchOptions options;
  options.contexts = {300};
  options.streams = {1, 2};
  options.pruning = {Off()};
  options.max_new_tokens = 4;
  return options;
}

// Bytes of keys and values of one token in all layers.
double TokenKvBytes(const LocalModel& model) {
  const KvLayout layout{2, 32, 64, model.engine->backend_info().kv_type};
  return static_cast<double>(6 * layout.token_bytes());
}

bool Probed(const LocalModel& model) { return model.engine->backend_info().isa != "portable"; }

TEST(RooflineTest, CountsTheOperationsOfADensePrefill) {
  const auto model = OpenTiny();
  ASSERT_NE(model, nullptr);
  const auto rows = RunPrefillBench(PrefillOptions(), model.get());
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_TRUE(rows->at(0).roofline.has_value());
  const PrefillRoofline& roofline = *rows->at(0).roofline;
  // A row: K and V 32768, Q and O 65536, FFN 196608. The last layer finishes the last row only.
  EXPECT_DOUBLE_EQ(roofline.linear_operations, 5 * 300 * 294912.0 + 300 * 32768.0 + 262144.0);
  // 2 H D m (m + 1) in five layers; in the last one row that sees 300 keys.
  EXPECT_DOUBLE_EQ(roofline.attention_operations, 5 * 256.0 * 300 * 301 + 4 * 128.0 * 300);
  EXPECT_DOUBLE_EQ(roofline.operations_per_second,
                   (roofline.linear_operations + roofline.attention_operations) /
                       rows->at(0).ttft_seconds_median);
  EXPECT_EQ(roofline.peak_arithmetic, "fp32");
  if (Probed(*model)) {
    EXPECT_GT(roofline.share_of_peak, 0);
    EXPECT_LT(roofline.share_of_peak, 1.5);
  }
  EXPECT_THAT(PrefillTable(*rows), HasSubstr("roofline"));
}

TEST(RooflineTest, CountsTheBytesOfADecodeStep) {
  const auto model = OpenTiny();
  ASSERT_NE(model, nullptr);
  LocalModel* models[] = {model.get()};
  const auto rows = RunDecodeBench(DecodeOptions(), models);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  // The first step sees 301 tokens, the measured ones 303 to 306. With the second stream beside it
  // the first one sees 309 to 312.
  EXPECT_DOUBLE_EQ(rows->at(0).roofline->kv_bytes, 304.5 * TokenKvBytes(*model));
  EXPECT_DOUBLE_EQ(rows->at(1).roofline->kv_bytes, (310.5 + 304.5) * TokenKvBytes(*model));
  for (const DecodeRow& row : *rows) {
    const DecodeRoofline& roofline = *row.roofline;
    EXPECT_DOUBLE_EQ(roofline.weight_bytes, kTinyWeightBytes);
    EXPECT_DOUBLE_EQ(roofline.bytes_per_second,
                     (roofline.weight_bytes + roofline.kv_bytes) / row.seconds_per_token_median);
    if (!Probed(*model)) continue;
    EXPECT_GT(roofline.read_bytes_per_second_before, 0);
    EXPECT_GT(roofline.read_bytes_per_second_after, 0);
    // A model as small as this one lies in the caches, so only the lower bound is sure.
    EXPECT_GT(roofline.share_of_read, 0);
  }
}

TEST(RooflineTest, PrunedStreamsReadWhatIsActive) {
  const auto model = OpenTiny();
  ASSERT_NE(model, nullptr);
  LocalModel* models[] = {model.get()};
  DecodeBenchOptions options = DecodeOptions();
  options.contexts = {1500};
  options.streams = {1};
  options.pruning = {Half()};
  const auto frozen = RunDecodeBench(options, models);
  options.decode_mode = DecodeMode::kReselect;
  const auto reselect = RunDecodeBench(options, models);
  ASSERT_TRUE(frozen.ok() && reselect.ok()) << frozen.status() << reselect.status();
  const Engine& engine = *model->engine;
  const auto schedule =
      ScheduleOf(Half(), 1500, engine.block_tokens(), engine.model_config(), model->profile);
  ASSERT_TRUE(schedule.ok()) << schedule.status();
  const std::vector<SegmentPlan> plan = engine.Plan(*schedule, 1500);
  ASSERT_GT(plan.size(), 1u);
  // Four and a half tokens on average are generated ones.
  EXPECT_DOUBLE_EQ(
      frozen->at(0).roofline->kv_bytes,
      static_cast<double>(PromptKvBytes(plan, static_cast<int64_t>(TokenKvBytes(*model)) / 6)) +
          4.5 * TokenKvBytes(*model));
  EXPECT_LT(reselect->at(0).roofline->kv_bytes, frozen->at(0).roofline->kv_bytes);
  EXPECT_GT(reselect->at(0).roofline->kv_bytes, 0);
}

TEST(RooflineTest, PortableKernelsHaveCountsAndNoPeak) {
  const auto model = OpenTiny("portable");
  ASSERT_NE(model, nullptr);
  LocalModel* models[] = {model.get()};
  const auto prefill = RunPrefillBench(PrefillOptions(), model.get());
  const auto decode = RunDecodeBench(DecodeOptions(), models);
  ASSERT_TRUE(prefill.ok() && decode.ok()) << prefill.status() << decode.status();
  const nlohmann::json row = ToJson(prefill->at(0))["roofline"];
  EXPECT_GT(row["operations_per_second"], 0);
  EXPECT_TRUE(row["peak_operations_per_second"].is_null());
  EXPECT_TRUE(row["share_of_peak"].is_null());
  EXPECT_GT(ToJson(decode->at(0))["roofline"]["bytes_per_second"], 0);
  EXPECT_TRUE(ToJson(decode->at(0))["roofline"]["share_of_read"].is_null());
  EXPECT_THAT(PrefillTable(*prefill), HasSubstr("no probe"));
  EXPECT_THAT(DecodeTable(*decode), HasSubstr("no probe"));
}

TEST(RooflineTest, IsLeftOutWhereItIsNotWanted) {
  const auto model = OpenTiny();
  ASSERT_NE(model, nullptr);
  PrefillBenchOptions options = PrefillOptions();
  options.roofline = false;
  const auto rows = RunPrefillBench(options, model.get());
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_TRUE(ToJson(rows->at(0))["roofline"].is_null());
  EXPECT_THAT(PrefillTable(*rows), Not(HasSubstr("roofline")));
}

TEST(RooflineTest, OtherBackendsHaveNone) {
  const FakeEngine engine{FakeEngineOptions()};
  ASSERT_NE(engine.backend_info().name, "cpu");
  RooflineProbe probe(engine, /*wanted=*/true);
  ASSERT_TRUE(probe.ReadBandwidth().ok());
  EXPECT_TRUE(std::isnan(*probe.ReadBandwidth()));
  EXPECT_TRUE(std::isnan(*probe.PeakOps()));
  EXPECT_FALSE(probe.Prefill({}, 1, 1, 1).has_value());
  EXPECT_FALSE(probe.Decode(1, 1, 1, 1).has_value());
}

}  // namespace
}  // namespace slim
