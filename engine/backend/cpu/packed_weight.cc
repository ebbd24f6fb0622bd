#include "engine/backend/cpu/packed_weight.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

PackedWeight::Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_1:
      return PackedWeight::Format::kQ4;
    case DType::kQ8_0:
      return PackedWeight::Format::kQ8;
    default:
      return PackedWeight::Format::kFloat;
  }
}

int64_t TileBytes(PackedWeight::Format format, int64_t inputs) {
  switch (format) {
    case PackedWeight::Format::kQ4:
      return inputs / kGroup * kQ4GroupBytes;
    case PackedWeight::Format::kQ8:
      return inputs / kGroup * kQ8GroupBytes;
    case PackedWeight::Format::kFloat:
      break;
  }
  return inputs * kTileOutputs * static_cast<int64_t>(sizeof(float));
}

// One group of one output from the file's block into the tile's group.
void PackQ4Group(const uint8_t* block, bool has_min, int n, uint8_t* group) {
  std::memcpy(group + 256 + 2 * n, block, 2);
  if (has_min) std::memcpy(group + 256 + 32 + 2 * n, block + 2, 2);
  // The file has inputs 0..15 in the low nibbles of 16 bytes and 16..31 in the high ones.
  const uint8_t* nibbles = block + (has_min ? 4 : 2);
  for (int k = 0; k < kGroup; ++k) {
    const uint8_t value = k < 16 ? nibbles[k] & 15 : nibbles[k - 16] >> 4;
    const int quad = k / 4;
    uint8_t& byte = group[quad / 2 * 64 + n * 4 + k % 4];
    byte = static_cast<uint8_t>(byte | (quad % 2 == 0 ? value : value << 4));
  }
}

void PackQ8Group(const uint8_t* block, int n, uint8_t* group) {
  std::memcpy(group + 512 + 2 * n, block, 2);
  for (int k = 0; k < kGroup; ++k) {
    group[k / 4 * 64 + n * 4 + k % 4] = static_cast<uint8_t>(block[2 + k] ^ 0x80);
  }
}

}  // namespace

absl::StatusOr<Buffer> AllocateAligned(int64_t bytes) {
  const bool large = bytes >= 2 * kHugePage;
  const int64_t alignment = large ? kHugePage : 64;
  const int64_t size =
      std::max<int64_t>((bytes + alignment - 1) / alignment * alignment, alignment);
  void* data = std::aligned_alloc(alignment, size);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  if (large) ::madvise(data, size, MADV_HUGEPAGE);
  std::memset(data, 0, size);
  return Buffer(data, bytes, [](void* p) { std::free(p); });
}

PackedWeight::PackedWeight(const HostTensor& tensor)
    : outputs_(tensor.rows),
      inputs_(tensor.cols),
      dtype_(tensor.dtype),
      format_(FormatOf(tensor.dtype)),
      zero_point_(tensor.dtype == DType::kQ8_0   ? 128
                  : tensor.dtype == DType::kQ4_0 ? 8
                                                 : 0),
      tile_bytes_(TileBytes(format_, tensor.cols)) {}

absl::StatusOr<std::unique_ptr<PackedWeight>> PackedWeight::Pack(const HostTensor& tensor,
                                                                 ThreadPool& pool) {
  if (tensor.rows < 1 || tensor.cols < 1 || tensor.cols % BlockElements(tensor.dtype) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, " of type ", std::string(DTypeName(tensor.dtype)),
                     " is [", tensor.rows, ", ", tensor.cols,
                     "], allowed are rows of a multiple of ", BlockElements(tensor.dtype)));
  }
  auto weight = std::unique_ptr<PackedWeight>(new PackedWeight(tensor));
  SLIM_ASSIGN_OR_RETURN(weight->memory_,
                        AllocateAligned(weight->num_tiles() * weight->tile_bytes_));
  pool.ParallelFor(weight->num_tiles(), [&](int64_t tile, int) { weight->PackTile(tensor, tile); });
  return weight;
}

void PackedWeight::PackTile(const HostTensor& tensor, int64_t tile) {
  uint8_t* out = static_cast<uint8_t*>(memory_.data()) + tile * tile_bytes_;
  const int64_t first = tile * kTileOutputs;
  const auto outputs = static_cast<int>(std::min<int64_t>(kTileOutputs, outputs_ - first));
  if (format_ == Format::kFloat) {
    std::vector<float> row(inputs_);
    for (int n = 0; n < outputs; ++n) {
      DequantizeRow(tensor, first + n, row.data());
      for (int64_t k = 0; k < inputs_; ++k) {
        reinterpret_cast<float*>(out)[k * kTileOutputs + n] = row[k];
      }
    }
    return;
  }
  const int64_t groups = inputs_ / kGroup;
  const int64_t block_bytes = BlockBytes(dtype_);
  for (int n = 0; n < outputs; ++n) {
    const uint8_t* block =
        static_cast<const uint8_t*>(tensor.data) + (first + n) * groups * block_bytes;
    for (int64_t g = 0; g < groups; ++g, block += block_bytes) {
      if (format_ == Format::kQ4) {
        PackQ4Group(block, has_min(), n, out + g * kQ4GroupBytes);
      } else {
        PackQ8Group(block, n, out + g * kQ8GroupBytes);
      }
    }
  }
}

void PackedWeight::UnpackRow(int64_t row, float* out) const {
  const uint8_t* in = tile(row / kTileOutputs);
  const auto n = static_cast<int>(row % kTileOutputs);
  if (format_ == Format::kFloat) {
    for (int64_t k = 0; k < inputs_; ++k) {
      out[k] = reinterpret_cast<const float*>(in)[k * kTileOutputs + n];
    }
    return;
  }
  const bool four = format_ == Format::kQ4;
  const int group_bytes = four ? kQ4GroupBytes : kQ8GroupBytes;
  const int weight_bytes = four ? 256 : 512;
  for (int64_t g = 0; g * kGroup < inputs_; ++g, in += group_bytes) {
    uint16_t half;
    std::memcpy(&half, in + weight_bytes + 2 * n, 2);
    const float scale = F16ToF32(half);
    float minimum = 0;
    if (has_min()) {
      std::memcpy(&half, in + weight_bytes + 32 + 2 * n, 2);
      minimum = F16ToF32(half);
    }
    for (int k = 0; k < kGroup; ++k) {
      const int quad = k / 4;
      int value;
      if (four) {
        const uint8_t byte = in[quad / 2 * 64 + n * 4 + k % 4];
        value = quad % 2 == 0 ? byte & 15 : byte >> 4;
      } else {
        value = in[quad * 64 + n * 4 + k % 4];
      }
      out[g * kGroup + k] = scale * static_cast<float>(value - zero_point_) + minimum;
    }
  }
}

}  // namespace slim
