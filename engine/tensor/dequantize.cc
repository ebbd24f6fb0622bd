#include "engine/tensor/dequantize.h"

#include <cstring>

#include "engine/base/check.h"

namespace slim {
namespace {

// The smallest piece of a quantised row: 32 elements.
constexpr int64_t kBlock = 32;

uint16_t Load16(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

void DequantizeQ8_0(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load16(block));
  const uint8_t* quants = block + 2;
  for (int64_t i = 0; i < kBlock; ++i) out[i] = scale * static_cast<int8_t>(quants[i]);
}

// Low nibbles hold the first 16 elements of a block, high nibbles the last 16.
void DequantizeQ4_0(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load16(block));
  const uint8_t* quants = block + 2;
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    out[i] = scale * static_cast<float>((quants[i] & 0x0f) - 8);
    out[i + kBlock / 2] = scale * static_cast<float>((quants[i] >> 4) - 8);
  }
}

void DequantizeQ4_1(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load16(block));
  const float minimum = F16ToF32(Load16(block + 2));
  const uint8_t* quants = block + 4;
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    out[i] = scale * static_cast<float>(quants[i] & 0x0f) + minimum;
    out[i + kBlock / 2] = scale * static_cast<float>(quants[i] >> 4) + minimum;
  }
}

}  // namespace

void Dequantize(DType dtype, const void* stored, int64_t count, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(stored);
  SLIM_CHECK(count >= 0 && count % BlockElements(dtype) == 0);
  const int64_t blocks = count / BlockElements(dtype);
  const int64_t block_bytes = BlockBytes(dtype);
  switch (dtype) {
    case DType::kF32:
      if (count > 0) std::memcpy(out, bytes, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = F16ToF32(Load16(bytes + i * 2));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = BF16ToF32(Load16(bytes + i * 2));
      return;
    case DType::kQ8_0:
      for (int64_t b = 0; b < blocks; ++b)
        DequantizeQ8_0(bytes + b * block_bytes, out + b * kBlock);
      return;
    case DType::kQ4_0:
      for (int64_t b = 0; b < blocks; ++b)
        DequantizeQ4_0(bytes + b * block_bytes, out + b * kBlock);
      return;
    case DType::kQ4_1:
      for (int64_t b = 0; b < blocks; ++b)
        DequantizeQ4_1(bytes + b * block_bytes, out + b * kBlock);
      return;
  }
}

void DequantizeRow(const HostTensor& tensor, int64_t row, float* out) {
  SLIM_CHECK(row >= 0 && row < tensor.rows);
  const int64_t row_bytes = tensor.cols / BlockElements(tensor.dtype) * BlockBytes(tensor.dtype);
  Dequantize(tensor.dtype, static_cast<const uint8_t*>(tensor.data) + row * row_bytes, tensor.cols,
             out);
}

}  // namespace slim
