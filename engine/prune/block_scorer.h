// From keys and queries of the decision layer to the set of blocks that stay.
//
// Scores (SlimInfer, arXiv 2508.06447, and the window score of this project); p is the decision
// layer:
//   krep[u, kv]  = mean of the keys of unit u (8 tokens of a block), after RoPE
//   qbar[h]      = mean of the window's queries, after RoPE
//   unit_max     = max over the block's units u of (1/H) sum_h | qbar[h] . krep[u, h / g] |
//   unit_signed  = the same without the absolute value
//   mean_pool    = mean over the block's units instead of the max
//   max_pool     = the block's element-wise largest key in place of its units' means
//   window_attention = max over heads, window queries and the block's tokens of the softmax
//                  probability over all incoming keys, causal by position
//   recency      = the block id;  random = a seeded hash of the block id (negative controls)
// With dilation a block also gets half of a direct neighbour's score.
//
// Order: score descending, block id ascending; a NaN score is an error, never a rank. The same on
// every backend. Thread rule: pure functions of their arguments.
#ifndef ENGINE_PRUNE_BLOCK_SCORER_H_
#define ENGINE_PRUNE_BLOCK_SCORER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/prune/prune_plan.h"

namespace slim {

// Scores of the blocks args.block_ids: by the backend, or here for recency and random, for which
// `backend` may be null.
absl::StatusOr<std::vector<float>> ComputeScores(const PruneSchedule& schedule,
                                                 const BlockScoreArgs& args, Backend* backend);

// score[b] = max(score[b], score[b-1] / 2, score[b+1] / 2) over neighbouring block ids that are in
// the set; what is missing raises nothing.
void Dilate(absl::Span<const int32_t> block_ids, std::vector<float>& scores);

// The forced blocks plus the best of the others, `num_blocks` in all, ascending. `forced` is
// ascending and a subset of block_ids. INTERNAL when a score is NaN.
absl::StatusOr<std::vector<int32_t>> SelectBlocks(absl::Span<const int32_t> block_ids,
                                                  absl::Span<const float> scores,
                                                  absl::Span<const int32_t> forced,
                                                  int64_t num_blocks);

// Folds one decision into a digest (64-bit FNV-1a over layer and block ids). Start with
// kDigestSeed.
inline constexpr uint64_t kDigestSeed = 0xcbf29ce484222325ull;
uint64_t FoldDigest(uint64_t digest, int layer, absl::Span<const int32_t> block_ids);
std::string DigestText(uint64_t digest);  // 16 hex digits

}  // namespace slim

#endif  // ENGINE_PRUNE_BLOCK_SCORER_H_
