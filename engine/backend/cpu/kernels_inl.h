// Kernels that are written once and compiled per instruction set: row functions as plain loops that
// the compiler turns into vectors, products and attention over a small set of vector operations.
// Included by one source file per variant, inside its own anonymous namespace, with its own
// compiler flags; nothing here may leave the file (another file must never run it by accident of
// linking). So: no standard library calls, no inline function with external linkage.

// Everything below sits in the including file's anonymous namespace.

inline float BitsAsFloat(int32_t bits) { return __builtin_bit_cast(float, bits); }
inline int32_t FloatAsBits(float value) { return __builtin_bit_cast(int32_t, value); }

// 2^x for x <= about 127, relative error 2e-7; below 2^-126 it gives 2^-126. NaN stays NaN.
inline float Exp2(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float y = x < -126.0f ? -126.0f : x;
  const float shifted = y + magic;
  const float f = y - (shifted - magic);  // in [-0.5, 0.5]
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const int32_t n = FloatAsBits(shifted) - FloatAsBits(magic);
  const float result = BitsAsFloat(FloatAsBits(p) + (n << 23));
  return x == x ? result : x;
}

inline float SumLanes(const float* lanes) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += lanes[i];
  return sum;
}

void RmsNormRow(const float* x, const float* weight, float eps, int64_t cols, float* out) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    for (int j = 0; j < 16; ++j) lanes[j] += x[i + j] * x[i + j];
  }
  for (; i < cols; ++i) lanes[i % 16] += x[i] * x[i];
  const float mean = SumLanes(lanes) / static_cast<float>(cols);
  const float scale = 1.0f / __builtin_sqrtf(mean + eps);
  for (int64_t c = 0; c < cols; ++c) out[c] = x[c] * scale * weight[c];
}

void SwiGluRow(const float* gate, const float* up, int64_t cols, float* out) {
  for (int64_t i = 0; i < cols; ++i) {
    const float negative = gate[i] * -1.44269504f;
    const float e = Exp2(negative > 126.0f ? 126.0f : negative);
    out[i] = gate[i] / (1.0f + e) * up[i];
  }
}

void QuantizeRow(const float* x, int64_t cols, int8_t* q, float* scale, float* scaled_sum,
                 int32_t* sum) {
  const float magic = 12582912.0f;
  for (int64_t g = 0; g * kGroup < cols; ++g) {
    const float* in = x + g * kGroup;
    float lanes[16];
    for (int i = 0; i < 16; ++i) {
      const float a = __builtin_fabsf(in[i]), b = __builtin_fabsf(in[i + 16]);
      lanes[i] = a > b ? a : b;
    }
    float largest = 0;
    for (int i = 0; i < 16; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    int32_t total = 0;
    for (int i = 0; i < kGroup; ++i) {
      const int32_t value = FloatAsBits(in[i] * inverse + magic) - FloatAsBits(magic);
      q[g * kGroup + i] = static_cast<int8_t>(value);
      total += value;
    }
    // A NaN or infinity must not vanish in the conversion to integers.
    float check = 0;
    for (int i = 0; i < kGroup; ++i) check += in[i] * 0.0f;
    scale[g] = largest * (1.0f / 127.0f) + check;
    scaled_sum[g] = scale[g] * static_cast<float>(total);
    sum[g] = total;
  }
}

// ---------------------------------------------------------------- float products

// out for `MR` rows and one tile of 16 outputs, inputs ascending in one chain.
template <class S, int MR, int NV>
inline void FloatTile(const FloatGemmArgs& a, const float* tile, int64_t row, float* result) {
  typename S::Vec acc[MR][NV];
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < NV; ++v) acc[m][v] = S::Zero();
  }
  const float* x = a.x + row * a.inputs;
  for (int64_t k = 0; k < a.inputs; ++k) {
    typename S::Vec w[NV];
    for (int v = 0; v < NV; ++v) w[v] = S::Load(tile + k * kTileOutputs + v * S::kLanes);
    for (int m = 0; m < MR; ++m) {
      const typename S::Vec b = S::Set1(x[m * a.inputs + k]);
      for (int v = 0; v < NV; ++v) acc[m][v] = S::Fma(w[v], b, acc[m][v]);
    }
  }
  for (int m = 0; m < MR; ++m) {
    for (int v = 0; v < NV; ++v) S::Store(result + m * kTileOutputs + v * S::kLanes, acc[m][v]);
  }
}

template <class S>
void GemmF32(const FloatGemmArgs& a) {
  constexpr int kVectors = kTileOutputs / S::kLanes;
  constexpr int kRows = 4;
  float result[kRows * kTileOutputs];
  for (int t = 0; t < a.num_tiles; ++t) {
    const float* tile = a.tiles + t * a.inputs * kTileOutputs;
    const int first = t * kTileOutputs;
    const int outputs = a.num_outputs - first < kTileOutputs ? a.num_outputs - first : kTileOutputs;
    for (int64_t row = 0; row < a.rows;) {
      const int rows = a.rows - row >= kRows ? kRows : 1;
      if (rows == kRows) {
        FloatTile<S, kRows, kVectors>(a, tile, row, result);
      } else {
        FloatTile<S, 1, kVectors>(a, tile, row, result);
      }
      for (int m = 0; m < rows; ++m) {
        float* out = a.out + (row + m) * a.out_stride + first;
        for (int n = 0; n < outputs; ++n) {
          float value = result[m * kTileOutputs + n];
          if (a.bias != nullptr) value += a.bias[first + n];
          out[n] = a.accumulate ? out[n] + value : value;
        }
      }
      row += rows;
    }
  }
}

// ---------------------------------------------------------------- attention

// scores[i][0 .. NV * lanes) = queries[i] . keys of that many tokens.
template <class S, int QT, int NV>
inline void ScoreTokens(const typename S::Element* queries, int head_dim, const uint16_t* keys,
                        int block_tokens, float* scores, int64_t stride) {
  typename S::Vec acc[QT][NV];
  for (int i = 0; i < QT; ++i) {
    for (int v = 0; v < NV; ++v) acc[i][v] = S::Zero();
  }
  for (int d = 0; d < head_dim; d += 2) {
    typename S::Raw raw[NV];
    for (int v = 0; v < NV; ++v) {
      raw[v] = S::LoadRaw(keys + (int64_t{d} * block_tokens / 2 + v * S::kLanes) * 2);
    }
    for (int i = 0; i < QT; ++i) {
      const typename S::Pair q = S::LoadPair(queries + i * head_dim + d);
      for (int v = 0; v < NV; ++v) acc[i][v] = S::DotPair(acc[i][v], raw[v], q);
    }
  }
  for (int i = 0; i < QT; ++i) {
    for (int v = 0; v < NV; ++v) S::Store(scores + i * stride + v * S::kLanes, acc[i][v]);
  }
}

// out[i][c0 .. c0 + NV * lanes) = sum over the span's tokens of probability times value.
template <class S, int QT, int NV>
inline void SumValues(const SpanArgs& a, const typename S::Element* probabilities, int64_t stride,
                      int tokens, int channel) {
  typename S::Vec acc[QT][NV];
  for (int i = 0; i < QT; ++i) {
    for (int v = 0; v < NV; ++v) acc[i][v] = S::Zero();
  }
  for (int begin = 0; begin < tokens; begin += a.block_tokens) {
    const auto* values =
        static_cast<const uint16_t*>(a.slabs[begin / a.block_tokens]) + a.value_offset;
    const int count = tokens - begin < a.block_tokens ? tokens - begin : a.block_tokens;
    for (int t = 0; t < count; t += 2) {
      typename S::Raw raw[NV];
      for (int v = 0; v < NV; ++v) {
        raw[v] = S::LoadRaw(values + (int64_t{t} / 2 * a.head_dim + channel + v * S::kLanes) * 2);
      }
      for (int i = 0; i < QT; ++i) {
        const typename S::Pair p = S::LoadPair(probabilities + i * stride + begin + t);
        for (int v = 0; v < NV; ++v) acc[i][v] = S::DotPair(acc[i][v], raw[v], p);
      }
    }
  }
  for (int i = 0; i < QT; ++i) {
    for (int v = 0; v < NV; ++v) {
      S::Store(a.out + i * a.head_dim + channel + v * S::kLanes, acc[i][v]);
    }
  }
}

// Turns one query's scores into probabilities relative to its own maximum; zero from `limit` on.
template <class S>
inline void Softmax(const float* scores, int limit, int tokens, float scale, float* max, float* sum,
                    typename S::Element* probabilities) {
  if (limit <= 0) {
    *max = -__builtin_inff();
    *sum = 0;
    for (int t = 0; t < tokens; ++t) probabilities[t] = S::ToElement(0.0f);
    return;
  }
  float lanes[16];
  for (int j = 0; j < 16; ++j) lanes[j] = -__builtin_inff();
  int t = 0;
  for (; t + 16 <= limit; t += 16) {
    for (int j = 0; j < 16; ++j) lanes[j] = scores[t + j] > lanes[j] ? scores[t + j] : lanes[j];
  }
  float largest = -__builtin_inff();
  for (int j = 0; j < 16; ++j) largest = lanes[j] > largest ? lanes[j] : largest;
  for (; t < limit; ++t) largest = scores[t] > largest ? scores[t] : largest;
  *max = largest * scale;
  float sums[16] = {};
  const float offset = *max;
  for (t = 0; t + 16 <= limit; t += 16) {
    for (int j = 0; j < 16; ++j) {
      const typename S::Element p = S::ToElement(Exp2(scores[t + j] * scale - offset));
      probabilities[t + j] = p;
      sums[j] += S::FromElement(p);
    }
  }
  for (; t < limit; ++t) {
    const typename S::Element p = S::ToElement(Exp2(scores[t] * scale - offset));
    probabilities[t] = p;
    sums[t % 16] += S::FromElement(p);
  }
  for (; t < tokens; ++t) probabilities[t] = S::ToElement(0.0f);
  *sum = SumLanes(sums);
}

template <class S, int QT>
void AttendSpanTile(const SpanArgs& a) {
  int tokens = 0;  // what the furthest-seeing query sees
  for (int i = 0; i < QT; ++i) tokens = a.limits[i] > tokens ? a.limits[i] : tokens;
  const int64_t stride = (tokens + 63) / 64 * 64;
  float* scores = a.scratch;
  auto* probabilities = reinterpret_cast<typename S::Element*>(scores + QT * stride);
  const auto* queries = static_cast<const typename S::Element*>(a.queries);
  constexpr int kTokens = 2 * S::kLanes;  // per call of ScoreTokens
  for (int begin = 0; begin < tokens; begin += a.block_tokens) {
    const auto* keys = static_cast<const uint16_t*>(a.slabs[begin / a.block_tokens]) + a.key_offset;
    for (int slot = 0; slot < a.block_tokens && begin + slot < tokens; slot += kTokens) {
      ScoreTokens<S, QT, 2>(queries, a.head_dim, keys + slot * 2, a.block_tokens,
                            scores + begin + slot, stride);
    }
  }
  const int padded = tokens + (tokens & 1);
  for (int i = 0; i < QT; ++i) {
    Softmax<S>(scores + i * stride, a.limits[i], padded, a.scale_log2e, a.max + i, a.sum + i,
               probabilities + i * stride);
  }
  constexpr int kVectors = S::kValueVectors;
  int channel = 0;
  for (; channel + kVectors * S::kLanes <= a.head_dim; channel += kVectors * S::kLanes) {
    SumValues<S, QT, kVectors>(a, probabilities, stride, padded, channel);
  }
  for (; channel < a.head_dim; channel += S::kLanes) {
    SumValues<S, QT, 1>(a, probabilities, stride, padded, channel);
  }
}

template <class S>
void AttendSpan(const SpanArgs& a) {
  switch (a.num_queries) {
    case 1:
      return AttendSpanTile<S, 1>(a);
    case 2:
      return AttendSpanTile<S, 2>(a);
    case 3:
      return AttendSpanTile<S, 3>(a);
    case 4:
      return AttendSpanTile<S, 4>(a);
    case 5:
      return AttendSpanTile<S, 5>(a);
    default:
      return AttendSpanTile<S, 6>(a);
  }
}

template <class S>
void ConvertQuery(const float* q, int64_t cols, void* out) {
  auto* elements = static_cast<typename S::Element*>(out);
  for (int64_t i = 0; i < cols; ++i) elements[i] = S::ToElement(q[i]);
}
