// The kernels by plain loops: what kernels.h says of each, over the same work lists and layouts.

#include "engine/backend/cuda/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/backend/cuda/random_arith.h"
#include "engine/backend/cuda/rope_arith.h"
#include "engine/backend/cuda/score_arith.h"
#include "engine/tensor/float_convert.h"
#include "kvcache/kv_layout.h"
#include "tests/testing/cuda_on_host/queue.h"

namespace slim::cuda {
namespace {

using cuda_on_host::Enqueue;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

float Load(const void* data, Element type, int64_t i) {
  return type == Element::kF32 ? static_cast<const float*>(data)[i]
                               : BF16ToF32(static_cast<const Bf16*>(data)[i]);
}
void Store(float value, Element type, int64_t i, void* data) {
  if (type == Element::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<Bf16*>(data)[i] = F32ToBF16(value);
  }
}

KvLayout LayoutOf(const HeadShape& shape) {
  return {shape.num_kv_heads, shape.head_dim, shape.block_tokens, KvType::kBF16};
}

void RotateHead(const RopeTable& table, int32_t position, std::vector<float>* head) {
  const float* angles = table.angles + int64_t{position} * table.rotary_dims;
  for (int pair = 0; pair < table.rotary_dims / 2; ++pair) {
    const ChannelPair at = PairChannels(pair, table.rotary_dims, table.neighbouring_pairs != 0);
    const float u = (*head)[at.first], v = (*head)[at.second];
    (*head)[at.first] = RotatedFirst(u, v, angles[2 * pair], angles[2 * pair + 1]);
    (*head)[at.second] = RotatedSecond(u, v, angles[2 * pair], angles[2 * pair + 1]);
  }
}

// A running softmax over some slabs for one query row and head, in powers of two.
struct Partial {
  std::vector<float> out;
  float max = kMinusInfinity;
  float sum = 0;
};

Partial Attend(const AttentionArgs& args, int64_t row, int head, int first_slab, int num_slabs) {
  const HeadShape& shape = args.shape;
  const KvLayout layout = LayoutOf(shape);
  const int kv_head = head / (shape.num_heads / shape.num_kv_heads);
  const Bf16* query = args.q + (row * shape.num_heads + head) * shape.head_dim;
  std::vector<float> q(shape.head_dim);
  std::transform(query, query + shape.head_dim, q.begin(), BF16ToF32);
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(shape.head_dim));
  std::vector<float> scores;
  Partial partial{std::vector<float>(shape.head_dim, 0.0f)};
  for (int s = first_slab; s < first_slab + num_slabs; ++s) {
    const auto* slab = static_cast<const Bf16*>(args.slabs[s]);
    const int tokens = std::clamp(args.positions[row] + 1 - args.block_ids[s] * shape.block_tokens,
                                  0, shape.block_tokens);
    std::vector<float> dots(tokens, 0.0f);
    for (int d = 0; d < shape.head_dim; ++d) {
      const Bf16* keys = slab + layout.key_offset(kv_head, 0, d);
      for (int t = 0; t < tokens; ++t) dots[t] += q[d] * BF16ToF32(keys[2 * t]);
    }
    for (const float dot : dots) {
      scores.push_back(dot * scale);
      partial.max = std::fmax(partial.max, scores.back());
    }
  }
  size_t i = 0;
  for (int s = first_slab; s < first_slab + num_slabs; ++s) {
    const auto* slab = static_cast<const Bf16*>(args.slabs[s]);
    for (int t = 0; t < shape.block_tokens; ++t) {
      if (args.block_ids[s] * shape.block_tokens + t > args.positions[row]) break;
      const float weight = std::exp2(scores[i++] - partial.max);
      partial.sum += weight;
      const Bf16* values = slab + layout.value_offset(kv_head, t, 0);
      for (int d = 0; d < shape.head_dim; ++d) {
        partial.out[d] += weight * BF16ToF32(values[2 * d]);
      }
    }
  }
  return partial;
}

}  // namespace

// ---------------------------------------------------------------- rows

cudaError_t RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
                    Bf16* out, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    for (int64_t r = 0; r < rows; ++r) {
      float squares = 0;
      for (int64_t i = 0; i < cols; ++i) squares += x[r * cols + i] * x[r * cols + i];
      const float scale = 1.0f / std::sqrt(squares / static_cast<float>(cols) + eps);
      for (int64_t i = 0; i < cols; ++i) {
        out[r * cols + i] = F32ToBF16(x[r * cols + i] * scale * weight[i]);
      }
    }
  });
}

cudaError_t SwiGlu(const Bf16* gate, const Bf16* up, int64_t count, Bf16* out,
                   cudaStream_t stream) {
  return Enqueue(stream, [=] {
    for (int64_t i = 0; i < count; ++i) {
      const float g = BF16ToF32(gate[i]);
      out[i] = F32ToBF16(g / (1.0f + std::exp(-g)) * BF16ToF32(up[i]));
    }
  });
}

cudaError_t FillRandom(float deviation, uint64_t seed, int64_t count, Bf16* out,
                       cudaStream_t stream) {
  return Enqueue(stream, [=] {
    for (int64_t i = 0; i < count; ++i) {
      out[i] = F32ToBF16(kLargestOfDeviation * deviation *
                         RandomFraction(seed, static_cast<uint64_t>(i)));
    }
  });
}

cudaError_t ConvertToBf16(const float* x, int64_t count, Bf16* out, cudaStream_t stream) {
  return Enqueue(stream, [=] { std::transform(x, x + count, out, F32ToBF16); });
}

cudaError_t FillBias(const float* bias, bool accumulate, int64_t rows, int64_t cols, void* out,
                     Element type, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    for (int64_t i = 0; i < rows * cols; ++i) {
      Store((accumulate ? Load(out, type, i) : 0.0f) + bias[i % cols], type, i, out);
    }
  });
}

cudaError_t Embed(const Bf16* table, const int32_t* tokens, int64_t rows, int64_t cols, float* out,
                  cudaStream_t stream) {
  return Enqueue(stream, [=] {
    for (int64_t i = 0; i < rows * cols; ++i) {
      out[i] = BF16ToF32(table[int64_t{tokens[i / cols]} * cols + i % cols]);
    }
  });
}

cudaError_t CopyRows(const void* src, const int64_t* src_rows, void* dst, const int64_t* dst_rows,
                     int64_t rows, int64_t row_bytes, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(static_cast<char*>(dst) + dst_rows[i] * row_bytes,
                  static_cast<const char*>(src) + src_rows[i] * row_bytes, row_bytes);
    }
  });
}

// ---------------------------------------------------------------- positions and keys

cudaError_t Rope(const RopeTable& table, int head_dim, int heads, void* x, Element type,
                 int64_t rows, const int32_t* positions, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    std::vector<float> head(head_dim);
    for (int64_t h = 0; h < rows * heads; ++h) {
      for (int d = 0; d < head_dim; ++d) head[d] = Load(x, type, h * head_dim + d);
      RotateHead(table, positions[h / heads], &head);
      for (int d = 0; d < head_dim; ++d) Store(head[d], type, h * head_dim + d, x);
    }
  });
}

cudaError_t RopeStoreKv(const RopeTable& table, const HeadShape& shape, const Bf16* k,
                        const Bf16* v, int64_t rows, const int32_t* positions, void* const* slabs,
                        const int32_t* slots, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    const KvLayout layout = LayoutOf(shape);
    std::vector<float> head(shape.head_dim);
    for (int64_t r = 0; r < rows; ++r) {
      auto* slab = static_cast<Bf16*>(slabs[r]);
      for (int h = 0; h < shape.num_kv_heads; ++h) {
        const int64_t first = (r * shape.num_kv_heads + h) * shape.head_dim;
        for (int d = 0; d < shape.head_dim; ++d) head[d] = BF16ToF32(k[first + d]);
        RotateHead(table, positions[r], &head);
        for (int d = 0; d < shape.head_dim; ++d) {
          slab[layout.key_offset(h, slots[r], d)] = F32ToBF16(head[d]);
          slab[layout.value_offset(h, slots[r], d)] = v[first + d];
        }
      }
    }
  });
}

// ---------------------------------------------------------------- attention

cudaError_t AttentionPrefill(const AttentionArgs& args, const PrefillTile* tiles, int num_tiles,
                             cudaStream_t stream) {
  return Enqueue(stream, [=] {
    const HeadShape& shape = args.shape;
    for (int i = 0; i < num_tiles; ++i) {
      const PrefillTile& tile = tiles[i];
      for (int64_t row = tile.first_row; row < tile.first_row + tile.num_rows; ++row) {
        for (int h = 0; h < shape.num_heads; ++h) {
          const Partial all = Attend(args, row, h, tile.first_slab, tile.num_slabs);
          for (int d = 0; d < shape.head_dim; ++d) {
            args.out[(row * shape.num_heads + h) * shape.head_dim + d] =
                F32ToBF16(all.out[d] / all.sum);
          }
        }
      }
    }
  });
}

cudaError_t AttentionDecode(const AttentionArgs& args, const DecodeSplit* splits, int num_splits,
                            const DecodeRow* rows, int num_rows, float* partials,
                            cudaStream_t stream) {
  return Enqueue(stream, [=] {
    const int heads = args.shape.num_heads, dims = args.shape.head_dim;
    const int64_t stride = DecodePartialFloats(heads, dims);
    for (int i = 0; i < num_splits; ++i) {
      const DecodeSplit& split = splits[i];
      if (split.num_slabs == 0) continue;
      for (int h = 0; h < heads; ++h) {
        const Partial part = Attend(args, split.row, h, split.first_slab, split.num_slabs);
        float* out = partials + split.partial * stride + int64_t{h} * (dims + 2);
        std::copy(part.out.begin(), part.out.end(), out);
        out[dims] = part.max;
        out[dims + 1] = part.sum;
      }
    }
    for (int i = 0; i < num_rows; ++i) {
      for (int h = 0; h < heads; ++h) {
        const float* first = partials + rows[i].first_partial * stride + int64_t{h} * (dims + 2);
        float largest = kMinusInfinity, sum = 0;
        for (int p = 0; p < rows[i].num_partials; ++p) {
          largest = std::fmax(largest, first[p * stride + dims]);
        }
        std::vector<float> out(dims, 0.0f);
        for (int p = 0; p < rows[i].num_partials; ++p) {
          const float weight = std::exp2(first[p * stride + dims] - largest);
          sum += weight * first[p * stride + dims + 1];
          for (int d = 0; d < dims; ++d) out[d] += weight * first[p * stride + d];
        }
        for (int d = 0; d < dims; ++d) {
          args.out[(int64_t{rows[i].row} * heads + h) * dims + d] = F32ToBF16(out[d] / sum);
        }
      }
    }
  });
}

// ---------------------------------------------------------------- block scores

cudaError_t ScoreUnits(const ScoreArgs& args, UnitScore kind, float* qbar, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    const HeadShape& shape = args.shape;
    const KvLayout layout = LayoutOf(shape);
    const int dims = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
    const int64_t cols = int64_t{shape.num_heads} * dims;
    for (int64_t i = 0; i < cols; ++i) {
      float sum = Load(args.queries, args.query_type, i);
      for (int w = 1; w < args.window; ++w) {
        sum += Load(args.queries, args.query_type, w * cols + i);
      }
      qbar[i] = sum / static_cast<float>(args.window);
    }
    const bool pool = kind == UnitScore::kMaxPool;
    const int step = pool ? shape.block_tokens : kScoreUnitTokens;
    std::vector<float> key(dims);
    for (int b = 0; b < args.blocks; ++b) {
      const auto* slab = static_cast<const Bf16*>(args.slabs[b]);
      const int tokens = TokensBefore(args.num_tokens, args.block_ids[b], shape.block_tokens);
      float best = kMinusInfinity, sum = 0;
      int units = 0;
      for (int begin = 0; begin < tokens; begin += step, ++units) {
        const int end = std::min(begin + step, tokens);
        float total = 0;
        for (int h = 0; h < shape.num_heads; ++h) {
          for (int d = 0; d < dims; ++d) {
            for (int t = begin; t < end; ++t) {
              const float k = BF16ToF32(slab[layout.key_offset(h / group, t, d)]);
              key[d] = t == begin ? k : pool ? MaxOrNan(key[d], k) : key[d] + k;
            }
            if (!pool) key[d] /= static_cast<float>(end - begin);
          }
          const float* q = qbar + int64_t{h} * dims;
          float dot = 0;
          for (int d = 0; d < dims; d += 2) dot = AddPair(dot, q[d], key[d], q[d + 1], key[d + 1]);
          total += kind == UnitScore::kSignedMax ? dot : std::fabs(dot);
        }
        const float unit = total / static_cast<float>(shape.num_heads);
        best = MaxOrNan(best, unit);
        sum += unit;
      }
      args.scores[b] =
          kind == UnitScore::kMean && units > 0 ? sum / static_cast<float>(units) : best;
    }
  });
}

cudaError_t ScoreWindow(const ScoreArgs& args, int, float*, float*, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    const HeadShape& shape = args.shape;
    const KvLayout layout = LayoutOf(shape);
    const int dims = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dims));
    std::fill(args.scores, args.scores + args.blocks, 0.0f);
    for (int i = 0; i < args.window * shape.num_heads; ++i) {
      const int kv_head = i % shape.num_heads / group;
      const int64_t end =
          std::min<int64_t>(args.num_tokens, int64_t{args.positions[i / shape.num_heads]} + 1);
      std::vector<float> dots(int64_t{args.blocks} * shape.block_tokens);
      float largest = kMinusInfinity;
      const auto each = [&](const auto& visit) {
        for (int b = 0; b < args.blocks; ++b) {
          const int visible = TokensBefore(end, args.block_ids[b], shape.block_tokens);
          for (int t = 0; t < visible; ++t) visit(b, t, &dots[b * shape.block_tokens + t]);
        }
      };
      each([&](int b, int t, float* dot) {
        const auto* slab = static_cast<const Bf16*>(args.slabs[b]);
        float sum = 0;
        for (int d = 0; d < dims; d += 2) {
          sum = AddPair(sum, Load(args.queries, args.query_type, int64_t{i} * dims + d),
                        BF16ToF32(slab[layout.key_offset(kv_head, t, d)]),
                        Load(args.queries, args.query_type, int64_t{i} * dims + d + 1),
                        BF16ToF32(slab[layout.key_offset(kv_head, t, d + 1)]));
        }
        *dot = sum * scale;
        largest = MaxOrNan(largest, *dot);
      });
      float lanes[kScoreLanes] = {};
      each([&](int, int t, float* dot) {
        *dot = ScoreExp(*dot - largest);
        lanes[t % kScoreLanes] += *dot;
      });
      float total = 0;
      for (const float lane : lanes) total += lane;
      std::vector<float> most(args.blocks, 0.0f);
      each([&](int b, int, float* dot) { most[b] = MaxOrNan(most[b], *dot); });
      for (int b = 0; b < args.blocks; ++b) {
        if (TokensBefore(end, args.block_ids[b], shape.block_tokens) == 0) continue;
        args.scores[b] = MaxOrNan(args.scores[b], most[b] / total);
      }
    }
  });
}

}  // namespace slim::cuda
