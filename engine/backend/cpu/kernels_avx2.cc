// The variant for AVX2, FMA and F16C. Compiled with those flags; see kernels_inl.h for the rule.
#include <immintrin.h>

#include <cstdint>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace {

#include "engine/backend/cpu/kernels_inl.h"

struct Simd {
  static constexpr int kLanes = 8;
  static constexpr int kValueVectors = 2;
  using Vec = __m256;
  using Element = float;
  struct Raw {
    __m256 low, high;
  };
  struct Pair {
    __m256 a, b;
  };
  static Vec Zero() { return _mm256_setzero_ps(); }
  static Vec Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
  static Vec Set1(float x) { return _mm256_set1_ps(x); }
  static Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  // Even elements in the low halves, odd ones in the high halves: a shift and a mask make floats.
  static Raw LoadRaw(const uint16_t* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return Raw{_mm256_castsi256_ps(_mm256_slli_epi32(raw, 16)),
               _mm256_castsi256_ps(
                   _mm256_and_si256(raw, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Pair LoadPair(const float* p) {
    return Pair{_mm256_broadcast_ss(p), _mm256_broadcast_ss(p + 1)};
  }
  static Vec DotPair(Vec acc, const Raw& raw, const Pair& p) {
    return Fma(raw.high, p.b, Fma(raw.low, p.a, acc));
  }
  static float ToElement(float x) { return x; }
  static float FromElement(float x) { return x; }
};

inline __m256i LoadQuad(const int8_t* x) {
  int32_t quad;
  __builtin_memcpy(&quad, x, 4);
  return _mm256_set1_epi32(quad);
}

inline __m256 LoadHalves(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Adds the group's scaled dot products and minimums to the float sums of MR rows.
template <int MR>
inline void ScaleGroup(const IntGemmArgs& a, const uint8_t* scales, int64_t row, int64_t g,
                       const __m256i* dots, __m256* sums) {
  const __m256 d = LoadHalves(scales);
  for (int m = 0; m < MR; ++m) {
    const int64_t at = (row + m) * a.groups + g;
    const __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps(a.x_scale[at]));
    sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m]), scale, sums[m]);
    if (a.has_min) {
      sums[m] =
          _mm256_fmadd_ps(LoadHalves(scales + 32), _mm256_set1_ps(a.x_scaled_sum[at]), sums[m]);
    }
  }
}

// Eight outputs (one half of a tile) of MR rows, 4-bit weights. Eight products of a 4-bit and an
// 8-bit number, in pairs, stay below 2^15: 8 * 2 * 15 * 127 = 30480.
template <int MR>
inline void Q4Half(const IntGemmArgs& a, const uint8_t* tile, int half, int64_t row, float* out) {
  __m256 sums[MR];
  for (int m = 0; m < MR; ++m) sums[m] = _mm256_setzero_ps();
  const __m256i mask = _mm256_set1_epi8(15);
  const int8_t* x = a.x + row * a.groups * kGroup;
  for (int64_t g = 0; g < a.groups; ++g) {
    const uint8_t* group = tile + g * kQ4GroupBytes;
    __m256i dots[MR];
    for (int m = 0; m < MR; ++m) dots[m] = _mm256_setzero_si256();
    for (int c = 0; c < 4; ++c) {
      const __m256i raw =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + c * 64 + half * 32));
      const __m256i low = _mm256_and_si256(raw, mask);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(raw, 4), mask);
      for (int m = 0; m < MR; ++m) {
        const int8_t* in = x + (m * a.groups + g) * kGroup + c * 8;
        dots[m] = _mm256_add_epi16(dots[m], _mm256_maddubs_epi16(low, LoadQuad(in)));
        dots[m] = _mm256_add_epi16(dots[m], _mm256_maddubs_epi16(high, LoadQuad(in + 4)));
      }
    }
    for (int m = 0; m < MR; ++m) {
      dots[m] = _mm256_madd_epi16(dots[m], _mm256_set1_epi16(1));
      if (a.zero_point != 0) {
        const int32_t shift = a.zero_point * a.x_sum[(row + m) * a.groups + g];
        dots[m] = _mm256_sub_epi32(dots[m], _mm256_set1_epi32(shift));
      }
    }
    ScaleGroup<MR>(a, group + 256 + half * 16, row, g, dots, sums);
  }
  for (int m = 0; m < MR; ++m) _mm256_storeu_ps(out + m * kTileOutputs + half * 8, sums[m]);
}

// The same for 8-bit weights, stored with 128 added. |w| * |x| in pairs: 2 * 128 * 127 < 2^15.
template <int MR>
inline void Q8Half(const IntGemmArgs& a, const uint8_t* tile, int half, int64_t row, float* out) {
  __m256 sums[MR];
  for (int m = 0; m < MR; ++m) sums[m] = _mm256_setzero_ps();
  const int8_t* x = a.x + row * a.groups * kGroup;
  const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
  for (int64_t g = 0; g < a.groups; ++g) {
    const uint8_t* group = tile + g * kQ8GroupBytes;
    __m256i dots[MR];
    for (int m = 0; m < MR; ++m) dots[m] = _mm256_setzero_si256();
    for (int quad = 0; quad < 8; ++quad) {
      const __m256i weights = _mm256_xor_si256(
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + quad * 64 + half * 32)),
          flip);
      const __m256i size = _mm256_abs_epi8(weights);
      for (int m = 0; m < MR; ++m) {
        const __m256i in = LoadQuad(x + (m * a.groups + g) * kGroup + quad * 4);
        const __m256i products = _mm256_maddubs_epi16(size, _mm256_sign_epi8(in, weights));
        dots[m] = _mm256_add_epi32(dots[m], _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
      }
    }
    ScaleGroup<MR>(a, group + 512 + half * 16, row, g, dots, sums);
  }
  for (int m = 0; m < MR; ++m) _mm256_storeu_ps(out + m * kTileOutputs + half * 8, sums[m]);
}

template <int kBits, int MR>
void IntRows(const IntGemmArgs& a, int64_t row) {
  float result[MR * kTileOutputs];
  for (int t = 0; t < a.num_tiles; ++t) {
    const uint8_t* tile = a.tiles + t * a.tile_bytes;
    for (int half = 0; half < 2; ++half) {
      if constexpr (kBits == 4) {
        Q4Half<MR>(a, tile, half, row, result);
      } else {
        Q8Half<MR>(a, tile, half, row, result);
      }
    }
    const int first = t * kTileOutputs;
    const int outputs = a.num_outputs - first < kTileOutputs ? a.num_outputs - first : kTileOutputs;
    for (int m = 0; m < MR; ++m) {
      float* out = a.out + (row + m) * a.out_stride + first;
      for (int n = 0; n < outputs; ++n) {
        float value = result[m * kTileOutputs + n];
        if (a.bias != nullptr) value += a.bias[first + n];
        out[n] = a.accumulate ? out[n] + value : value;
      }
    }
  }
}

template <int kBits>
void GemmInt(const IntGemmArgs& a) {
  constexpr int kRows = 5;
  int64_t row = 0;
  for (; row + kRows <= a.rows; row += kRows) IntRows<kBits, kRows>(a, row);
  switch (a.rows - row) {
    case 1:
      return IntRows<kBits, 1>(a, row);
    case 2:
      return IntRows<kBits, 2>(a, row);
    case 3:
      return IntRows<kBits, 3>(a, row);
    case 4:
      return IntRows<kBits, 4>(a, row);
    default:
      return;
  }
}

}  // namespace

const CpuKernels& Avx2Kernels() {
  static constexpr CpuKernels kernels = {
      CpuIsa::kAvx2,   4,          4,          RmsNormRow,    SwiGluRow,
      QuantizeRow,     GemmInt<4>, GemmInt<8>, GemmF32<Simd>, ConvertQuery<Simd>,
      AttendSpan<Simd>};
  return kernels;
}

}  // namespace slim
