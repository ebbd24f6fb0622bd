#include "engine/backend/cuda/attention_plan.h"

#include <algorithm>

#include "engine/backend/cuda/size_bucket.h"
#include "engine/base/check.h"

namespace slim::cuda {
namespace {

// Blocks that have a key at a position <= `position`: the first ones, since ids ascend.
int32_t VisibleBlocks(absl::Span<const int32_t> block_ids, int32_t position, int block_tokens) {
  const auto end = std::upper_bound(block_ids.begin(), block_ids.end(), position / block_tokens);
  return static_cast<int32_t>(end - block_ids.begin());
}

void AddDecodeRow(int32_t row, int32_t first_slab, int32_t num_slabs, int slabs_per_split,
                  AttentionPlan* plan) {
  DecodeRow decode{row, plan->num_partials(), 0};
  for (int32_t done = 0; done < num_slabs; done += slabs_per_split) {
    plan->splits.push_back({row, first_slab + done, std::min(slabs_per_split, num_slabs - done),
                            decode.first_partial + decode.num_partials});
    ++decode.num_partials;
  }
  plan->rows.push_back(decode);
}

}  // namespace

void AttentionPlan::PadSplits() {
  splits.resize(static_cast<size_t>(SizeBucket(static_cast<int64_t>(splits.size()))));
}

void PlanAttention(const HeadShape& shape, absl::Span<const int32_t> positions,
                   absl::Span<const AttentionSequence> sequences, AttentionPlan* plan) {
  plan->tiles.clear();
  plan->splits.clear();
  plan->rows.clear();
  plan->slabs.clear();
  plan->block_ids.clear();
  const int tile_tokens = PrefillTileTokens(shape.num_heads / shape.num_kv_heads);
  const int slabs_per_split = kDecodeSplitTokens / shape.block_tokens;
  for (const AttentionSequence& sequence : sequences) {
    if (sequence.num_rows == 0) continue;
    const auto first_slab = static_cast<int32_t>(plan->slabs.size());
    const int32_t used =
        VisibleBlocks(sequence.block_ids, positions[sequence.first_row + sequence.num_rows - 1],
                      shape.block_tokens);
    SLIM_CHECK(used > 0);
    plan->slabs.insert(plan->slabs.end(), sequence.slabs.begin(), sequence.slabs.begin() + used);
    plan->block_ids.insert(plan->block_ids.end(), sequence.block_ids.begin(),
                           sequence.block_ids.begin() + used);
    const int64_t end = sequence.first_row + sequence.num_rows;
    const bool decode = sequence.num_rows <= kMaxDecodeRows;
    const int step = decode ? 1 : tile_tokens;
    for (int64_t row = sequence.first_row; row < end; row += step) {
      const auto rows = static_cast<int32_t>(std::min<int64_t>(step, end - row));
      const int32_t visible =
          VisibleBlocks(sequence.block_ids, positions[row + rows - 1], shape.block_tokens);
      SLIM_CHECK(visible > 0);
      if (decode) {
        AddDecodeRow(static_cast<int32_t>(row), first_slab, visible, slabs_per_split, plan);
      } else {
        plan->tiles.push_back({static_cast<int32_t>(row), rows, first_slab, visible});
      }
    }
  }
  std::stable_sort(
      plan->tiles.begin(), plan->tiles.end(),
      [](const PrefillTile& a, const PrefillTile& b) { return a.num_slabs > b.num_slabs; });
}

}  // namespace slim::cuda
