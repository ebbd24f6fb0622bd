// The CPU backend: vectorised kernels chosen for the processor at run time, threads of its own,
// weights repacked at load and kept in the precision of the file, activations quantised to int8 for
// quantised weights, keys and values in bytes (AVX2 and better) or bf16 (BackendInfo::kv_type).
//
// What is computed for a row is the same bit for bit whatever else is in the call and however many
// threads there are; it differs (by rounding) from one instruction set to the next, except for
// block scores of the same cache (score_blocks.h). Thread rule: as Backend, one caller at a time.
// Weights and buffers may outlive the backend.
#ifndef ENGINE_BACKEND_CPU_CPU_BACKEND_H_
#define ENGINE_BACKEND_CPU_CPU_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu_features.h"
#include "engine/backend/cpu/packed_weight.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/cpu/workspace.h"

namespace slim {

struct CpuBackendOptions {
  int num_threads = 0;          // 0 = as many as affinity and cgroup allow
  absl::optional<CpuIsa> isa;   // for tests; otherwise the best that the processor has
  int watch_microseconds = 50;  // see ThreadPool::Options
};

class CpuBackend final : public Backend {
 public:
  // INVALID_ARGUMENT: thread count out of range, or an instruction set this processor lacks.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const CpuBackendOptions& options);

  const BackendInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(int64_t bytes) override;
  absl::Status CopyFromHost(const void* host, void* device, int64_t bytes) override;
  absl::Status CopyToHost(const void* device, void* host, int64_t bytes) override;
  absl::StatusOr<std::unique_ptr<LinearWeight>> PrepareLinear(const HostTensor& tensor) override;
  // Keeps the weights' forms for prompt rows (PackedWeight) while they take no more than what all
  // weights do and a quarter more (all forms of the default model), and an eighth of the
  // available memory. The others are made when a call needs them, which costs time (half of
  // them: 13 ms a step of the default model on two threads) and changes no result.
  absl::Status PreparePromptRows(absl::Span<LinearWeight* const> weights) override;
  absl::StatusOr<Buffer> PrepareVector(const HostTensor& tensor) override;
  // INVALID_ARGUMENT unless keys and values are info().kv_type, head_dim is a multiple of 16 and
  // block_tokens is 32, 64, 128, 256 or 512.
  absl::Status Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                         int64_t max_positions) override;
  absl::Status Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                     TensorView out) override;
  absl::Status Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) override;
  absl::Status FeedForward(const FeedForwardArgs& args) override;
  absl::Status CopyRows(TensorView src, absl::Span<const int64_t> src_rows, TensorView dst,
                        absl::Span<const int64_t> dst_rows) override;
  absl::Status Rope(TensorView q, absl::Span<const int32_t> positions) override;
  absl::Status RopeAndStoreKv(TensorView k, TensorView v, absl::Span<const int32_t> positions,
                              absl::Span<const KvSlot> slots) override;
  absl::Status Attention(TensorView q, absl::Span<const int32_t> positions,
                         absl::Span<const AttentionSequence> sequences, TensorView out) override;
  absl::Status ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) override;

 private:
  CpuBackend() = default;

  BackendInfo info_;
  CpuContext context_;
  WeightArena arena_;
  int64_t weight_bytes_ = 0;          // of all weights, packed
  std::unique_ptr<ThreadPool> pool_;  // last: its threads run code that uses the rest
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_CPU_BACKEND_H_
