#include "engine/backend/cpu/block_scores.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/base/check.h"

// One binary for all processors: the loops below are compiled several times and chosen when the
// program starts. Contraction to fused operations is off for the whole project.
#if defined(__GNUC__) && !defined(__clang__)
#define SLIM_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SLIM_VECTOR_CLONES
#endif

namespace slim {
namespace {

constexpr int kUnitTokens = 8;
constexpr int kMaxBlock = 64;

// Keys of one head of one page as floats, [head_dim][block_tokens].
SLIM_VECTOR_CLONES
void UnpackKeys(const uint16_t* keys, int block_tokens, int head_dim, float* out) {
  for (int pair = 0; pair < head_dim / 2; ++pair) {
    const uint16_t* in = keys + int64_t{pair} * block_tokens * 2;
    float* even = out + int64_t{2} * pair * block_tokens;
    float* odd = even + block_tokens;
    for (int t = 0; t < block_tokens; ++t) {
      even[t] = std::bit_cast<float>(uint32_t{in[2 * t]} << 16);
      odd[t] = std::bit_cast<float>(uint32_t{in[2 * t + 1]} << 16);
    }
  }
}

// dots[t] = sum over d of query[d] * keys[d][t].
SLIM_VECTOR_CLONES
void Dots(const float* query, const float* keys, int block_tokens, int head_dim, float* dots) {
  float sums[kMaxBlock];
  for (int t = 0; t < block_tokens; ++t) sums[t] = 0;
  for (int d = 0; d < head_dim; ++d) {
    const float q = query[d];
    const float* row = keys + int64_t{d} * block_tokens;
    for (int t = 0; t < block_tokens; ++t) sums[t] += q * row[t];
  }
  for (int t = 0; t < block_tokens; ++t) dots[t] = sums[t];
}

// values[t] = 2^(values[t] - offset); the polynomial of degree 6 has relative error 2e-7.
SLIM_VECTOR_CLONES
void Exponentials(float* values, int64_t count, float offset) {
  for (int64_t t = 0; t < count; ++t) {
    const float magic = 12582912.0f;
    const float x = values[t] - offset;
    const float y = x < -126.0f ? -126.0f : x;
    const float shifted = y + magic;
    const float f = y - (shifted - magic);
    float p = 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    const int32_t n = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(magic);
    const float power = std::bit_cast<float>(std::bit_cast<int32_t>(p) + (n << 23));
    values[t] = x == x ? power : x;
  }
}

// Larger of two; a NaN on either side wins.
float MaxOrNan(float a, float b) {
  if (std::isnan(a)) return a;
  return a >= b ? a : b;
}

const uint16_t* HeadKeys(const BlockScoreArgs& args, const KvLayout& layout, size_t page,
                         int kv_head) {
  return static_cast<const uint16_t*>(args.slabs[page]) + layout.key_head_offset(kv_head);
}

int64_t TokensInBlock(const BlockScoreArgs& args, const KvLayout& layout, size_t page) {
  const int64_t first = int64_t{args.block_ids[page]} * layout.block_tokens;
  return std::min<int64_t>(layout.block_tokens, args.num_tokens - first);
}

// All heads that share one key/value head; folds their probabilities into scores[page].
void WindowAttentionHead(const BlockScoreArgs& args, const KvLayout& layout, int kv_head,
                         float* scores) {
  const int B = layout.block_tokens, D = layout.head_dim;
  const int group = args.num_heads / layout.num_kv_heads;
  const auto pages = args.block_ids.size();
  const int64_t rows = args.queries.rows * group;
  const auto stride = static_cast<int64_t>(pages) * B;
  const float scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(D)));
  std::vector<float> keys(int64_t{D} * B), dots(rows * stride);
  for (size_t page = 0; page < pages; ++page) {
    UnpackKeys(HeadKeys(args, layout, page, kv_head), B, D, keys.data());
    for (int64_t row = 0; row < rows; ++row) {
      const float* query = args.queries.f32() + row / group * args.queries.cols +
                           (int64_t{kv_head} * group + row % group) * D;
      Dots(query, keys.data(), B, D, &dots[row * stride + page * B]);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    float* values = &dots[row * stride];
    const int32_t position = args.positions[row / group];
    // Keys after the query and beyond the prompt do not exist for it.
    std::vector<int> visible(pages);
    float largest = -std::numeric_limits<float>::infinity();
    for (size_t page = 0; page < pages; ++page) {
      const int64_t first = int64_t{args.block_ids[page]} * B;
      visible[page] = static_cast<int>(
          std::clamp<int64_t>(std::min<int64_t>(position + 1, args.num_tokens) - first, 0, B));
      for (int t = 0; t < visible[page]; ++t) {
        values[page * B + t] *= scale;
        largest = MaxOrNan(largest, values[page * B + t]);
      }
    }
    float lanes[16] = {};
    for (size_t page = 0; page < pages; ++page) {
      Exponentials(values + page * B, visible[page], largest);
      for (int t = 0; t < visible[page]; ++t) lanes[t % 16] += values[page * B + t];
    }
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    for (size_t page = 0; page < pages; ++page) {
      for (int t = 0; t < visible[page]; ++t) {
        scores[page] = MaxOrNan(scores[page], values[page * B + t] / sum);
      }
      if (std::isnan(sum)) scores[page] = sum;
    }
  }
}

// Representatives of a block's units, [units][kv_heads * head_dim]: means of 8 keys, or the block's
// element-wise maximum.
int UnitKeys(const BlockScoreArgs& args, const KvLayout& layout, size_t page, float* keys,
             float* units) {
  const int B = layout.block_tokens, D = layout.head_dim;
  const auto tokens = static_cast<int>(TokensInBlock(args, layout, page));
  const bool pool = args.kind == ScoreKind::kMaxPool;
  const int unit_tokens = pool ? B : kUnitTokens;
  const int num_units = (tokens + unit_tokens - 1) / unit_tokens;
  for (int kv = 0; kv < layout.num_kv_heads; ++kv) {
    UnpackKeys(HeadKeys(args, layout, page, kv), B, D, keys);
    for (int u = 0; u < num_units; ++u) {
      const int begin = u * unit_tokens, end = std::min(begin + unit_tokens, tokens);
      for (int d = 0; d < D; ++d) {
        float value = keys[d * B + begin];
        for (int t = begin + 1; t < end; ++t) {
          value = pool ? MaxOrNan(value, keys[d * B + t]) : value + keys[d * B + t];
        }
        if (!pool) value /= static_cast<float>(end - begin);
        units[(int64_t{u} * layout.num_kv_heads + kv) * D + d] = value;
      }
    }
  }
  return num_units;
}

float UnitScore(const BlockScoreArgs& args, const KvLayout& layout, const float* qbar,
                const float* unit) {
  const int D = layout.head_dim;
  const int group = args.num_heads / layout.num_kv_heads;
  float total = 0;
  for (int h = 0; h < args.num_heads; ++h) {
    float dot = 0;
    for (int d = 0; d < D; ++d) dot += qbar[h * D + d] * unit[int64_t{h / group} * D + d];
    total += args.kind == ScoreKind::kUnitSigned ? dot : std::fabs(dot);
  }
  return total / static_cast<float>(args.num_heads);
}

void ScoreByUnits(const BlockScoreArgs& args, const KvLayout& layout, ThreadPool& pool,
                  absl::Span<float> scores) {
  const int64_t cols = args.queries.cols;
  std::vector<float> qbar(cols, 0.0f);
  for (int64_t w = 0; w < args.queries.rows; ++w) {
    for (int64_t i = 0; i < cols; ++i) qbar[i] += args.queries.f32()[w * cols + i];
  }
  for (float& q : qbar) q /= static_cast<float>(args.queries.rows);
  pool.ParallelFor(static_cast<int64_t>(scores.size()), [&](int64_t page, int) {
    std::vector<float> keys(int64_t{layout.head_dim} * layout.block_tokens);
    std::vector<float> units(int64_t{layout.block_tokens} / kUnitTokens * layout.num_kv_heads *
                             layout.head_dim);
    const int num_units = UnitKeys(args, layout, page, keys.data(), units.data());
    float best = -std::numeric_limits<float>::infinity(), total = 0;
    for (int u = 0; u < num_units; ++u) {
      const float score = UnitScore(args, layout, qbar.data(),
                                    &units[int64_t{u} * layout.num_kv_heads * layout.head_dim]);
      best = MaxOrNan(best, score);
      if (std::isnan(score)) best = score;
      total += score;
    }
    scores[page] = args.kind == ScoreKind::kMeanPool ? total / static_cast<float>(num_units) : best;
  });
}

}  // namespace

void ComputeBlockScores(const BlockScoreArgs& args, const KvLayout& layout, ThreadPool& pool,
                        absl::Span<float> scores) {
  SLIM_CHECK(layout.type == KvType::kBF16 && layout.block_tokens <= kMaxBlock);
  SLIM_CHECK(args.slabs.size() == args.block_ids.size() && scores.size() == args.slabs.size());
  if (args.kind != ScoreKind::kWindowAttention) return ScoreByUnits(args, layout, pool, scores);
  const auto pages = static_cast<int64_t>(scores.size());
  std::vector<float> per_head(layout.num_kv_heads * pages, 0.0f);
  pool.ParallelFor(layout.num_kv_heads, [&](int64_t kv_head, int) {
    WindowAttentionHead(args, layout, static_cast<int>(kv_head), &per_head[kv_head * pages]);
  });
  for (int64_t page = 0; page < pages; ++page) {
    float best = 0;
    for (int kv = 0; kv < layout.num_kv_heads; ++kv) {
      const float score = per_head[kv * pages + page];
      best = std::isnan(score) ? score : MaxOrNan(best, score);
    }
    scores[page] = best;
  }
}

}  // namespace slim
