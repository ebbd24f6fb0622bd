#include "tests/testing/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/base/check.h"
#include "engine/tensor/float_convert.h"
#include "tests/testing/gguf_writer.h"

namespace slim {
namespace {

constexpr size_t kBlock = 32;

// round(value / scale) kept inside [low, high]; everything is 0 in a block whose scale is 0.
int RoundTo(float value, float scale, int low, int high) {
  if (scale == 0.0f) return std::clamp(0, low, high);
  return static_cast<int>(
      std::clamp(std::nearbyint(value / scale), static_cast<float>(low), static_cast<float>(high)));
}

float LargestMagnitude(const float* block) {
  float largest = 0.0f;
  for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(block[i]));
  return largest;
}

void AppendNibbles(const int (&quants)[kBlock], std::string* out) {
  for (size_t i = 0; i < kBlock / 2; ++i) {
    AppendNumber(static_cast<uint8_t>(quants[i] | (quants[i + kBlock / 2] << 4)), out);
  }
}

void AppendQ8_0(const float* block, std::string* out) {
  const uint16_t stored_scale = F32ToF16(LargestMagnitude(block) / 127.0f);
  const float scale = F16ToF32(stored_scale);
  AppendNumber(stored_scale, out);
  for (size_t i = 0; i < kBlock; ++i) {
    AppendNumber(static_cast<int8_t>(RoundTo(block[i], scale, -127, 127)), out);
  }
}

void AppendQ4_0(const float* block, std::string* out) {
  const uint16_t stored_scale = F32ToF16(LargestMagnitude(block) / 7.0f);
  const float scale = F16ToF32(stored_scale);
  AppendNumber(stored_scale, out);
  int quants[kBlock];
  for (size_t i = 0; i < kBlock; ++i) quants[i] = RoundTo(block[i], scale, -8, 7) + 8;
  AppendNibbles(quants, out);
}

void AppendQ4_1(const float* block, std::string* out) {
  const auto [lowest, highest] = std::minmax_element(block, block + kBlock);
  const uint16_t stored_scale = F32ToF16((*highest - *lowest) / 15.0f);
  const uint16_t stored_minimum = F32ToF16(*lowest);
  const float scale = F16ToF32(stored_scale);
  const float minimum = F16ToF32(stored_minimum);
  AppendNumber(stored_scale, out);
  AppendNumber(stored_minimum, out);
  int quants[kBlock];
  for (size_t i = 0; i < kBlock; ++i) quants[i] = RoundTo(block[i] - minimum, scale, 0, 15);
  AppendNibbles(quants, out);
}

}  // namespace

std::string Quantize(DType dtype, const std::vector<float>& values) {
  SLIM_CHECK(values.size() % static_cast<size_t>(BlockElements(dtype)) == 0);
  std::string out;
  for (size_t i = 0; i < values.size(); i += static_cast<size_t>(BlockElements(dtype))) {
    switch (dtype) {
      case DType::kF32:
        AppendNumber(values[i], &out);
        break;
      case DType::kF16:
        AppendNumber(F32ToF16(values[i]), &out);
        break;
      case DType::kBF16:
        AppendNumber(F32ToBF16(values[i]), &out);
        break;
      case DType::kQ8_0:
        AppendQ8_0(&values[i], &out);
        break;
      case DType::kQ4_0:
        AppendQ4_0(&values[i], &out);
        break;
      case DType::kQ4_1:
        AppendQ4_1(&values[i], &out);
        break;
    }
  }
  return out;
}

}  // namespace slim
