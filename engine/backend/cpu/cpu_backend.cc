#include "engine/backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/ops.h"
#include "engine/backend/cpu/prompt_gemm_check.h"
#include "engine/base/available_memory.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

#if defined(__x86_64__)
// BF16 instructions have nothing to do since keys and values are bytes.
const KernelTable& Avx512Bf16Kernels() {
  static const KernelTable table = [] {
    KernelTable bf16 = kAvx512Kernels;
    bf16.name = "avx512vnni+bf16";
    return bf16;
  }();
  return table;
}

const KernelTable& AmxKernels() {
  static const KernelTable table = [] {
    KernelTable amx = kAvx512Kernels;
    amx.name = "avx512vnni+bf16+amx";
    amx.gemm_prompt = GemmPromptAmx;
    return amx;
  }();
  return table;
}
#endif

// The AMX kernel was written without a processor to try it on: not taken where it is wrong.
bool Trusted(CpuIsa isa) {
#if defined(__x86_64__)
  if (isa == CpuIsa::kAmx) {
    return SamePromptProducts(AmxKernels().gemm_prompt, kAvx512Kernels.gemm_prompt);
  }
#endif
  return true;
}

const KernelTable& KernelsFor(CpuIsa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::kAvx2:
      return kAvx2Kernels;
    case CpuIsa::kAvx512:
      return kAvx512Kernels;
    case CpuIsa::kAvx512Bf16:
      return Avx512Bf16Kernels();
    case CpuIsa::kAmx:
      return AmxKernels();
#endif
    default:
      return kPortableKernels;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CpuBackend::Create(const CpuBackendOptions& options) {
  const CpuFeatures features = DetectCpuFeatures();
  std::vector<CpuIsa> supported = SupportedIsas(features);
  const bool wants_best = options.isa.value_or(supported.back()) == supported.back();
  if (wants_best && !Trusted(supported.back())) supported.pop_back();
  const CpuIsa isa = options.isa.value_or(supported.back());
  if (std::find(supported.begin(), supported.end(), isa) == supported.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "instruction set ", std::string(CpuIsaName(isa)), " asked for, ", features.model_name,
        " has at most ", std::string(CpuIsaName(supported.back()))));
  }
  const int cpus = AvailableCpus();
  ThreadPool::Options pool_options;
  pool_options.num_threads = options.num_threads == 0 ? cpus : options.num_threads;
  // Threads that have to share a processor must not keep it from each other.
  pool_options.watch_microseconds =
      pool_options.num_threads > cpus ? 0 : options.watch_microseconds;
  std::unique_ptr<CpuBackend> backend(new CpuBackend());
  SLIM_ASSIGN_OR_RETURN(backend->pool_, ThreadPool::Create(pool_options));
  backend->context_.kernels = &KernelsFor(isa);
  backend->context_.pool = backend->pool_.get();
  backend->info_.name = "cpu";
  backend->info_.device = features.model_name;
  backend->info_.isa = std::string(CpuIsaName(isa));
  backend->info_.num_threads = pool_options.num_threads;
  backend->info_.kv_type = backend->context_.kernels->kv_bytes ? KvType::kInt8 : KvType::kBF16;
  backend->info_.reads_keys_apart = true;
  backend->info_.prompt_rows_apart = backend->context_.kernels->gemm_prompt != nullptr;
  return std::unique_ptr<Backend>(std::move(backend));
}

absl::StatusOr<Buffer> CpuBackend::Allocate(int64_t bytes) { return AllocateAligned(bytes); }

absl::Status CpuBackend::CopyFromHost(const void* host, void* device, int64_t bytes) {
  std::memcpy(device, host, bytes);
  return absl::OkStatus();
}

absl::Status CpuBackend::CopyToHost(const void* device, void* host, int64_t bytes) {
  std::memcpy(host, device, bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LinearWeight>> CpuBackend::PrepareLinear(const HostTensor& tensor) {
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<PackedWeight> weight,
                        PackedWeight::Create(tensor, arena_, *pool_));
  weight_bytes_ += weight->bytes();
  return std::unique_ptr<LinearWeight>(std::move(weight));
}

absl::Status CpuBackend::PreparePromptRows(absl::Span<LinearWeight* const> weights) {
  if (context_.kernels->pack_prompt_tile == nullptr) return absl::OkStatus();
  int64_t room = std::min(weight_bytes_ + weight_bytes_ / 4, AvailableMemoryBytes() / 8);
  for (LinearWeight* weight : weights) {
    auto* packed = static_cast<PackedWeight*>(weight);
    const int64_t bytes = packed->PromptBytes();
    if (bytes == 0 || bytes > room) continue;
    SLIM_RETURN_IF_ERROR(packed->KeepPromptForm(arena_, *pool_, *context_.kernels));
    room -= bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<Buffer> CpuBackend::PrepareVector(const HostTensor& tensor) {
  if (tensor.rows != 1 || tensor.cols <= 0 || tensor.data == nullptr ||
      BlockElements(tensor.dtype) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("vector ", tensor.name, " is ", std::string(DTypeName(tensor.dtype)), " [",
                     tensor.rows, ", ", tensor.cols, "], allowed are F32, F16, BF16 and one row"));
  }
  SLIM_ASSIGN_OR_RETURN(Buffer buffer,
                        AllocateAligned(tensor.cols * static_cast<int64_t>(sizeof(float))));
  DequantizeRow(tensor, 0, static_cast<float*>(buffer.data()));
  return buffer;
}

absl::Status CpuBackend::Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                                   int64_t max_positions) {
  if (layout.type != info_.kv_type) {
    return absl::InvalidArgumentError(absl::StrCat(
        "keys and values are kept as ", KvTypeName(info_.kv_type), " by these kernels (", info_.isa,
        "), asked for was ", KvTypeName(layout.type)));
  }
  if (!(layout.head_dim > 0 && layout.head_dim % 16 == 0 && layout.head_dim <= kMostHeadDims)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "head_dim is ", layout.head_dim, ", allowed are multiples of 16 up to ", kMostHeadDims));
  }
  const int tokens = layout.block_tokens;
  if (!(tokens >= 32 && tokens <= 512 && (tokens & (tokens - 1)) == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_tokens is ", tokens, ", allowed are powers of two from 32 to 512"));
  }
  if (!(layout.num_kv_heads > 0 && num_heads > 0 && num_heads % layout.num_kv_heads == 0)) {
    return absl::InvalidArgumentError(absl::StrCat("num_heads is ", num_heads, ", allowed are ",
                                                   "multiples of num_kv_heads, which is ",
                                                   layout.num_kv_heads));
  }
  if (rope.head_dim != layout.head_dim || max_positions <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope.head_dim is ", rope.head_dim, ", wanted is ", layout.head_dim,
                     "; max_positions is ", max_positions, ", wanted is 1 or more"));
  }
  context_.shape.layout = layout;
  context_.shape.num_heads = num_heads;
  return PrepareRope(rope, max_positions, *pool_, &context_.shape);
}

absl::Status CpuBackend::Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                               TensorView out) {
  return CpuEmbed(context_, embedding, tokens, out);
}

absl::Status CpuBackend::Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) {
  return CpuLinear(context_, input, outputs);
}

absl::Status CpuBackend::FeedForward(const FeedForwardArgs& args) {
  if (!FusesSwiGlu(context_, args)) return Backend::FeedForward(args);
  return CpuFeedForward(context_, args);
}

absl::Status CpuBackend::CopyRows(TensorView src, absl::Span<const int64_t> src_rows,
                                  TensorView dst, absl::Span<const int64_t> dst_rows) {
  SLIM_CHECK(src.cols == dst.cols && src_rows.size() == dst_rows.size());
  const int64_t cols = src.cols;
  pool_->ParallelFor(src_rows.size(), 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(dst.f32() + dst_rows[i] * cols, src.f32() + src_rows[i] * cols,
                  cols * sizeof(float));
    }
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::Rope(TensorView q, absl::Span<const int32_t> positions) {
  CpuRope(context_, q, positions);
  return absl::OkStatus();
}

absl::Status CpuBackend::RopeAndStoreKv(TensorView k, TensorView v,
                                        absl::Span<const int32_t> positions,
                                        absl::Span<const KvSlot> slots) {
  CpuRopeAndStoreKv(context_, k, v, positions, slots);
  return absl::OkStatus();
}

absl::Status CpuBackend::Attention(TensorView q, absl::Span<const int32_t> positions,
                                   absl::Span<const AttentionSequence> sequences, TensorView out) {
  return CpuAttention(context_, q, positions, sequences, out);
}

absl::Status CpuBackend::ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) {
  return CpuScoreBlocks(context_, args, scores);
}

}  // namespace slim
