#include "engine/backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/attention_op.h"
#include "engine/backend/cpu/block_scores.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/linear_op.h"
#include "engine/backend/cpu/packed_weight.h"
#include "engine/backend/cpu/rope_table.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

constexpr int64_t kRowsPerTask = 16;  // of row-wise ops
constexpr int kVectorWidth = 16;      // head_dim is a multiple of it

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuKernels& kernels, int num_threads)
      : pool_(num_threads), linear_(kernels, &pool_), attention_(kernels, &pool_) {
    info_.name = "cpu";
    info_.device = CpuModelName();
    info_.isa = std::string(CpuIsaName(kernels.isa));
    info_.num_threads = num_threads;
    info_.kv_type = KvType::kBF16;
  }

  const BackendInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(int64_t bytes) override { return AllocateAligned(bytes); }

  absl::Status CopyFromHost(const void* host, void* device, int64_t bytes) override {
    std::memcpy(device, host, bytes);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(const void* device, void* host, int64_t bytes) override {
    std::memcpy(host, device, bytes);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PrepareLinear(const HostTensor& tensor) override {
    SLIM_ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> weight, PackedWeight::Pack(tensor, pool_));
    return std::unique_ptr<LinearWeight>(std::move(weight));
  }

  absl::StatusOr<Buffer> PrepareVector(const HostTensor& tensor) override {
    if (tensor.rows != 1 || BlockElements(tensor.dtype) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has type ",
                                                     std::string(DTypeName(tensor.dtype)),
                                                     ", allowed for a vector are F32, F16, BF16"));
    }
    SLIM_ASSIGN_OR_RETURN(Buffer buffer,
                          Allocate(tensor.cols * static_cast<int64_t>(sizeof(float))));
    DequantizeRow(tensor, 0, static_cast<float*>(buffer.data()));
    return buffer;
  }

  absl::Status Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                         int64_t max_positions) override {
    if (layout.head_dim % kVectorWidth != 0 || layout.block_tokens % 32 != 0) {
      return absl::UnimplementedError(
          absl::StrCat("head dimension ", layout.head_dim, " with blocks of ", layout.block_tokens,
                       " tokens; the CPU backend supports multiples of 16 and of 32"));
    }
    SLIM_CHECK(layout.type == KvType::kBF16);
    layout_ = layout;
    rope_.Build(rope, max_positions);
    attention_.Configure(layout, num_heads);
    return absl::OkStatus();
  }

  absl::Status Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                     TensorView out) override {
    const auto& weight = static_cast<const PackedWeight&>(embedding);
    ForRows(out.rows, [&](int64_t r) { weight.UnpackRow(tokens[r], out.f32() + r * out.cols); });
    return absl::OkStatus();
  }

  absl::Status Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) override {
    linear_.Run(input, outputs);
    return absl::OkStatus();
  }

  absl::Status CopyRows(TensorView src, absl::Span<const int64_t> src_rows, TensorView dst,
                        absl::Span<const int64_t> dst_rows) override {
    SLIM_CHECK(src_rows.size() == dst_rows.size() && src.cols == dst.cols);
    for (size_t i = 0; i < src_rows.size(); ++i) {
      std::memcpy(dst.f32() + dst_rows[i] * dst.cols, src.f32() + src_rows[i] * src.cols,
                  src.cols * sizeof(float));
    }
    return absl::OkStatus();
  }

  absl::Status Rope(TensorView q, absl::Span<const int32_t> positions) override {
    ForRows(q.rows, [&](int64_t r) { RotateRow(q, r, positions[r]); });
    return absl::OkStatus();
  }

  absl::Status RopeAndStoreKv(TensorView k, TensorView v, absl::Span<const int32_t> positions,
                              absl::Span<const KvSlot> slots) override {
    ForRows(k.rows, [&](int64_t r) {
      RotateRow(k, r, positions[r]);
      StoreRow(k.f32() + r * k.cols, v.f32() + r * v.cols, slots[r]);
    });
    return absl::OkStatus();
  }

  absl::Status Attention(TensorView q, absl::Span<const int32_t> positions,
                         absl::Span<const AttentionSequence> sequences, TensorView out) override {
    attention_.Run(q, positions, sequences, out);
    return absl::OkStatus();
  }

  absl::Status ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) override {
    ComputeBlockScores(args, layout_, pool_, scores);
    return absl::OkStatus();
  }

 private:
  template <typename F>
  void ForRows(int64_t rows, const F& work) {
    pool_.ParallelFor((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
      const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (int64_t r = task * kRowsPerTask; r < end; ++r) work(r);
    });
  }

  void RotateRow(TensorView x, int64_t row, int32_t position) const {
    for (int64_t at = 0; at < x.cols; at += layout_.head_dim) {
      rope_.Rotate(x.f32() + row * x.cols + at, position);
    }
  }

  // Rows of one page may be stored by different threads: neighbouring tokens share 32 bits of the
  // values, but each writes its own 16.
  void StoreRow(const float* k, const float* v, const KvSlot& slot) const {
    auto* slab = static_cast<uint16_t*>(slot.slab);
    for (int h = 0; h < layout_.num_kv_heads; ++h) {
      const int64_t head = int64_t{h} * layout_.head_dim;
      uint16_t* keys = slab + layout_.key_offset(h, slot.slot, 0);
      uint16_t* values = slab + layout_.value_offset(h, slot.slot, 0);
      for (int d = 0; d < layout_.head_dim; d += 2) {
        keys[int64_t{d} * layout_.block_tokens] = F32ToBF16(k[head + d]);
        keys[int64_t{d} * layout_.block_tokens + 1] = F32ToBF16(k[head + d + 1]);
      }
      for (int d = 0; d < layout_.head_dim; ++d) values[2 * d] = F32ToBF16(v[head + d]);
    }
  }

  ThreadPool pool_;
  LinearOp linear_;
  AttentionOp attention_;
  BackendInfo info_;
  KvLayout layout_;
  RopeTable rope_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options) {
  if (!(options.num_threads >= 0 && options.num_threads <= 1024)) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.num_threads, ", allowed is 0 (automatic) to 1024"));
  }
  const std::vector<CpuIsa> supported = SupportedIsas();
  const CpuIsa isa = options.isa.value_or(supported.back());
  if (std::find(supported.begin(), supported.end(), isa) == supported.end()) {
    return absl::InvalidArgumentError(absl::StrCat("this processor does not support ",
                                                   std::string(CpuIsaName(isa)), "; its best is ",
                                                   std::string(CpuIsaName(supported.back()))));
  }
  const int threads = options.num_threads > 0 ? options.num_threads : AvailableThreads();
  return std::unique_ptr<Backend>(new CpuBackend(KernelsFor(isa), threads));
}

}  // namespace slim
