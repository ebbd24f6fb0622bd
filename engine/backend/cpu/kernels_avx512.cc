// The variant for AVX-512 with VNNI. Compiled with those flags; see kernels_inl.h for the rule.
#include <immintrin.h>

#include <cstdint>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace {

#include "engine/backend/cpu/kernels_avx512_inl.h"
#include "engine/backend/cpu/kernels_inl.h"

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr int kValueVectors = 2;
  using Vec = __m512;
  using Element = float;
  struct Raw {
    __m512 low, high;
  };
  struct Pair {
    __m512 a, b;
  };
  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static Vec Set1(float x) { return _mm512_set1_ps(x); }
  static Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Raw LoadRaw(const uint16_t* p) {
    const __m512i raw = _mm512_loadu_si512(p);
    return Raw{_mm512_castsi512_ps(_mm512_slli_epi32(raw, 16)),
               _mm512_castsi512_ps(
                   _mm512_and_si512(raw, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Pair LoadPair(const float* p) { return Pair{_mm512_set1_ps(p[0]), _mm512_set1_ps(p[1])}; }
  static Vec DotPair(Vec acc, const Raw& raw, const Pair& p) {
    return Fma(raw.high, p.b, Fma(raw.low, p.a, acc));
  }
  static float ToElement(float x) { return x; }
  static float FromElement(float x) { return x; }
};

}  // namespace

const CpuKernels& Avx512VnniKernels() {
  static constexpr CpuKernels kernels = {
      CpuIsa::kAvx512Vnni, 6,          4,          RmsNormRow,    SwiGluRow,
      QuantizeRow,         GemmInt<4>, GemmInt<8>, GemmF32<Simd>, ConvertQuery<Simd>,
      AttendSpan<Simd>};
  return kernels;
}

}  // namespace slim
