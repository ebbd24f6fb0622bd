// Exact conversion of stored weights to float32. Pure functions, thread-safe.
#ifndef ENGINE_TENSOR_DEQUANTIZE_H_
#define ENGINE_TENSOR_DEQUANTIZE_H_

#include <cstdint>
#include <cstring>

#include "engine/tensor/tensor_view.h"

namespace slim {

inline float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float BF16ToF32(uint16_t bits) { return BitsToFloat(uint32_t{bits} << 16); }

// Rounds to nearest, ties to even; a NaN stays one.
inline uint16_t F32ToBF16(float value) {
  const uint32_t bits = FloatToBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F16ToF32(uint16_t bits);
// Rounds to nearest, ties to even; too large becomes infinity, a NaN stays one.
uint16_t F32ToF16(float value);

// Row `row` of the tensor as tensor.cols floats.
void DequantizeRow(const HostTensor& tensor, int64_t row, float* out);

}  // namespace slim

#endif  // ENGINE_TENSOR_DEQUANTIZE_H_
