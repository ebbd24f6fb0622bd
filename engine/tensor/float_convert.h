// Conversions between float and the 16-bit types, bit for bit as the processors' own instructions
// do them (round to nearest even, denormals kept, NaNs made quiet), but in portable code.
// Pure functions.
#ifndef ENGINE_TENSOR_FLOAT_CONVERT_H_
#define ENGINE_TENSOR_FLOAT_CONVERT_H_

#include <bit>
#include <cstdint>

namespace slim {

// IEEE binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits. Exact.
constexpr float F16ToF32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) {
    const uint32_t quiet = mantissa != 0 ? 0x00400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | quiet);
  }
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // A denormal half is a normal float: move its highest bit up to the implicit one.
  const int shift = std::countl_zero(mantissa) - 21;
  mantissa = (mantissa << shift) & 0x3ffu;
  return std::bit_cast<float>(sign | (static_cast<uint32_t>(113 - shift) << 23) | (mantissa << 13));
}

// Round to nearest even; beyond the largest half becomes infinity.
constexpr uint16_t F32ToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  // 65520 is the midpoint between the largest half and the next power of two.
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  uint32_t mantissa = 0;
  uint32_t dropped_bits = 13;
  if (magnitude >= 0x38800000u) {  // 2^-14, the smallest normal half
    mantissa = magnitude - (112u << 23);
  } else {
    const uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign;  // below half of the smallest denormal
    mantissa = (magnitude & 0x007fffffu) | 0x00800000u;
    dropped_bits = 126 - exponent;
  }
  const uint32_t kept = mantissa >> dropped_bits;
  const uint32_t dropped = mantissa & ((1u << dropped_bits) - 1);
  const uint32_t half = 1u << (dropped_bits - 1);
  const uint32_t round_up = (dropped > half || (dropped == half && (kept & 1u) != 0)) ? 1 : 0;
  // A carry out of the mantissa moves into the exponent, which is the right result.
  return static_cast<uint16_t>(sign | (kept + round_up));
}

// bfloat16: the upper half of a float. Exact.
constexpr float BF16ToF32(uint16_t half) {
  return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

// Round to nearest even.
constexpr uint16_t F32ToBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace slim

#endif  // ENGINE_TENSOR_FLOAT_CONVERT_H_
