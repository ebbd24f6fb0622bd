#include "engine/prune/cost_model.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace slim {
namespace {

ModelConfig Model(int layers, int width, int heads, int kv_heads, int head_dim, int ffn) {
  ModelConfig config;
  config.num_layers = layers;
  config.width = width;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.ffn_width = ffn;
  return config;
}

ModelConfig Llama8B() { return Model(32, 4096, 32, 8, 128, 14336); }
ModelConfig Qwen7B() { return Model(28, 3584, 28, 4, 128, 18944); }
ModelConfig SmolLm2() { return Model(30, 576, 9, 3, 64, 1536); }

// (layers, tokens) per segment.
std::vector<SegmentPlan> Plan(const std::vector<std::pair<int, int64_t>>& segments) {
  std::vector<SegmentPlan> plan;
  int layer = 0;
  for (const auto& [layers, tokens] : segments) {
    SegmentPlan segment;
    segment.first_layer = layer;
    segment.end_layer = layer += layers;
    segment.num_tokens = tokens;
    plan.push_back(segment);
  }
  return plan;
}

// One row of the table of published and derived figures.
struct Row {
  std::string name;
  ModelConfig config;
  std::vector<std::pair<int, int64_t>> segments;
  double dense_tera_flops;
  double published_speedup;
  double speedup;
  double kv_mebibytes;
};

class CostModelTableTest : public testing::TestWithParam<Row> {};

TEST_P(CostModelTableTest, AgreesWithinOnePerCent) {
  const Row& row = GetParam();
  const std::vector<SegmentPlan> plan = Plan(row.segments);
  const double dense = FullDensePrefillFlops(row.config, row.segments[0].second);
  EXPECT_NEAR(dense / 1e12, row.dense_tera_flops, 0.01 * row.dense_tera_flops);
  EXPECT_NEAR(dense / PublishedPrefillFlops(row.config, plan), row.published_speedup,
              0.01 * row.published_speedup);
  EXPECT_NEAR(dense / PrunedPrefillFlops(row.config, plan), row.speedup, 0.01 * row.speedup);
  EXPECT_NEAR(
      static_cast<double>(PromptKvBytes(plan, 2 * row.config.kv_elements_per_token_layer())) /
          (1 << 20),
      row.kv_mebibytes, 0.01 * row.kv_mebibytes + 0.5);
}

INSTANTIATE_TEST_SUITE_P(
    Table, CostModelTableTest,
    testing::Values(
        Row{"llama8b_8k", Llama8B(), {{20, 8192}, {10, 4096}, {2, 2048}}, 131.9, 1.27, 1.32, 816},
        Row{"llama8b_32k",
            Llama8B(),
            {{10, 32768}, {10, 8192}, {10, 4096}, {2, 2048}},
            738.9,
            2.52,
            2.71,
            1776},
        Row{"llama8b_128k",
            Llama8B(),
            {{10, 131072}, {10, 8192}, {10, 4096}, {2, 2048}},
            6333,
            3.10,
            3.42,
            5616},
        Row{"qwen7b_32k",
            Qwen7B(),
            {{9, 32768}, {9, 12288}, {8, 6144}, {2, 4096}},
            643,
            2.16,
            2.33,
            904},
        Row{"smollm2_2k",
            SmolLm2(),
            {{10, 2048}, {10, 512}, {8, 256}, {2, 128}},
            0.58,
            2.31,
            2.48,
            20},
        Row{"smollm2_4k",
            SmolLm2(),
            {{10, 4096}, {10, 1024}, {8, 512}, {2, 256}},
            1.45,
            2.40,
            2.59,
            41},
        Row{"smollm2_8k",
            SmolLm2(),
            {{10, 8192}, {10, 2048}, {8, 1024}, {2, 512}},
            4.06,
            2.50,
            2.69,
            82},
        Row{"smollm2_8k_half",
            SmolLm2(),
            {{10, 8192}, {10, 4096}, {8, 2048}, {2, 1024}},
            4.06,
            2.02,
            2.13,
            104}),
    [](const testing::TestParamInfo<Row>& info) { return info.param.name; });

TEST(CostModelTest, OneSegmentIsTheDensePass) {
  const ModelConfig config = SmolLm2();
  EXPECT_DOUBLE_EQ(PrunedPrefillFlops(config, Plan({{30, 3000}})), DensePrefillFlops(config, 3000));
  EXPECT_DOUBLE_EQ(PublishedPrefillFlops(config, Plan({{30, 3000}})),
                   FullDensePrefillFlops(config, 3000));
}

// Counted by hand: d = 2, H = 2, G = 1, D = 1, F = 3; per row K,V 8, Q,O 16, FFN 36.
TEST(CostModelTest, CountsATinyModelByHand) {
  const ModelConfig config = Model(2, 2, 2, 1, 1, 3);
  // One row: attention 2 H D m (m + 1) = 8. Two layers of 8 + 16 + 36 + 8.
  EXPECT_DOUBLE_EQ(FullDensePrefillFlops(config, 1), 2 * 68.0);
  EXPECT_DOUBLE_EQ(DensePrefillFlops(config, 1), 2 * 68.0);
  // Three rows: layer 0 3 * 60 + 48; layer 1 K,V of 3 rows, the rest of one that sees 3 keys.
  EXPECT_DOUBLE_EQ(DensePrefillFlops(config, 3), 228 + 24 + 52 + 4 * 2 * 3);
  // Layer 0 decides for 2 rows out of 3; layer 1 is last.
  EXPECT_DOUBLE_EQ(PrunedPrefillFlops(config, Plan({{1, 3}, {1, 2}})),
                   (24 + 2 * 52 + 4 * 2 * 4) + (16 + 52 + 4 * 2 * 2));
  const PrefillOps ops = PrunedPrefillOps(config, Plan({{1, 3}, {1, 2}}));
  EXPECT_DOUBLE_EQ(ops.linear, (24 + 2 * 52) + (16 + 52));
  EXPECT_DOUBLE_EQ(ops.attention, 4 * 2 * 4 + 4 * 2 * 2);
}

TEST(CostModelTest, DroppingMoreNeverCostsMore) {
  const ModelConfig config = Llama8B();
  double last = DensePrefillFlops(config, 32768);
  for (int64_t kept = 32768; kept >= 512; kept /= 2) {
    const double flops = PrunedPrefillFlops(config, Plan({{10, 32768}, {22, kept}}));
    EXPECT_LE(flops, last * (1 + 1e-12)) << kept;
    last = flops;
  }
}

}  // namespace
}  // namespace slim
