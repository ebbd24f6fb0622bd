// The CUDA backend: bf16 weights and activations, float32 hidden states (so that adding up the
// layers rounds nothing away), float32 accumulation everywhere, keys and values in bf16.
//
// Ops are ordered on one stream and return before they have run, decode steps before they have been
// launched (cuda_context.h); CopyToHost and ScoreBlocks wait.
// A fault of the device is remembered and returned by every later call: Engine::Step fails, and the
// server's health follows. What is computed for a row may differ in rounding with the number of
// rows in the call (cuBLASLt chooses by shape); block scores may not. Needs compute capability 8.0.
// Thread rule: as Backend. Buffers may outlive the backend.
#ifndef ENGINE_BACKEND_CUDA_CUDA_BACKEND_H_
#define ENGINE_BACKEND_CUDA_CUDA_BACKEND_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/attention_plan.h"
#include "engine/backend/cuda/cuda_context.h"
#include "engine/backend/cuda/cuda_linear.h"
#include "engine/backend/cuda/kernels.h"

namespace slim::cuda {

class CudaBackend final : public Backend {
 public:
  // The errors of CudaContext::Create.
  static absl::StatusOr<std::unique_ptr<Backend>> Create();

  const BackendInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(int64_t bytes) override;
  absl::Status CopyFromHost(const void* host, void* device, int64_t bytes) override;
  absl::Status CopyToHost(const void* device, void* host, int64_t bytes) override;
  absl::StatusOr<KvMemories> CreateKvMemories(const KvMemorySizes& sizes) override;
  absl::StatusOr<std::unique_ptr<LinearWeight>> PrepareLinear(const HostTensor& tensor) override;
  absl::StatusOr<Buffer> PrepareVector(const HostTensor& tensor) override;
  // INVALID_ARGUMENT unless keys and values are bf16 and lie together (values_after is 0), head_dim
  // is 32, 64, 96 or 128, block_tokens is 32 or 64, and at most 32 query heads share a kv head.
  absl::Status Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                         int64_t max_positions) override;
  absl::Status Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                     TensorView out) override;
  absl::Status Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) override;
  absl::Status CopyRows(TensorView src, absl::Span<const int64_t> src_rows, TensorView dst,
                        absl::Span<const int64_t> dst_rows) override;
  absl::Status Rope(TensorView q, absl::Span<const int32_t> positions) override;
  // Leaves k itself as it is.
  absl::Status RopeAndStoreKv(TensorView k, TensorView v, absl::Span<const int32_t> positions,
                              absl::Span<const KvSlot> slots) override;
  absl::Status Attention(TensorView q, absl::Span<const int32_t> positions,
                         absl::Span<const AttentionSequence> sequences, TensorView out) override;
  absl::Status ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) override;
  bool StartOpTimes() override;
  absl::StatusOr<std::vector<OpTime>> TakeOpTimes() override { return context_->TakeOpTimes(); }

 private:
  CudaBackend() = default;

  // The input as rows in bf16.
  absl::StatusOr<const Bf16*> Transform(const LinearInput& input);
  absl::Status UploadRope(const RopeParams& rope, int64_t max_positions);
  absl::Status LaunchScores(ScoreKind kind, const ScoreArgs& args);

  std::shared_ptr<CudaContext> context_;
  BackendInfo info_;
  std::unique_ptr<CudaMatmul> matmul_;
  HeadShape shape_;
  RopeTable rope_;
  int64_t max_positions_ = 0;
  Buffer rope_angles_;
  // Scratch by purpose; the stream orders its uses.
  DeviceScratch transformed_, partials_, score_dots_, score_results_;
  std::vector<void*> slot_slabs_;
  std::vector<int32_t> slot_numbers_;
  AttentionPlan plan_;
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_CUDA_BACKEND_H_
