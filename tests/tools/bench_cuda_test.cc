// The benches with --backend cuda, on a runtime that works in host memory: what a run on a GPU
// prints and writes, from the smallest geometry.

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/cuda_on_host/queue.h"
#include "tools/bench/local_benches.h"

namespace slim {
namespace {

using testing::Gt;
using testing::HasSubstr;

std::unique_ptr<LocalModel> OpenTiny(KvChoice kv) {
  cuda_on_host::Repair();
  LocalModelOptions options;
  options.geometry = "tiny";
  options.backend = BackendKind::kCuda;
  options.tokens_per_stream = 1600;
  options.kv_tier = kv.tier;
  options.kv_prefetch = kv.prefetch;
  if (kv.tier == KvTier::kDiscrete) options.device_share = 0.5;
  auto model = OpenLocalModel(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

PruningChoice Half() {
  PruningChoice choice;
  choice.name = "ratio:0.5";
  choice.budget = PruningChoice::Budget::kRatio;
  choice.ratio = 0.5;
  return choice;
}

PruningChoice Off() {
  PruningChoice choice;
  choice.name = "off";
  return choice;
}

TEST(CudaBenchTest, PrefillHasRatesBoundsAndTheShareOfEveryKernel) {
  const auto model = OpenTiny(KvChoice());
  ASSERT_NE(model, nullptr);
  PrefillBenchOptions options;
  options.lengths = {1500};
  options.pruning = {Off(), Half()};
  options.runs = 1;
  options.op_times = true;
  const auto rows = RunPrefillBench(options, model.get());
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (const PrefillRow& row : *rows) {
    const nlohmann::json json = ToJson(row);
    EXPECT_GT(json["tflops_per_second"], 0);
    EXPECT_GT(json["speedup_vs_off"], 0);
    EXPECT_GE(json["bound_speedup"], 1);
    for (const char* op : {"matmul", "attention_prefill", "rms_norm", "swiglu", "store_kv"}) {
      EXPECT_THAT(json["op_seconds"][op], Gt(0)) << op;
    }
    EXPECT_TRUE(json["roofline"].is_null());
  }
  EXPECT_EQ(ToJson(rows->at(1))["op_seconds"].count("score_blocks"), 1u);
  EXPECT_THAT(PrefillTable(*rows), HasSubstr("% of ops"));
  EXPECT_EQ(model->Machine().gpu, "host");
}

TEST(CudaBenchTest, DecodeStandsBesideTheBandwidthOfTheMemory) {
  DecodeBenchOptions options;
  options.contexts = {1500};
  options.streams = {1};
  options.pruning = {Half()};
  options.decode_mode = DecodeMode::kReselect;
  options.max_new_tokens = 4;
  options.kv = {{KvTier::kUnified, true}, {KvTier::kDiscrete, true}, {KvTier::kDiscrete, false}};
  std::vector<std::unique_ptr<LocalModel>> opened;
  std::vector<LocalModel*> models;
  for (const KvChoice& kv : options.kv) {
    opened.push_back(OpenTiny(kv));
    ASSERT_NE(opened.back(), nullptr);
    models.push_back(opened.back().get());
  }
  const auto rows = RunDecodeBench(options, models);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 3u);
  for (const DecodeRow& row : *rows) {
    EXPECT_GT(row.prefill_seconds_median, 0);
    ASSERT_TRUE(row.roofline.has_value());
    EXPECT_DOUBLE_EQ(row.roofline->read_bytes_per_second_after, 2 * 3201e6 * 6144 / 8);
    EXPECT_DOUBLE_EQ(row.roofline->share_of_read,
                     row.roofline->bytes_per_second / (2 * 3201e6 * 6144 / 8));
    // 65,536 rows and columns of the embedding, which is the LM head, and six layers, in bf16.
    EXPECT_GT(row.roofline->weight_bytes, 2.0 * (512 * 128 + 6 * 147456));
    EXPECT_LT(row.roofline->weight_bytes, 2.1 * (512 * 128 + 6 * 147456));
    EXPECT_GT(row.roofline->kv_bytes, 0);
  }
  EXPECT_FALSE(rows->at(2).prefetch);
  EXPECT_THAT(DecodeTable(*rows), HasSubstr("prompt s"));
}

}  // namespace
}  // namespace slim
