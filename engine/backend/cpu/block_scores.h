// Block scores on the CPU (formulas: engine/prune/block_scorer.h). Only plain multiplications and
// additions in a fixed order, no fused operation, so every instruction set gives the same bits, and
// so will any other backend that keeps the order:
//   dot products     over head_dim ascending, one running sum per token
//   softmax          exact maximum; 2^x by a fixed polynomial; sum in 16 lanes by slot mod 16,
//   pages
//                    ascending, lanes added ascending
//   unit means       tokens ascending; mean over heads: heads ascending
// Private to the CPU backend.
#ifndef ENGINE_BACKEND_CPU_BLOCK_SCORES_H_
#define ENGINE_BACKEND_CPU_BLOCK_SCORES_H_

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/thread_pool.h"
#include "kvcache/kv_layout.h"

namespace slim {

void ComputeBlockScores(const BlockScoreArgs& args, const KvLayout& layout, ThreadPool& pool,
                        absl::Span<float> scores);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_BLOCK_SCORES_H_
