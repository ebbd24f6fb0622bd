// Models of published shapes with random weights: their config, and the prefill bench over the
// smallest one on the CPU.

#include "tools/common/random_model.h"

#include <cmath>

#include "engine/model/model_config.h"
#include "gmock/gmock.h"
#include "tools/bench/local_benches.h"

namespace slim {
namespace {

TEST(RandomModelTest, KnowsThePublishedShapes) {
  for (const std::string name : {"llama-3.1-8b", "llama-3.2-1b", "qwen2.5-7b", "tiny"}) {
    EXPECT_TRUE(FindGeometry(name).ok()) << name;
  }
  const absl::Status unknown = FindGeometry("llama").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), testing::HasSubstr("qwen2.5-7b"));
}

TEST(RandomModelTest, ReadsAsAModelFileWould) {
  ModelGeometry geometry = *FindGeometry("tiny");
  geometry.architecture = "qwen2";
  geometry.qkv_bias = true;
  geometry.tied_embedding = false;
  const std::unique_ptr<TensorSource> source = MakeRandomModel(geometry, 1);
  const auto config = ReadModelConfig(*source);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_layers, 6);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->vocab_size, 512);
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->tied_embedding);
  EXPECT_FALSE(config->rope_neighbouring_pairs);
  EXPECT_EQ(source->GetTensor("blk.9.attn_q.weight").status().code(), absl::StatusCode::kNotFound);
}

TEST(RandomModelTest, ThePrefillBenchMeasuresIt) {
  LocalModelOptions local;
  local.geometry = "tiny";
  local.threads = 1;
  local.tokens_per_stream = 1600;
  const auto model = OpenLocalModel(local);
  ASSERT_TRUE(model.ok()) << model.status();
  PrefillBenchOptions options;
  options.lengths = {300, 1500};
  options.pruning.resize(2);
  options.pruning[0].name = "off";
  options.pruning[1].name = "ratio:0.5";
  options.pruning[1].budget = PruningChoice::Budget::kRatio;
  options.pruning[1].ratio = 0.5;
  options.runs = 1;
  const auto rows = RunPrefillBench(options, model->get());
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 4u);
  for (const PrefillRow& row : *rows) {
    EXPECT_GT(row.ttft_seconds_median, 0);
    EXPECT_GT(row.tflops_per_second, 0);
    EXPECT_TRUE(std::isfinite(row.bound_speedup));
  }
  EXPECT_DOUBLE_EQ((*rows)[2].bound_speedup, 1.0);
  EXPECT_GT((*rows)[3].bound_speedup, 1.0);
}

}  // namespace
}  // namespace slim
