// How many operations a prefill needs by formula, dense and pruned: the bound that a measured
// speedup is compared with. Pure arithmetic in double; thread-safe.
//
// Per layer and row: K and V 4 d G D, Q and O together 4 d H D, FFN 6 d F; causal attention of m
// rows over their own m keys 2 H D m (m + 1). One multiply-add counts as two operations. Embedding,
// norms, block scores and the LM head of one row are left out: they are below one per cent.
#ifndef ENGINE_PRUNE_COST_MODEL_H_
#define ENGINE_PRUNE_COST_MODEL_H_

#include <cstdint>

#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/prune/prune_plan.h"

namespace slim {

// Every layer computes everything for all `num_tokens` rows: what peers do, and what published
// figures count.
double FullDensePrefillFlops(const ModelConfig& config, int64_t num_tokens);

// As this engine does it: the last layer computes Q, attention, O and FFN for the final token only.
double DensePrefillFlops(const ModelConfig& config, int64_t num_tokens);

// As this engine prunes: a decision layer caches K and V of all its incoming rows and computes the
// rest for the retained rows, which attend to every incoming key before them (on average half of
// the incoming keys, wherever the retained rows lie evenly); the last layer as in
// DensePrefillFlops. `plan` is from ResolvePlan; one dense segment gives DensePrefillFlops.
double PrunedPrefillFlops(const ModelConfig& config, absl::Span<const SegmentPlan> plan);

// The same, linear layers and attention apart.
struct PrefillOps {
  double linear = 0;
  double attention = 0;
  double total() const { return linear + attention; }
};
PrefillOps PrunedPrefillOps(const ModelConfig& config, absl::Span<const SegmentPlan> plan);

// As published: every layer of a segment computes everything for the segment's rows.
double PublishedPrefillFlops(const ModelConfig& config, absl::Span<const SegmentPlan> plan);

// Bytes of K and V of the prompt that the plan keeps; `token_bytes`: of one token and layer
// (KvLayout::token_bytes).
int64_t PromptKvBytes(absl::Span<const SegmentPlan> plan, int64_t token_bytes);

}  // namespace slim

#endif  // ENGINE_PRUNE_COST_MODEL_H_
