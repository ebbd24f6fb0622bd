// The ops of the CPU backend, one file each: checks of shapes, split over threads, calls through
// the kernel table. Arguments as in Backend. Private to engine/backend/cpu.
#ifndef ENGINE_BACKEND_CPU_OPS_H_
#define ENGINE_BACKEND_CPU_OPS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/workspace.h"

namespace slim {

// linear.cc
absl::Status CpuLinear(CpuContext& context, const LinearInput& input,
                       absl::Span<const LinearOutput> outputs);
// Whether CpuFeedForward can do it: prompt rows and quantised weights. It activates the products of
// gate and up as they are made; args.gate_rows is not used.
bool FusesSwiGlu(const CpuContext& context, const FeedForwardArgs& args);
absl::Status CpuFeedForward(CpuContext& context, const FeedForwardArgs& args);
absl::Status CpuEmbed(CpuContext& context, const LinearWeight& embedding,
                      absl::Span<const int32_t> tokens, TensorView out);

// rope.cc. PrepareRope fills shape.rope; RESOURCE_EXHAUSTED, INVALID_ARGUMENT for bad parameters.
absl::Status PrepareRope(const RopeParams& params, int64_t max_positions, ThreadPool& pool,
                         CpuModelShape* shape);
void CpuRope(CpuContext& context, TensorView q, absl::Span<const int32_t> positions);
void CpuRopeAndStoreKv(CpuContext& context, TensorView k, TensorView v,
                       absl::Span<const int32_t> positions, absl::Span<const KvSlot> slots);

// attention.cc
absl::Status CpuAttention(CpuContext& context, TensorView q, absl::Span<const int32_t> positions,
                          absl::Span<const AttentionSequence> sequences, TensorView out);

// Slots of the sequence's page list, from its start, that a row at `position` sees.
int64_t VisibleTokens(const AttentionSequence& sequence, int block_tokens, int32_t position);

// score_blocks.cc
absl::Status CpuScoreBlocks(CpuContext& context, const BlockScoreArgs& args,
                            absl::Span<float> scores);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_OPS_H_
