#include "engine/tensor/dequantize.h"

#include <cmath>

namespace slim {
namespace {

constexpr int kBlock = 32;

uint16_t LoadU16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// Nibble i < 16 of a block is in the low half of byte i, nibble i + 16 in the high half.
int Nibble(const uint8_t* bytes, int i) { return i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4; }

}  // namespace

float F16ToF32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 31u;
  const uint32_t fraction = bits & 1023u;
  if (exponent == 31) return BitsToFloat(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {  // zero or denormal: fraction * 2^-24
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  return BitsToFloat(sign | ((exponent + 112) << 23) | (fraction << 13));
}

uint16_t F32ToF16(float value) {
  const uint32_t bits = FloatToBits(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65536
  if (magnitude < 0x38800000u) {                                              // below 2^-14
    const float scaled = std::nearbyint(std::fabs(value) * 0x1p24f);
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(scaled));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

void DequantizeRow(const HostTensor& tensor, int64_t row, float* out) {
  const int64_t blocks = tensor.cols / BlockElements(tensor.dtype);
  const int64_t block_bytes = BlockBytes(tensor.dtype);
  const auto* p = static_cast<const uint8_t*>(tensor.data) + row * blocks * block_bytes;
  for (int64_t b = 0; b < blocks; ++b, p += block_bytes) {
    switch (tensor.dtype) {
      case DType::kF32: std::memcpy(out++, p, sizeof(float)); break;
      case DType::kF16: *out++ = F16ToF32(LoadU16(p)); break;
      case DType::kBF16: *out++ = BF16ToF32(LoadU16(p)); break;
      case DType::kQ8_0: {
        const float d = F16ToF32(LoadU16(p));
        for (int i = 0; i < kBlock; ++i) *out++ = d * static_cast<int8_t>(p[2 + i]);
        break;
      }
      case DType::kQ4_0: {
        const float d = F16ToF32(LoadU16(p));
        for (int i = 0; i < kBlock; ++i) *out++ = d * (Nibble(p + 2, i) - 8);
        break;
      }
      case DType::kQ4_1: {
        const float d = F16ToF32(LoadU16(p));
        const float m = F16ToF32(LoadU16(p + 2));
        for (int i = 0; i < kBlock; ++i) *out++ = d * Nibble(p + 4, i) + m;
        break;
      }
    }
  }
}

}  // namespace slim
