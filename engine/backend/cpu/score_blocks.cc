#include "engine/backend/cpu/score_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/ops.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"
#include "kvcache/int8_kv.h"

namespace slim {
namespace {

constexpr int kMostHeadDims = 1024;  // CpuBackend::Configure

bool InBytes(const KvLayout& layout) { return layout.type == KvType::kInt8; }

const char* At(const KvLayout& layout, const void* slab, int64_t element) {
  return static_cast<const char*>(slab) + element * layout.element_bytes();
}

// Tokens of block `block_id` at positions < end, clipped to the block.
int TokensBefore(int64_t end, int32_t block_id, int block_tokens) {
  return static_cast<int>(
      std::clamp<int64_t>(end - int64_t{block_id} * block_tokens, 0, block_tokens));
}

// One window query and head: the largest probability of each block. `dots` and `exps` hold
// block_tokens values per block.
void AttendQuery(const CpuContext& context, const BlockScoreArgs& args, int64_t row, int head,
                 float* dots, float* exps, float* result) {
  const KvLayout& layout = context.shape.layout;
  const int tokens = layout.block_tokens, dims = layout.head_dim;
  const int kv_head = head / (args.num_heads / layout.num_kv_heads);
  float q[kMostHeadDims];
  std::copy_n(args.queries.f32() + row * args.queries.cols + int64_t{head} * dims, dims, q);
  float scale = 1.0f / std::sqrt(static_cast<float>(dims));
  if (InBytes(layout)) {
    RotateChannels(q, dims);
    scale /= static_cast<float>(RotationBlock(dims));
  }
  const int64_t end = std::min<int64_t>(args.num_tokens, int64_t{args.positions[row]} + 1);
  float max = -std::numeric_limits<float>::infinity();
  for (size_t b = 0; b < args.slabs.size(); ++b) {
    const int visible = TokensBefore(end, args.block_ids[b], tokens);
    if (visible == 0) continue;
    float* s = dots + b * tokens;
    const char* scales = At(layout, args.slabs[b], layout.key_scale_offset(kv_head, 0));
    context.kernels->score_dots(q, At(layout, args.slabs[b], layout.key_head_offset(kv_head)),
                                InBytes(layout) ? reinterpret_cast<const float*>(scales) : nullptr,
                                dims, tokens, s);
    for (int t = 0; t < visible; ++t) {
      s[t] *= scale;
      max = MaxOrNan(max, s[t]);
    }
  }
  float lanes[kScoreLanes] = {};
  for (size_t b = 0; b < args.slabs.size(); ++b) {
    const int visible = TokensBefore(end, args.block_ids[b], tokens);
    result[b] = 0;
    if (visible == 0) continue;
    context.kernels->score_exp(dots + b * tokens, max, tokens, exps);
    for (int t = 0; t < visible; ++t) {
      lanes[t % kScoreLanes] += exps[t];
      result[b] = MaxOrNan(result[b], exps[t]);
    }
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  for (size_t b = 0; b < args.slabs.size(); ++b) {
    if (TokensBefore(end, args.block_ids[b], tokens) > 0) result[b] /= sum;
  }
}

absl::Status ScoreByWindow(CpuContext& context, const BlockScoreArgs& args,
                           absl::Span<float> scores) {
  const int64_t blocks = static_cast<int64_t>(args.slabs.size());
  const int64_t queries = args.queries.rows * args.num_heads;
  const int64_t thread_floats = (blocks + 1) * context.shape.layout.block_tokens;
  SLIM_ASSIGN_OR_RETURN(float* const scratch, context.score_threads.Get<float>(
                                                  thread_floats * context.pool->num_threads()));
  SLIM_ASSIGN_OR_RETURN(float* const results, context.score_blocks.Get<float>(queries * blocks));
  context.pool->ParallelFor(queries, 1, [&](int64_t begin, int64_t end, int thread) {
    float* exps = scratch + thread * thread_floats;
    float* dots = exps + context.shape.layout.block_tokens;
    for (int64_t i = begin; i < end; ++i) {
      AttendQuery(context, args, i / args.num_heads, static_cast<int>(i % args.num_heads), dots,
                  exps, results + i * blocks);
    }
  });
  std::fill(scores.begin(), scores.end(), 0.0f);
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t b = 0; b < blocks; ++b) scores[b] = MaxOrNan(scores[b], results[i * blocks + b]);
  }
  return absl::OkStatus();
}

// The key of one token, [head_dim]. Bytes: rotated unless `plain`.
void LoadKey(const KvLayout& layout, const void* slab, int kv_head, int token, bool plain,
             float* key) {
  if (InBytes(layout)) {
    DecodeRotatedKey(layout, slab, kv_head, token, key);
    if (plain) UndoRotation(key, layout.head_dim);
    return;
  }
  const auto* keys = static_cast<const uint16_t*>(slab);
  for (int d = 0; d < layout.head_dim; ++d) {
    key[d] = BF16ToF32(keys[layout.key_offset(kv_head, token, d)]);
  }
}

// The key that stands for tokens [begin, end) of a block: their mean, or their largest.
void RepresentUnit(const KvLayout& layout, const void* slab, int kv_head, int begin, int end,
                   bool largest, float* representative) {
  const int dims = layout.head_dim;
  LoadKey(layout, slab, kv_head, begin, largest, representative);
  float key[kMostHeadDims];
  for (int t = begin + 1; t < end; ++t) {
    LoadKey(layout, slab, kv_head, t, largest, key);
    for (int d = 0; d < dims; ++d) {
      representative[d] =
          largest ? MaxOrNan(representative[d], key[d]) : representative[d] + key[d];
    }
  }
  if (largest) return;
  for (int d = 0; d < dims; ++d) representative[d] /= static_cast<float>(end - begin);
}

// (1/H) sum over heads of |qbar . representative| for one unit; representatives [kv_heads, dims].
float ScoreUnit(const CpuModelShape& shape, int num_heads, const float* qbar,
                const float* representatives, bool absolute) {
  const int dims = shape.layout.head_dim;
  const int group = num_heads / shape.layout.num_kv_heads;
  float total = 0;
  for (int h = 0; h < num_heads; ++h) {
    const float* q = qbar + int64_t{h} * dims;
    const float* k = representatives + int64_t{h / group} * dims;
    float dot = 0;
    for (int d = 0; d < dims; ++d) dot += q[d] * k[d];
    total += absolute ? std::fabs(dot) : dot;
  }
  return total / static_cast<float>(num_heads);
}

float ScoreBlock(const CpuModelShape& shape, const BlockScoreArgs& args, size_t block,
                 const float* qbar, float* representatives) {
  const KvLayout& layout = shape.layout;
  const int tokens = TokensBefore(args.num_tokens, args.block_ids[block], layout.block_tokens);
  const bool pool = args.kind == ScoreKind::kMaxPool;
  const int step = pool ? layout.block_tokens : kScoreUnitTokens;
  float best = -std::numeric_limits<float>::infinity(), sum = 0;
  int units = 0;
  for (int begin = 0; begin < tokens; begin += step, ++units) {
    const int end = std::min(begin + step, tokens);
    for (int kv = 0; kv < layout.num_kv_heads; ++kv) {
      RepresentUnit(layout, args.slabs[block], kv, begin, end, pool,
                    representatives + int64_t{kv} * layout.head_dim);
    }
    const float unit = ScoreUnit(shape, args.num_heads, qbar, representatives,
                                 args.kind != ScoreKind::kUnitSigned);
    best = MaxOrNan(best, unit);
    sum += unit;
  }
  return args.kind == ScoreKind::kMeanPool && units > 0 ? sum / static_cast<float>(units) : best;
}

absl::Status ScoreByUnits(CpuContext& context, const BlockScoreArgs& args,
                          absl::Span<float> scores) {
  const KvLayout& layout = context.shape.layout;
  const int64_t cols = args.queries.cols;
  const int64_t kv_cols = int64_t{layout.num_kv_heads} * layout.head_dim;
  SLIM_ASSIGN_OR_RETURN(float* const qbar, context.score_blocks.Get<float>(cols));
  SLIM_ASSIGN_OR_RETURN(float* const representatives,
                        context.score_threads.Get<float>(kv_cols * context.pool->num_threads()));
  for (int64_t i = 0; i < cols; ++i) {
    float sum = args.queries.f32()[i];
    for (int64_t w = 1; w < args.queries.rows; ++w) sum += args.queries.f32()[w * cols + i];
    qbar[i] = sum / static_cast<float>(args.queries.rows);
  }
  // A mean of rotated keys is a rotated mean; a maximum is not.
  if (InBytes(layout) && args.kind != ScoreKind::kMaxPool) {
    const float inverse = 1.0f / static_cast<float>(RotationBlock(layout.head_dim));
    for (int64_t i = 0; i < cols; i += layout.head_dim) {
      RotateChannels(qbar + i, layout.head_dim);
    }
    for (int64_t i = 0; i < cols; ++i) qbar[i] *= inverse;
  }
  context.pool->ParallelFor(scores.size(), 4, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t b = begin; b < end; ++b) {
      scores[b] = ScoreBlock(context.shape, args, b, qbar, representatives + thread * kv_cols);
    }
  });
  return absl::OkStatus();
}

}  // namespace

absl::Status CpuScoreBlocks(CpuContext& context, const BlockScoreArgs& args,
                            absl::Span<float> scores) {
  SLIM_CHECK(args.slabs.size() == args.block_ids.size() && scores.size() == args.slabs.size());
  SLIM_CHECK(args.queries.rows > 0 &&
             args.queries.cols == int64_t{args.num_heads} * context.shape.layout.head_dim);
  SLIM_CHECK(args.num_heads % context.shape.layout.num_kv_heads == 0);
  if (args.kind == ScoreKind::kWindowAttention) {
    SLIM_CHECK(static_cast<int64_t>(args.positions.size()) == args.queries.rows);
    return ScoreByWindow(context, args, scores);
  }
  SLIM_CHECK(args.kind != ScoreKind::kRecency && args.kind != ScoreKind::kRandom);
  return ScoreByUnits(context, args, scores);
}

}  // namespace slim
