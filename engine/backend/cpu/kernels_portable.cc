// The variant for any processor: plain C++.
#include <cstdint>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace {

#include "engine/backend/cpu/kernels_inl.h"

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr int kValueVectors = 1;
  struct Vec {
    float v[16];
  };
  using Element = float;
  struct Raw {
    Vec low, high;
  };
  struct Pair {
    float a, b;
  };
  static Vec Zero() { return Vec{}; }
  static Vec Load(const float* p) {
    Vec r;
    for (int i = 0; i < 16; ++i) r.v[i] = p[i];
    return r;
  }
  static void Store(float* p, const Vec& x) {
    for (int i = 0; i < 16; ++i) p[i] = x.v[i];
  }
  static Vec Set1(float x) {
    Vec r;
    for (int i = 0; i < 16; ++i) r.v[i] = x;
    return r;
  }
  static Vec Fma(const Vec& a, const Vec& b, Vec c) {
    for (int i = 0; i < 16; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
  }
  static Raw LoadRaw(const uint16_t* p) {
    Raw r;
    for (int i = 0; i < 16; ++i) {
      r.low.v[i] = BitsAsFloat(static_cast<int32_t>(uint32_t{p[2 * i]} << 16));
      r.high.v[i] = BitsAsFloat(static_cast<int32_t>(uint32_t{p[2 * i + 1]} << 16));
    }
    return r;
  }
  static Pair LoadPair(const float* p) { return Pair{p[0], p[1]}; }
  static Vec DotPair(const Vec& acc, const Raw& raw, Pair p) {
    return Fma(raw.high, Set1(p.b), Fma(raw.low, Set1(p.a), acc));
  }
  static float ToElement(float x) { return x; }
  static float FromElement(float x) { return x; }
};

float HalfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t fraction = h & 1023u;
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  const uint32_t top = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  return BitsAsFloat(static_cast<int32_t>(sign | top | (fraction << 13)));
}

// Output n of one tile for one row; `kBits` 4 or 8.
template <int kBits>
float IntOutput(const IntGemmArgs& a, const uint8_t* tile, int64_t row, int n) {
  constexpr int kBytes = kBits == 4 ? kQ4GroupBytes : kQ8GroupBytes;
  constexpr int kWeightBytes = kBits == 4 ? 256 : 512;
  float acc = 0;
  for (int64_t g = 0; g < a.groups; ++g) {
    const uint8_t* group = tile + g * kBytes;
    const int8_t* x = a.x + (row * a.groups + g) * kGroup;
    int32_t dot = -a.zero_point * a.x_sum[row * a.groups + g];
    for (int k = 0; k < kGroup; ++k) {
      const int quad = k / 4;
      int weight;
      if (kBits == 4) {
        const uint8_t byte = group[quad / 2 * 64 + n * 4 + k % 4];
        weight = quad % 2 == 0 ? byte & 15 : byte >> 4;
      } else {
        weight = group[quad * 64 + n * 4 + k % 4];
      }
      dot += weight * x[k];
    }
    uint16_t scale, minimum;
    __builtin_memcpy(&scale, group + kWeightBytes + 2 * n, 2);
    acc = __builtin_fmaf(static_cast<float>(dot),
                         HalfToFloat(scale) * a.x_scale[row * a.groups + g], acc);
    if (a.has_min) {
      __builtin_memcpy(&minimum, group + kWeightBytes + 32 + 2 * n, 2);
      acc = __builtin_fmaf(HalfToFloat(minimum), a.x_scaled_sum[row * a.groups + g], acc);
    }
  }
  return acc;
}

template <int kBits>
void GemmInt(const IntGemmArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int n = 0; n < a.num_outputs; ++n) {
      const uint8_t* tile = a.tiles + n / kTileOutputs * a.tile_bytes;
      float value = IntOutput<kBits>(a, tile, row, n % kTileOutputs);
      if (a.bias != nullptr) value += a.bias[n];
      float& out = a.out[row * a.out_stride + n];
      out = a.accumulate ? out + value : value;
    }
  }
}

}  // namespace

const CpuKernels& PortableKernels() {
  static constexpr CpuKernels kernels = {
      CpuIsa::kPortable, 4,          4,          RmsNormRow,    SwiGluRow,
      QuantizeRow,       GemmInt<4>, GemmInt<8>, GemmF32<Simd>, ConvertQuery<Simd>,
      AttendSpan<Simd>};
  return kernels;
}

const CpuKernels& KernelsFor(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx2:
      return Avx2Kernels();
    case CpuIsa::kAvx512Vnni:
      return Avx512VnniKernels();
    case CpuIsa::kAvx512Bf16:
      return Avx512Bf16Kernels();
    case CpuIsa::kPortable:
      break;
  }
  return PortableKernels();
}

}  // namespace slim
