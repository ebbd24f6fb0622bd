// The variant for AVX-512 with VNNI and bf16 dot products: as kernels_avx512.cc, with attention on
// pairs of bf16. Compiled with those flags; see kernels_inl.h for the rule.
#include <immintrin.h>

#include <cstdint>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace {

#include "engine/backend/cpu/kernels_avx512_inl.h"
#include "engine/backend/cpu/kernels_inl.h"

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr int kValueVectors = 4;
  using Vec = __m512;
  using Element = uint16_t;
  using Raw = __m512i;
  using Pair = __m512i;
  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static Vec Set1(float x) { return _mm512_set1_ps(x); }
  static Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Raw LoadRaw(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Pair LoadPair(const uint16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
  }
  static Vec DotPair(Vec acc, Raw raw, Pair p) {
    return _mm512_dpbf16_ps(acc, (__m512bh)raw, (__m512bh)p);
  }
  // To nearest, ties to even; a NaN stays one.
  static uint16_t ToElement(float x) {
    const auto bits = static_cast<uint32_t>(FloatAsBits(x));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(x == x ? rounded : 0x7fc0u);
  }
  static float FromElement(uint16_t x) {
    return BitsAsFloat(static_cast<int32_t>(uint32_t{x} << 16));
  }
};

}  // namespace

const CpuKernels& Avx512Bf16Kernels() {
  static constexpr CpuKernels kernels = {
      CpuIsa::kAvx512Bf16, 6,          2,          RmsNormRow,    SwiGluRow,
      QuantizeRow,         GemmInt<4>, GemmInt<8>, GemmF32<Simd>, ConvertQuery<Simd>,
      AttendSpan<Simd>};
  return kernels;
}

}  // namespace slim
