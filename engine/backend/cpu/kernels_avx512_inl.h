// What the two AVX-512 variants share: integer products with VNNI. Included like kernels_inl.h.

inline __m512i LoadQuad512(const int8_t* x) {
  int32_t quad;
  __builtin_memcpy(&quad, x, 4);
  return _mm512_set1_epi32(quad);
}

inline __m512 LoadHalves512(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// MR rows times NT tiles of 16 outputs, kBits 4 or 8.
template <int kBits, int MR, int NT, bool kMin>
inline void IntTile512(const IntGemmArgs& a, int64_t row) {
  constexpr int kBytes = kBits == 4 ? kQ4GroupBytes : kQ8GroupBytes;
  constexpr int kWeightBytes = kBits == 4 ? 256 : 512;
  __m512 sums[MR][NT];
  for (int m = 0; m < MR; ++m) {
    for (int t = 0; t < NT; ++t) sums[m][t] = _mm512_setzero_ps();
  }
  const __m512i mask = _mm512_set1_epi8(15);
  const int8_t* x = a.x + row * a.groups * kGroup;
  for (int64_t g = 0; g < a.groups; ++g) {
    const uint8_t* group = a.tiles + g * kBytes;
    __m512i dots[MR][NT];
    for (int m = 0; m < MR; ++m) {
      // Weights are stored unsigned: the zero point times the group's sum goes off at the start.
      const __m512i start =
          kMin ? _mm512_setzero_si512()
               : _mm512_set1_epi32(-a.zero_point * a.x_sum[(row + m) * a.groups + g]);
      for (int t = 0; t < NT; ++t) dots[m][t] = start;
    }
    for (int c = 0; c < 4; ++c) {
      __m512i low[NT], high[NT];
      for (int t = 0; t < NT; ++t) {
        const uint8_t* weights = group + t * a.tile_bytes;
        if constexpr (kBits == 4) {
          const __m512i raw = _mm512_loadu_si512(weights + c * 64);
          low[t] = _mm512_and_si512(raw, mask);
          high[t] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), mask);
        } else {
          low[t] = _mm512_loadu_si512(weights + c * 128);
          high[t] = _mm512_loadu_si512(weights + c * 128 + 64);
        }
      }
      for (int m = 0; m < MR; ++m) {
        const int8_t* in = x + (m * a.groups + g) * kGroup + c * 8;
        const __m512i in_low = LoadQuad512(in), in_high = LoadQuad512(in + 4);
        for (int t = 0; t < NT; ++t) {
          dots[m][t] = _mm512_dpbusd_epi32(dots[m][t], low[t], in_low);
        }
        for (int t = 0; t < NT; ++t) {
          dots[m][t] = _mm512_dpbusd_epi32(dots[m][t], high[t], in_high);
        }
      }
    }
    for (int t = 0; t < NT; ++t) {
      const uint8_t* scales = group + t * a.tile_bytes + kWeightBytes;
      const __m512 d = LoadHalves512(scales);
      for (int m = 0; m < MR; ++m) {
        const int64_t at = (row + m) * a.groups + g;
        const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(a.x_scale[at]));
        sums[m][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m][t]), scale, sums[m][t]);
      }
      if constexpr (kMin) {
        const __m512 minimum = LoadHalves512(scales + 32);
        for (int m = 0; m < MR; ++m) {
          const int64_t at = (row + m) * a.groups + g;
          sums[m][t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(a.x_scaled_sum[at]), sums[m][t]);
        }
      }
    }
  }
  for (int t = 0; t < NT; ++t) {
    const int left = a.num_outputs - t * kTileOutputs;
    const __mmask16 valid = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    for (int m = 0; m < MR; ++m) {
      float* out = a.out + (row + m) * a.out_stride + t * kTileOutputs;
      __m512 value = sums[m][t];
      if (a.bias != nullptr) {
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(valid, a.bias + t * kTileOutputs));
      }
      if (a.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(valid, out), value);
      _mm512_mask_storeu_ps(out, valid, value);
    }
  }
}

template <int kBits, int NT, bool kMin>
void IntRows512(const IntGemmArgs& a) {
  constexpr int kRows = 6;
  int64_t row = 0;
  for (; row + kRows <= a.rows; row += kRows) IntTile512<kBits, kRows, NT, kMin>(a, row);
  switch (a.rows - row) {
    case 1:
      return IntTile512<kBits, 1, NT, kMin>(a, row);
    case 2:
      return IntTile512<kBits, 2, NT, kMin>(a, row);
    case 3:
      return IntTile512<kBits, 3, NT, kMin>(a, row);
    case 4:
      return IntTile512<kBits, 4, NT, kMin>(a, row);
    case 5:
      return IntTile512<kBits, 5, NT, kMin>(a, row);
    default:
      return;
  }
}

template <int kBits>
void GemmInt(const IntGemmArgs& a) {
  if (a.has_min) {
    a.num_tiles == 2 ? IntRows512<kBits, 2, true>(a) : IntRows512<kBits, 1, true>(a);
  } else {
    a.num_tiles == 2 ? IntRows512<kBits, 2, false>(a) : IntRows512<kBits, 1, false>(a);
  }
}
