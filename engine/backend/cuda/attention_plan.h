// Builds the device's work list of one attention call. No CUDA. Pure function.
#ifndef ENGINE_BACKEND_CUDA_ATTENTION_PLAN_H_
#define ENGINE_BACKEND_CUDA_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/attention_work.h"

namespace slim::cuda {

struct AttentionPlan {
  std::vector<PrefillTile> tiles;  // most keys first, so that no long tile starts last
  std::vector<DecodeSplit> splits;
  std::vector<DecodeRow> rows;
  std::vector<void*> slabs;  // of all sequences, one after the other
  std::vector<int32_t> block_ids;

  int num_partials() const { return static_cast<int>(splits.size()); }

  // Appends empty runs up to a number that stays the same for some steps; see size_bucket.h.
  void PadSplits();
};

// Fills `plan`, whose vectors keep their memory from call to call. Every row sees at least one key.
void PlanAttention(const HeadShape& shape, absl::Span<const int32_t> positions,
                   absl::Span<const AttentionSequence> sequences, AttentionPlan* plan);

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_ATTENTION_PLAN_H_
