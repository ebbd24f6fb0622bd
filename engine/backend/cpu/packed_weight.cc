#include "engine/backend/cpu/packed_weight.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/workspace.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

constexpr int64_t kChunkBytes = int64_t{16} << 20;

uint16_t LoadU16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
uint32_t LoadU32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
void StoreU32(uint8_t* p, uint32_t value) { std::memcpy(p, &value, sizeof(value)); }

// 16 bytes of nibbles of one group and output: input i in the low half of byte i, input 16 + i in
// the high half of byte i. Four inputs at a time.
void PackNibbles(const uint8_t* from, uint8_t* group, int lane) {
  constexpr uint32_t kLow = 0x0f0f0f0fu;
  for (int v = 0; v < 2; ++v) {
    const uint32_t a = LoadU32(from + 8 * v), b = LoadU32(from + 8 * v + 4);
    StoreU32(group + v * 64 + lane * 4, (a & kLow) | ((b & kLow) << 4));
    StoreU32(group + (v + 2) * 64 + lane * 4, ((a >> 4) & kLow) | (b & ~kLow));
  }
}

void PackBytes(const uint8_t* from, uint8_t* group, int lane) {
  for (int v = 0; v < 8; ++v) {
    StoreU32(group + v * 64 + lane * 4, LoadU32(from + 4 * v) ^ 0x80808080u);
  }
}

}  // namespace

absl::StatusOr<uint8_t*> WeightArena::Take(int64_t bytes, std::shared_ptr<Buffer>* chunk) {
  const int64_t rounded = (bytes + 63) / 64 * 64;
  const auto unused = [](const Chunk& chunk) { return chunk.buffer.use_count() == 1; };
  chunks_.erase(std::remove_if(chunks_.begin(), chunks_.end(), unused), chunks_.end());
  auto it = std::find_if(chunks_.begin(), chunks_.end(), [rounded](const Chunk& with) {
    return with.used_bytes + rounded <= with.buffer->bytes();
  });
  if (it == chunks_.end()) {
    SLIM_ASSIGN_OR_RETURN(Buffer buffer, AllocateAligned(std::max(rounded, kChunkBytes)));
    it = chunks_.insert(it, {std::make_shared<Buffer>(std::move(buffer)), 0});
  }
  auto* data = static_cast<uint8_t*>(it->buffer->data()) + it->used_bytes;
  it->used_bytes += rounded;
  *chunk = it->buffer;
  return data;
}

PackedWeight::PackedWeight(const HostTensor& tensor)
    : outputs_(tensor.rows), inputs_(tensor.cols), dtype_(tensor.dtype) {
  const int64_t groups = inputs_ / kGroup;
  switch (dtype_) {
    case DType::kF32:
      kind_ = PackedKind::kF32;
      tile_bytes_ = inputs_ * kTileOutputs * 4;
      break;
    case DType::kF16:
    case DType::kBF16:
      kind_ = dtype_ == DType::kF16 ? PackedKind::kF16 : PackedKind::kBF16;
      tile_bytes_ = inputs_ * kTileOutputs * 2;
      break;
    case DType::kQ8_0:
      kind_ = PackedKind::kU8;
      zero_point_ = 128;
      break;
    case DType::kQ4_0:
    case DType::kQ4_1:
      kind_ = PackedKind::kU4;
      has_min_ = dtype_ == DType::kQ4_1;
      zero_point_ = has_min_ ? 0 : 8;
      break;
  }
  if (!quantized()) return;
  tile_bytes_ = groups * GroupStep(nibbles(), has_min_);
  tile_scales_ = groups * ScaleStep(nibbles(), has_min_);
  if (!has_min_) scale_bytes_ = 2 * tile_scales_;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> PackedWeight::Create(const HostTensor& tensor,
                                                                   WeightArena& arena,
                                                                   ThreadPool& pool) {
  if (!(tensor.rows > 0 && tensor.cols > 0 && tensor.data != nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, " [", tensor.rows, ", ", tensor.cols, "] is empty"));
  }
  if (tensor.cols % BlockElements(tensor.dtype) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, " of type ", std::string(DTypeName(tensor.dtype)),
                     " has ", tensor.cols, " columns, allowed are multiples of 32"));
  }
  std::unique_ptr<PackedWeight> weight(new PackedWeight(tensor));
  const int64_t tiles = weight->num_tiles();
  SLIM_ASSIGN_OR_RETURN(uint8_t* const data, arena.Take(weight->bytes(), &weight->chunk_));
  const bool scales_first = weight->has_min_;
  weight->tiles_ = scales_first ? data + kMinScaleBytes : data;
  weight->scales_ =
      reinterpret_cast<uint16_t*>(scales_first ? data : data + tiles * weight->tile_bytes_);
  pool.ParallelFor(tiles, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) weight->PackTile(tensor, tile);
  });
  return weight;
}

int64_t PackedWeight::PromptBytes() const {
  if (!quantized() || inputs_ % kPromptBlock != 0) return 0;
  return num_tiles() * kTileOutputs * (inputs_ + 8 * PromptSpans(inputs_));
}

PromptWeight PackedWeight::PromptFormIn(void* memory) const {
  const int64_t outputs = num_tiles() * kTileOutputs;
  PromptWeight form;
  form.bytes = static_cast<int8_t*>(memory);
  form.scales = reinterpret_cast<float*>(form.bytes + outputs * inputs_);
  form.starts = reinterpret_cast<int32_t*>(form.scales + outputs * PromptSpans(inputs_));
  return form;
}

void PackedWeight::PackPromptTile(int64_t tile, const PromptWeight& form,
                                  const KernelTable& kernels) const {
  GemmArgs args;
  Describe(tile, 1, &args);
  kernels.pack_prompt_tile(args, PromptFormFrom(form, tile, inputs_));
}

absl::Status PackedWeight::KeepPromptForm(WeightArena& arena, ThreadPool& pool,
                                          const KernelTable& kernels) {
  SLIM_ASSIGN_OR_RETURN(uint8_t* const data, arena.Take(PromptBytes(), &prompt_chunk_));
  prompt_ = PromptFormIn(data);
  pool.ParallelFor(num_tiles(), 2, [&](int64_t begin, int64_t end, int) {
    for (int64_t tile = begin; tile < end; ++tile) PackPromptTile(tile, prompt_, kernels);
  });
  return absl::OkStatus();
}

PromptWeight PromptFormFrom(const PromptWeight& form, int64_t tile, int64_t inputs) {
  const int64_t first = tile * kTileOutputs, spans = PromptSpans(inputs);
  return {form.bytes + first * inputs, form.scales + first * spans, form.starts + first * spans};
}

void PackedWeight::PackTile(const HostTensor& tensor, int64_t tile) {
  const int64_t end = std::min(outputs_, (tile + 1) * kTileOutputs);
  for (int64_t output = tile * kTileOutputs; output < end; ++output) PackOutput(tensor, output);
}

void PackedWeight::PackOutput(const HostTensor& tensor, int64_t output) {
  const int64_t tile = output / kTileOutputs;
  const int lane = static_cast<int>(output % kTileOutputs);
  const int64_t blocks = inputs_ / BlockElements(dtype_);
  const int64_t block_bytes = BlockBytes(dtype_);
  const auto* from = static_cast<const uint8_t*>(tensor.data) + output * blocks * block_bytes;
  uint8_t* to = tiles_ + tile * tile_bytes_;
  uint16_t* scales = scales_ + tile * tile_scales_ + lane;
  const int group_step = GroupStep(nibbles(), has_min_),
            scale_step = ScaleStep(nibbles(), has_min_);
  for (int64_t b = 0; b < blocks; ++b, from += block_bytes) {
    switch (dtype_) {
      case DType::kF32:
        std::memcpy(to + (b * kTileOutputs + lane) * 4, from, 4);
        break;
      case DType::kF16:
      case DType::kBF16:
        std::memcpy(to + (b * kTileOutputs + lane) * 2, from, 2);
        break;
      case DType::kQ8_0:
        scales[b * scale_step] = LoadU16(from);
        PackBytes(from + 2, to + b * group_step, lane);
        break;
      case DType::kQ4_0:
        scales[b * scale_step] = LoadU16(from);
        PackNibbles(from + 2, to + b * group_step, lane);
        break;
      case DType::kQ4_1:
        scales[b * scale_step] = LoadU16(from);
        scales[b * scale_step + 16] = LoadU16(from + 2);
        PackNibbles(from + 4, to + b * group_step, lane);
        break;
    }
  }
}

void PackedWeight::Describe(int64_t first_tile, int tiles, GemmArgs* args) const {
  args->kind = kind_;
  args->inputs = inputs_;
  args->tiles = tiles;
  args->columns = static_cast<int>(
      std::min<int64_t>(int64_t{tiles} * kTileOutputs, outputs_ - first_tile * kTileOutputs));
  args->has_min = has_min_;
  args->zero_point = zero_point_;
  args->weights = tiles_ + first_tile * tile_bytes_;
  args->tile_bytes = tile_bytes_;
  args->scales = scales_ + first_tile * tile_scales_;
  args->tile_scales = tile_scales_;
}

void PackedWeight::Dequantize(int64_t output, float* out) const {
  const int64_t tile = output / kTileOutputs;
  const int lane = static_cast<int>(output % kTileOutputs);
  const uint8_t* from = tiles_ + tile * tile_bytes_;
  const uint16_t* scales = scales_ + tile * tile_scales_ + lane;
  const int group_step = GroupStep(nibbles(), has_min_),
            scale_step = ScaleStep(nibbles(), has_min_);
  for (int64_t i = 0; i < inputs_; ++i) {
    const int64_t group = i / kGroup;
    const int in_group = static_cast<int>(i % kGroup), j = in_group % 4;
    switch (kind_) {
      case PackedKind::kF32:
        std::memcpy(out + i, from + (i * kTileOutputs + lane) * 4, 4);
        break;
      case PackedKind::kF16:
        out[i] = F16ToF32(LoadU16(from + (i * kTileOutputs + lane) * 2));
        break;
      case PackedKind::kBF16:
        out[i] = BF16ToF32(LoadU16(from + (i * kTileOutputs + lane) * 2));
        break;
      case PackedKind::kU8: {
        const int q = from[group * group_step + (in_group / 4) * 64 + lane * 4 + j] - zero_point_;
        out[i] = F16ToF32(scales[group * scale_step]) * static_cast<float>(q);
        break;
      }
      case PackedKind::kU4: {
        const int byte = from[group * group_step + (in_group / 8) * 64 + lane * 4 + j];
        const int q = (in_group % 8 < 4 ? byte & 15 : byte >> 4) - zero_point_;
        const uint16_t* s = scales + group * scale_step;
        out[i] = F16ToF32(s[0]) * static_cast<float>(q);
        if (has_min_) out[i] += F16ToF32(s[16]);
        break;
      }
    }
  }
}

}  // namespace slim
