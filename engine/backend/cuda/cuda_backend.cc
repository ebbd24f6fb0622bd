#include "engine/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/cuda_kv_memory.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim::cuda {
namespace {

constexpr int kMaxHeadsPerKvHead = 32;
// What the kernel of the unit scores holds on chip, in floats, without asking for more than 48 KiB.
constexpr int kMaxKvWidth = 8192;  // kv heads times head_dim
constexpr int kMaxHeads = 4096;
// Thread blocks of a launch along y.
constexpr int64_t kMaxGridY = 65535;
// Memory for the scores of a window, at most; 128K tokens need half a MiB per query.
constexpr int64_t kScoreDotsBytes = int64_t{64} << 20;

Element ElementOf(DType type) {
  SLIM_CHECK(type == DType::kF32 || type == DType::kBF16);
  return type == DType::kF32 ? Element::kF32 : Element::kBf16;
}

Bf16* Bf16Data(const TensorView& view) {
  SLIM_CHECK(view.dtype == DType::kBF16);
  return static_cast<Bf16*>(view.data);
}

float* F32Data(const TensorView& view) {
  SLIM_CHECK(view.dtype == DType::kF32);
  return view.f32();
}

// Scores are never put off, so their arguments may be pointed to.
cudaError_t LaunchUnits(const ScoreArgs* args, UnitScore kind, float* qbar, cudaStream_t stream) {
  return ScoreUnits(*args, kind, qbar, stream);
}
cudaError_t LaunchWindow(const ScoreArgs* args, int queries_at_once, float* dots, float* results,
                         cudaStream_t stream) {
  return ScoreWindow(*args, queries_at_once, dots, results, stream);
}

template <typename T>
HostArray ArrayOf(absl::Span<const T> values) {
  return {values.data(), static_cast<int64_t>(values.size() * sizeof(T))};
}

template <typename T>
HostArray ArrayOf(const std::vector<T>& values) {
  return ArrayOf(absl::MakeConstSpan(values));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create() {
  std::unique_ptr<CudaBackend> backend(new CudaBackend());
  SLIM_ASSIGN_OR_RETURN(backend->context_, CudaContext::Create());
  SLIM_ASSIGN_OR_RETURN(backend->matmul_, CudaMatmul::Create(backend->context_.get()));
  backend->info_.name = "cuda";
  backend->info_.device = backend->context_->device_name();
  backend->info_.isa = absl::StrCat("sm_", backend->context_->compute_capability());
  backend->info_.kv_type = KvType::kBF16;
  backend->info_.activation_type = DType::kBF16;
  size_t free_bytes = 0, total_bytes = 0;
  SLIM_RETURN_IF_ERROR(FromCuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  backend->info_.free_device_bytes = static_cast<int64_t>(free_bytes);
  backend->info_.device_bytes_per_second = backend->context_->bytes_per_second();
  return std::unique_ptr<Backend>(std::move(backend));
}

// ---------------------------------------------------------------- memory and weights

absl::StatusOr<Buffer> CudaBackend::Allocate(int64_t bytes) { return context_->Allocate(bytes); }

absl::Status CudaBackend::CopyFromHost(const void* host, void* device, int64_t bytes) {
  SLIM_RETURN_IF_ERROR(context_->Flush());
  SLIM_RETURN_IF_ERROR(context_->Check(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes),
                                                       cudaMemcpyHostToDevice, context_->stream()),
                                       "cudaMemcpyAsync"));
  return context_->Synchronize();  // the caller may change `host` at once
}

absl::Status CudaBackend::CopyToHost(const void* device, void* host, int64_t bytes) {
  SLIM_RETURN_IF_ERROR(context_->Flush());
  SLIM_RETURN_IF_ERROR(context_->Check(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes),
                                                       cudaMemcpyDeviceToHost, context_->stream()),
                                       "cudaMemcpyAsync"));
  return context_->Synchronize();
}

bool CudaBackend::StartOpTimes() {
  context_->StartOpTimes();
  return true;
}

absl::StatusOr<KvMemories> CudaBackend::CreateKvMemories(const KvMemorySizes& sizes) {
  return CreateCudaKvMemories(context_, sizes);
}

absl::StatusOr<std::unique_ptr<LinearWeight>> CudaBackend::PrepareLinear(const HostTensor& tensor) {
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<CudaWeight> weight, CudaWeight::Create(tensor, *context_));
  return std::unique_ptr<LinearWeight>(std::move(weight));
}

absl::StatusOr<Buffer> CudaBackend::PrepareVector(const HostTensor& tensor) {
  if (tensor.rows != 1 || tensor.cols <= 0 || tensor.data == nullptr ||
      BlockElements(tensor.dtype) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("vector ", tensor.name, " is ", std::string(DTypeName(tensor.dtype)), " [",
                     tensor.rows, ", ", tensor.cols, "], allowed are F32, F16, BF16 and one row"));
  }
  std::vector<float> values(tensor.cols);
  DequantizeRow(tensor, 0, values.data());
  const int64_t bytes = tensor.cols * static_cast<int64_t>(sizeof(float));
  SLIM_ASSIGN_OR_RETURN(Buffer buffer, context_->Allocate(bytes));
  SLIM_RETURN_IF_ERROR(CopyFromHost(values.data(), buffer.data(), bytes));
  return buffer;
}

// ---------------------------------------------------------------- configuration

absl::Status CudaBackend::Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                                    int64_t max_positions) {
  if (layout.type != KvType::kBF16) {
    return absl::InvalidArgumentError("the CUDA backend keeps keys and values in bf16 only");
  }
  if (layout.values_after != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("values_after is ", layout.values_after,
                     ", the CUDA backend wants 0: a slab's values right behind its keys"));
  }
  const int dims = layout.head_dim;
  if (!(dims == 32 || dims == 64 || dims == 96 || dims == 128)) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim is ", dims, ", the CUDA backend has 32, 64, 96 and 128"));
  }
  if (!(layout.block_tokens == 32 || layout.block_tokens == 64)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_tokens is ", layout.block_tokens, ", allowed are 32 and 64"));
  }
  if (!(layout.num_kv_heads > 0 && num_heads > 0 && num_heads % layout.num_kv_heads == 0 &&
        num_heads / layout.num_kv_heads <= kMaxHeadsPerKvHead && num_heads <= kMaxHeads &&
        layout.num_kv_heads * dims <= kMaxKvWidth)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_heads is ", num_heads, ", allowed are multiples of num_kv_heads, which is ",
        layout.num_kv_heads, ", up to ", kMaxHeadsPerKvHead, " times that and ", kMaxHeads,
        ", with at most ", kMaxKvWidth / dims, " kv heads"));
  }
  if (rope.head_dim != dims || max_positions <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("rope.head_dim is ", rope.head_dim,
                                                   ", wanted is ", dims, "; max_positions is ",
                                                   max_positions, ", wanted is 1 or more"));
  }
  shape_ = HeadShape{dims, num_heads, layout.num_kv_heads, layout.block_tokens};
  return UploadRope(rope, max_positions);
}

absl::Status CudaBackend::UploadRope(const RopeParams& rope, int64_t max_positions) {
  const int half = rope.rotary_dims / 2;
  if (!(rope.rotary_dims >= 0 && rope.rotary_dims % 2 == 0 && rope.rotary_dims <= rope.head_dim)) {
    return absl::InvalidArgumentError(absl::StrCat("rotary_dims is ", rope.rotary_dims,
                                                   ", allowed are even numbers from 0 to ",
                                                   rope.head_dim));
  }
  if (!rope.frequency_factors.empty() &&
      rope.frequency_factors.size() != static_cast<size_t>(half)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "frequency_factors has ", rope.frequency_factors.size(), " entries, wanted are ", half));
  }
  std::vector<double> frequencies(half);
  for (int i = 0; i < half; ++i) {
    frequencies[i] = std::pow(double{rope.base}, -2.0 * i / rope.rotary_dims);
    if (!rope.frequency_factors.empty()) frequencies[i] /= rope.frequency_factors[i];
  }
  std::vector<float> angles(max_positions * rope.rotary_dims);
  for (int64_t p = 0; p < max_positions; ++p) {
    for (int i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[i];
      angles[p * rope.rotary_dims + 2 * i] = static_cast<float>(std::cos(angle));
      angles[p * rope.rotary_dims + 2 * i + 1] = static_cast<float>(std::sin(angle));
    }
  }
  const auto bytes = static_cast<int64_t>(angles.size() * sizeof(float));
  SLIM_ASSIGN_OR_RETURN(rope_angles_, context_->Allocate(bytes));
  SLIM_RETURN_IF_ERROR(CopyFromHost(angles.data(), rope_angles_.data(), bytes));
  rope_.angles = static_cast<const float*>(rope_angles_.data());
  rope_.rotary_dims = rope.rotary_dims;
  rope_.neighbouring_pairs = rope.neighbouring_pairs ? 1 : 0;
  max_positions_ = max_positions;
  return absl::OkStatus();
}

// ---------------------------------------------------------------- rows and products

absl::Status CudaBackend::Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                                TensorView out) {
  const auto& weight = static_cast<const CudaWeight&>(embedding);
  SLIM_CHECK(out.rows == static_cast<int64_t>(tokens.size()) && out.cols == weight.inputs());
  if (tokens.empty()) return absl::OkStatus();
  void* device = nullptr;
  SLIM_RETURN_IF_ERROR(context_->BeginOp(out.rows));
  SLIM_RETURN_IF_ERROR(context_->Upload({ArrayOf(tokens)}, absl::MakeSpan(&device, 1)));
  return context_->Submit<Op::kEmbed, &cuda::Embed>(
      weight.data(), static_cast<const int32_t*>(device), out.rows, out.cols, F32Data(out));
}

absl::StatusOr<const Bf16*> CudaBackend::Transform(const LinearInput& input) {
  const TensorView& x = input.x;
  if (input.kind == LinearInput::Kind::kPlain && x.dtype == DType::kBF16) return Bf16Data(x);
  SLIM_ASSIGN_OR_RETURN(
      void* const memory,
      transformed_.Get(*context_, x.rows * x.cols * static_cast<int64_t>(sizeof(Bf16))));
  auto* out = static_cast<Bf16*>(memory);
  switch (input.kind) {
    case LinearInput::Kind::kPlain:
      SLIM_RETURN_IF_ERROR(
          (context_->Submit<Op::kConvert, &ConvertToBf16>(F32Data(x), x.rows * x.cols, out)));
      break;
    case LinearInput::Kind::kRmsNorm:
      SLIM_RETURN_IF_ERROR((context_->Submit<Op::kRmsNorm, &RmsNorm>(
          F32Data(x), static_cast<const float*>(input.norm_weight->data()), input.eps, x.rows,
          x.cols, out)));
      break;
    case LinearInput::Kind::kSwiGlu:
      SLIM_CHECK(input.up.rows == x.rows && input.up.cols == x.cols);
      SLIM_RETURN_IF_ERROR((context_->Submit<Op::kSwiGlu, &SwiGlu>(Bf16Data(x), Bf16Data(input.up),
                                                                   x.rows * x.cols, out)));
      break;
  }
  return out;
}

absl::Status CudaBackend::Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) {
  const int64_t rows = input.x.rows;
  if (rows == 0) return absl::OkStatus();
  SLIM_RETURN_IF_ERROR(context_->BeginOp(rows));
  SLIM_ASSIGN_OR_RETURN(const Bf16* const x, Transform(input));
  for (const LinearOutput& output : outputs) {
    const auto& weight = static_cast<const CudaWeight&>(*output.weight);
    SLIM_CHECK(weight.inputs() == input.x.cols && output.out.rows == rows &&
               output.out.cols == weight.outputs());
    const Element type = ElementOf(output.out.dtype);
    if (output.bias != nullptr) {
      // The product is then added to the bias before the one rounding of the result.
      SLIM_RETURN_IF_ERROR((context_->Submit<Op::kBias, &FillBias>(
          static_cast<const float*>(output.bias->data()), output.accumulate, rows, output.out.cols,
          output.out.data, type)));
    }
    SLIM_RETURN_IF_ERROR(matmul_->Run(x, rows, weight, output.out.data, type,
                                      output.accumulate || output.bias != nullptr));
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::CopyRows(TensorView src, absl::Span<const int64_t> src_rows,
                                   TensorView dst, absl::Span<const int64_t> dst_rows) {
  SLIM_CHECK(src.cols == dst.cols && src.dtype == dst.dtype && src_rows.size() == dst_rows.size());
  if (src_rows.empty()) return absl::OkStatus();
  void* device[2] = {};
  const auto rows = static_cast<int64_t>(src_rows.size());
  SLIM_RETURN_IF_ERROR(context_->BeginOp(rows));
  SLIM_RETURN_IF_ERROR(
      context_->Upload({ArrayOf(src_rows), ArrayOf(dst_rows)}, absl::MakeSpan(device)));
  return context_->Submit<Op::kCopyRows, &cuda::CopyRows>(
      src.data, static_cast<const int64_t*>(device[0]), dst.data,
      static_cast<const int64_t*>(device[1]), rows, src.row_bytes());
}

// ---------------------------------------------------------------- positions, keys, attention

absl::Status CudaBackend::Rope(TensorView q, absl::Span<const int32_t> positions) {
  SLIM_CHECK(static_cast<int64_t>(positions.size()) == q.rows && q.cols % shape_.head_dim == 0);
  for (const int32_t position : positions) SLIM_CHECK(position >= 0 && position < max_positions_);
  if (q.rows == 0) return absl::OkStatus();
  void* device = nullptr;
  SLIM_RETURN_IF_ERROR(context_->BeginOp(q.rows));
  SLIM_RETURN_IF_ERROR(context_->Upload({ArrayOf(positions)}, absl::MakeSpan(&device, 1)));
  return context_->Submit<Op::kRope, &cuda::Rope>(
      rope_, shape_.head_dim, static_cast<int>(q.cols / shape_.head_dim), q.data,
      ElementOf(q.dtype), q.rows, static_cast<const int32_t*>(device));
}

absl::Status CudaBackend::RopeAndStoreKv(TensorView k, TensorView v,
                                         absl::Span<const int32_t> positions,
                                         absl::Span<const KvSlot> slots) {
  SLIM_CHECK(static_cast<int64_t>(positions.size()) == k.rows && v.rows == k.rows &&
             slots.size() == positions.size());
  SLIM_CHECK(k.cols == int64_t{shape_.num_kv_heads} * shape_.head_dim && v.cols == k.cols);
  if (k.rows == 0) return absl::OkStatus();
  slot_slabs_.clear();
  slot_numbers_.clear();
  for (size_t r = 0; r < slots.size(); ++r) {
    SLIM_CHECK(slots[r].slot >= 0 && slots[r].slot < shape_.block_tokens);
    SLIM_CHECK(positions[r] >= 0 && positions[r] < max_positions_);
    slot_slabs_.push_back(slots[r].slab);
    slot_numbers_.push_back(slots[r].slot);
  }
  void* device[3] = {};
  SLIM_RETURN_IF_ERROR(context_->BeginOp(k.rows));
  SLIM_RETURN_IF_ERROR(context_->Upload(
      {ArrayOf(positions), ArrayOf(slot_slabs_), ArrayOf(slot_numbers_)}, absl::MakeSpan(device)));
  return context_->Submit<Op::kStoreKv, &RopeStoreKv>(
      rope_, shape_, Bf16Data(k), Bf16Data(v), k.rows, static_cast<const int32_t*>(device[0]),
      static_cast<void* const*>(device[1]), static_cast<const int32_t*>(device[2]));
}

absl::Status CudaBackend::Attention(TensorView q, absl::Span<const int32_t> positions,
                                    absl::Span<const AttentionSequence> sequences, TensorView out) {
  SLIM_CHECK(q.cols == int64_t{shape_.num_heads} * shape_.head_dim && out.cols == q.cols &&
             static_cast<int64_t>(positions.size()) >= q.rows && out.rows == q.rows);
  PlanAttention(shape_, positions, sequences, &plan_);
  if (plan_.tiles.empty() && plan_.rows.empty()) return absl::OkStatus();
  SLIM_RETURN_IF_ERROR(context_->BeginOp(q.rows));
  if (context_->deferring()) plan_.PadSplits();
  SLIM_ASSIGN_OR_RETURN(
      void* const partials,
      partials_.Get(*context_, plan_.num_partials() *
                                   DecodePartialFloats(shape_.num_heads, shape_.head_dim) *
                                   static_cast<int64_t>(sizeof(float))));
  void* device[6] = {};
  SLIM_RETURN_IF_ERROR(
      context_->Upload({ArrayOf(positions), ArrayOf(plan_.slabs), ArrayOf(plan_.block_ids),
                        ArrayOf(plan_.tiles), ArrayOf(plan_.splits), ArrayOf(plan_.rows)},
                       absl::MakeSpan(device)));
  AttentionArgs args;
  args.shape = shape_;
  args.q = Bf16Data(q);
  args.out = Bf16Data(out);
  args.positions = static_cast<const int32_t*>(device[0]);
  args.slabs = static_cast<const void* const*>(device[1]);
  args.block_ids = static_cast<const int32_t*>(device[2]);
  if (!plan_.tiles.empty()) {
    SLIM_RETURN_IF_ERROR((context_->Submit<Op::kAttentionPrefill, &AttentionPrefill>(
        args, static_cast<const PrefillTile*>(device[3]), static_cast<int>(plan_.tiles.size()))));
  }
  if (plan_.rows.empty()) return absl::OkStatus();
  return context_->Submit<Op::kAttentionDecode, &AttentionDecode>(
      args, static_cast<const DecodeSplit*>(device[4]), plan_.num_partials(),
      static_cast<const DecodeRow*>(device[5]), static_cast<int>(plan_.rows.size()),
      static_cast<float*>(partials));
}

// ---------------------------------------------------------------- block scores

absl::Status CudaBackend::LaunchScores(ScoreKind kind, const ScoreArgs& args) {
  constexpr int64_t kFloat = sizeof(float);
  if (kind != ScoreKind::kWindowAttention) {
    SLIM_CHECK(kind != ScoreKind::kRecency && kind != ScoreKind::kRandom);
    SLIM_ASSIGN_OR_RETURN(
        void* const qbar,
        score_dots_.Get(*context_, int64_t{shape_.num_heads} * shape_.head_dim * kFloat));
    const UnitScore unit = kind == ScoreKind::kUnitSigned ? UnitScore::kSignedMax
                           : kind == ScoreKind::kMeanPool ? UnitScore::kMean
                           : kind == ScoreKind::kMaxPool  ? UnitScore::kMaxPool
                                                          : UnitScore::kMax;
    return context_->Submit<Op::kScoreBlocks, &LaunchUnits>(&args, unit, static_cast<float*>(qbar));
  }
  const int64_t query_bytes = int64_t{args.blocks} * shape_.block_tokens * kFloat;
  const int64_t queries = int64_t{args.window} * shape_.num_heads;
  const int64_t at_once =
      std::clamp<int64_t>(kScoreDotsBytes / query_bytes, 1, std::min(queries, kMaxGridY));
  SLIM_ASSIGN_OR_RETURN(void* const dots, score_dots_.Get(*context_, at_once * query_bytes));
  SLIM_ASSIGN_OR_RETURN(void* const results,
                        score_results_.Get(*context_, at_once * args.blocks * kFloat));
  return context_->Submit<Op::kScoreBlocks, &LaunchWindow>(
      &args, static_cast<int>(at_once), static_cast<float*>(dots), static_cast<float*>(results));
}

absl::Status CudaBackend::ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) {
  SLIM_CHECK(args.slabs.size() == args.block_ids.size() && scores.size() == args.slabs.size());
  SLIM_CHECK(args.queries.rows > 0 && args.num_heads == shape_.num_heads &&
             args.queries.cols == int64_t{shape_.num_heads} * shape_.head_dim);
  if (scores.empty()) return absl::OkStatus();
  SLIM_RETURN_IF_ERROR(context_->BeginOp(CudaContext::kAtOnce));
  // The last array only makes room for the scores.
  const HostArray room{scores.data(), static_cast<int64_t>(scores.size() * sizeof(float))};
  void* device[4] = {};
  SLIM_RETURN_IF_ERROR(context_->Upload(
      {ArrayOf(args.positions), ArrayOf(args.slabs), ArrayOf(args.block_ids), room},
      absl::MakeSpan(device)));
  ScoreArgs launch;
  launch.shape = shape_;
  launch.queries = args.queries.data;
  launch.query_type = ElementOf(args.queries.dtype);
  launch.positions = static_cast<const int32_t*>(device[0]);
  launch.window = static_cast<int>(args.queries.rows);
  launch.slabs = static_cast<const void* const*>(device[1]);
  launch.block_ids = static_cast<const int32_t*>(device[2]);
  launch.blocks = static_cast<int>(scores.size());
  launch.num_tokens = args.num_tokens;
  launch.scores = static_cast<float*>(device[3]);
  SLIM_RETURN_IF_ERROR(LaunchScores(args.kind, launch));
  return CopyToHost(launch.scores, scores.data(), room.bytes);
}

}  // namespace slim::cuda
