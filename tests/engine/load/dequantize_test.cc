#include "engine/tensor/dequantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/testing/quantize.h"

namespace slim {
namespace {

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

// The definition of binary16 in exact double arithmetic.
double HalfByDefinition(uint16_t half) {
  const double sign = (half & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(FloatConvertTest, EveryHalfHasItsDefinedValueAndComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = F16ToF32(half);
    const bool special = (half & 0x7c00) == 0x7c00;
    if (special && (half & 0x3ff) != 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_EQ(F32ToF16(value), half | 0x200) << bits;
      continue;
    }
    if (special) {
      ASSERT_TRUE(std::isinf(value)) << bits;
      ASSERT_EQ(std::signbit(value), (half & 0x8000) != 0);
    } else {
      ASSERT_EQ(static_cast<double>(value), HalfByDefinition(half)) << bits;
      ASSERT_EQ(std::signbit(value), (half & 0x8000) != 0) << bits;
    }
    ASSERT_EQ(F32ToF16(value), half) << bits;
  }
}

TEST(FloatConvertTest, HalfRoundsToNearestAndTiesToEven) {
  // Between every two neighbouring finite halves: below, at and above the midpoint.
  for (uint16_t half = 0; half < 0x7bff; ++half) {
    const double low = HalfByDefinition(half);
    const double high = HalfByDefinition(static_cast<uint16_t>(half + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    const uint16_t even = (half & 1) == 0 ? half : static_cast<uint16_t>(half + 1);
    ASSERT_EQ(F32ToF16(middle), even) << half;
    ASSERT_EQ(F32ToF16(-middle), even | 0x8000) << half;
    ASSERT_EQ(F32ToF16(std::nextafterf(middle, 0.0f)), half) << half;
    ASSERT_EQ(F32ToF16(std::nextafterf(middle, INFINITY)), half + 1) << half;
  }
}

TEST(FloatConvertTest, HalfOverflowsToInfinityAndUnderflowsToZero) {
  EXPECT_EQ(F32ToF16(65504.0f), 0x7bff);
  EXPECT_EQ(F32ToF16(std::nextafterf(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(-1e30f), 0xfc00);
  EXPECT_EQ(F32ToF16(INFINITY), 0x7c00);
  EXPECT_EQ(F32ToF16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(F32ToF16(-std::numeric_limits<float>::denorm_min()), 0x8000);
  EXPECT_EQ(F32ToF16(std::ldexp(1.0f, -25)), 0);
  EXPECT_EQ(F32ToF16(std::nextafterf(std::ldexp(1.0f, -25), 1.0f)), 1);
  EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(std::nanf("")))));
  // A NaN whose payload is lost in the cut must not become infinity.
  EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(FloatConvertTest, EveryBf16ComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = BF16ToF32(half);
    ASSERT_EQ(Bits(value), bits << 16);
    const bool nan = (half & 0x7fff) > 0x7f80;
    ASSERT_EQ(F32ToBF16(value), nan ? (half | 0x40) : half) << bits;
  }
}

TEST(FloatConvertTest, Bf16RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f817fffu)), 0x3f81);
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::bit_cast<float>(0xff800001u)))));
}

// Blocks with scale 0.5 (0x3800) and, where there is one, minimum -3 (0xc200).
TEST(DequantizeTest, Q8_0BlockByHand) {
  std::string block("\x00\x38", 2);
  for (int i = 0; i < 32; ++i) block.push_back(static_cast<char>(i * 8 - 128));
  float out[32];
  Dequantize(DType::kQ8_0, block.data(), 32, out);
  EXPECT_EQ(out[0], -64.0f);
  EXPECT_EQ(out[16], 0.0f);
  EXPECT_EQ(out[31], 60.0f);
}

TEST(DequantizeTest, Q4_0BlockByHand) {
  std::string block("\x00\x38", 2);
  for (int i = 0; i < 16; ++i) block.push_back(static_cast<char>(i | ((15 - i) << 4)));
  float out[32];
  Dequantize(DType::kQ4_0, block.data(), 32, out);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 0.5f * static_cast<float>(i - 8)) << i;
    EXPECT_EQ(out[16 + i], 0.5f * static_cast<float>(7 - i)) << i;
  }
}

TEST(DequantizeTest, Q4_1BlockByHand) {
  std::string block("\x00\x38\x00\xc2", 4);
  for (int i = 0; i < 16; ++i) block.push_back(static_cast<char>(i | ((15 - i) << 4)));
  float out[32];
  Dequantize(DType::kQ4_1, block.data(), 32, out);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(out[i], 0.5f * static_cast<float>(i) - 3.0f) << i;
    EXPECT_EQ(out[16 + i], 0.5f * static_cast<float>(15 - i) - 3.0f) << i;
  }
}

TEST(DequantizeTest, RowsOfEveryTypeLieOneAfterAnother) {
  // Values that every type stores exactly: with the first 0 and the last of a block 15, a block's
  // Q4_1 scale is 1; the other types get values of their own below.
  const DType dtypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_1};
  std::vector<float> values(3 * 64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 7 + i / 32) % 16);
  for (size_t block = 0; block < values.size(); block += 32) {
    values[block] = 0.0f;
    values[block + 31] = 15.0f;
  }
  for (const DType dtype : dtypes) {
    const std::string bytes = Quantize(dtype, values);
    const HostTensor tensor = {"t", dtype, 3, 64, bytes.data()};
    ASSERT_EQ(tensor.bytes(), static_cast<int64_t>(bytes.size()));
    std::vector<float> row(64);
    for (int64_t r = 0; r < 3; ++r) {
      DequantizeRow(tensor, r, row.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), values.begin() + r * 64)) << DTypeName(dtype);
    }
  }
}

TEST(DequantizeTest, NeedsNoAlignment) {
  const std::vector<float> values(64, 1.5f);
  for (const DType dtype :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    const std::string shifted = absl::StrCat("x", Quantize(dtype, values));
    float out[64];
    Dequantize(dtype, shifted.data() + 1, 64, out);
    for (const float value : out) EXPECT_NEAR(value, 1.5f, 0.01f) << DTypeName(dtype);
  }
}

TEST(DequantizeTest, QuantiseErrorIsAtMostHalfAStep) {
  std::vector<float> values(320);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::sin(static_cast<float>(i * i)) * static_cast<float>(i % 7 + 1);
  }
  struct Case {
    DType dtype;
    float steps;  // of the largest magnitude (or the range, for Q4_1)
  };
  for (const Case& test :
       {Case{DType::kQ8_0, 127}, Case{DType::kQ4_0, 7}, Case{DType::kQ4_1, 15}}) {
    const std::string bytes = Quantize(test.dtype, values);
    std::vector<float> out(values.size());
    Dequantize(test.dtype, bytes.data(), static_cast<int64_t>(out.size()), out.data());
    for (size_t begin = 0; begin < values.size(); begin += 32) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto [low, high] = std::minmax_element(first, first + 32);
      const float span =
          test.dtype == DType::kQ4_1 ? *high - *low : std::max(std::fabs(*low), std::fabs(*high));
      for (size_t i = begin; i < begin + 32; ++i) {
        EXPECT_LE(std::fabs(out[i] - values[i]), 0.505f * span / test.steps + 0.001f * span)
            << DTypeName(test.dtype) << " " << i;
      }
    }
  }
}

TEST(DequantizeTest, BlocksOfZerosAndOfOneValueAreExact) {
  for (const float value : {0.0f, 2.0f, -2.0f}) {
    const std::vector<float> values(32, value);
    const std::string bytes = Quantize(DType::kQ4_1, values);
    float out[32];
    Dequantize(DType::kQ4_1, bytes.data(), 32, out);
    for (const float got : out) EXPECT_EQ(got, value);
  }
}

TEST(DequantizeTest, RowOutOfRangeIsACallerBug) {
  const float data[4] = {};
  float out[2];
  const HostTensor tensor = {"t", DType::kF32, 2, 2, data};
  EXPECT_DEATH(DequantizeRow(tensor, 2, out), "broken invariant");
  EXPECT_DEATH(DequantizeRow(tensor, -1, out), "broken invariant");
}

}  // namespace
}  // namespace slim
