#include "engine/prune/cost_model.h"

#include "engine/base/check.h"

namespace slim {
namespace {

// Operations of one row in one layer, apart from attention.
struct RowCost {
  double keys_values = 0;
  double rest = 0;  // Q, O and FFN
  double all() const { return keys_values + rest; }
};

RowCost RowCostOf(const ModelConfig& config) {
  const double width = config.width;
  const double queries = double{1} * config.num_heads * config.head_dim;
  const double keys = double{1} * config.num_kv_heads * config.head_dim;
  return RowCost{4 * width * keys, 4 * width * queries + 6 * width * config.ffn_width};
}

// `rows` rows that each see, on average, half of `keys` keys.
double AttentionCost(const ModelConfig& config, double rows, double keys) {
  return 2.0 * config.num_heads * config.head_dim * rows * (keys + 1);
}

PrefillOps operator+(const PrefillOps& a, const PrefillOps& b) {
  return {a.linear + b.linear, a.attention + b.attention};
}

PrefillOps FullLayers(const ModelConfig& config, int layers, double rows) {
  return {layers * rows * RowCostOf(config).all(), layers * AttentionCost(config, rows, rows)};
}

// K and V for all incoming rows, the rest for the retained ones.
PrefillOps DecisionLayer(const ModelConfig& config, double incoming, double retained) {
  const RowCost row = RowCostOf(config);
  return {incoming * row.keys_values + retained * row.rest,
          AttentionCost(config, retained, incoming)};
}

// The final token sees all keys, not half of them.
PrefillOps LastLayer(const ModelConfig& config, double incoming) {
  const RowCost row = RowCostOf(config);
  return {incoming * row.keys_values + row.rest, AttentionCost(config, 1, 2 * incoming - 1)};
}

}  // namespace

double FullDensePrefillFlops(const ModelConfig& config, int64_t num_tokens) {
  return FullLayers(config, config.num_layers, static_cast<double>(num_tokens)).total();
}

double DensePrefillFlops(const ModelConfig& config, int64_t num_tokens) {
  const auto rows = static_cast<double>(num_tokens);
  return (FullLayers(config, config.num_layers - 1, rows) + LastLayer(config, rows)).total();
}

PrefillOps PrunedPrefillOps(const ModelConfig& config, absl::Span<const SegmentPlan> plan) {
  SLIM_CHECK(!plan.empty());
  PrefillOps ops;
  for (size_t s = 0; s < plan.size(); ++s) {
    const auto rows = static_cast<double>(plan[s].num_tokens);
    ops = ops + FullLayers(config, plan[s].num_layers() - 1, rows);
    ops = ops + (s + 1 < plan.size()
                     ? DecisionLayer(config, rows, static_cast<double>(plan[s + 1].num_tokens))
                     : LastLayer(config, rows));
  }
  return ops;
}

double PrunedPrefillFlops(const ModelConfig& config, absl::Span<const SegmentPlan> plan) {
  return PrunedPrefillOps(config, plan).total();
}

double PublishedPrefillFlops(const ModelConfig& config, absl::Span<const SegmentPlan> plan) {
  double flops = 0;
  for (const SegmentPlan& segment : plan) {
    flops +=
        FullLayers(config, segment.num_layers(), static_cast<double>(segment.num_tokens)).total();
  }
  return flops;
}

int64_t PromptKvBytes(absl::Span<const SegmentPlan> plan, int64_t token_bytes) {
  int64_t bytes = 0;
  for (const SegmentPlan& segment : plan) {
    bytes += segment.num_layers() * segment.num_tokens * token_bytes;
  }
  return bytes;
}

}  // namespace slim
