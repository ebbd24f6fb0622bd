// Keys and values in bytes for prompt rows: which a call needs, and what is taken off the keys.

#include <algorithm>

#include "engine/backend/cpu/ops.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/float_convert.h"

namespace slim {
namespace {

// Tokens 1 to 31 of the sequence, which every prompt row sees whole, tell what is common to all
// keys of a head; the first token is seldom like the others. Without them nothing is taken off.
void ComputeCenter(const AttentionSequence& sequence, const KvLayout& layout, int kv_head,
                   float* center) {
  constexpr int kFirst = 1, kEnd = 32;
  static_assert(kEnd <= kExactPositions);
  std::fill_n(center, layout.head_dim, 0.0f);
  if (sequence.block_ids[0] != 0) return;
  const auto* keys = static_cast<const uint16_t*>(sequence.slabs[0]);
  for (int d = 0; d < layout.head_dim; ++d) {
    for (int slot = kFirst; slot < kEnd; ++slot) {
      center[d] += BF16ToF32(keys[layout.key_offset(kv_head, slot, d)]);
    }
    center[d] *= 1.0f / (kEnd - kFirst);
  }
}

}  // namespace

PromptKv PromptKvOfPage(const KvLayout& layout, const PromptKv& kv, int64_t page) {
  const int64_t elements = page * layout.head_elements(), tokens = page * layout.block_tokens;
  PromptKv result;
  result.keys = kv.keys + elements;
  result.key_scales = kv.key_scales + tokens;
  result.starts = kv.starts + tokens;
  result.values = kv.values + elements;
  result.value_scales = kv.value_scales + tokens;
  return result;
}

absl::StatusOr<PromptKv> MakePromptKv(CpuContext& context, absl::Span<const int32_t> positions,
                                      absl::Span<const AttentionSequence> sequences) {
  const KvLayout& layout = context.shape.layout;
  PromptKv result;
  context.prompt_places.assign(sequences.size(), {});
  if (context.kernels->attention_prompt_span == nullptr) return result;
  int64_t pages = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const AttentionSequence& sequence = sequences[s];
    if (!sequence.prompt_rows || sequence.num_rows == 0) continue;
    const int64_t tokens = VisibleTokens(sequence, layout.block_tokens,
                                         positions[sequence.first_row + sequence.num_rows - 1]);
    PromptKvPlace& place = context.prompt_places[s];
    place = {pages, (tokens + layout.block_tokens - 1) / layout.block_tokens};
    pages += place.pages * layout.num_kv_heads;
  }
  if (pages == 0) return result;
  const int64_t heads = static_cast<int64_t>(sequences.size()) * layout.num_kv_heads;
  SLIM_ASSIGN_OR_RETURN(result.keys,
                        context.prompt_keys.Get<int8_t>(pages * layout.head_elements()));
  SLIM_ASSIGN_OR_RETURN(result.values,
                        context.prompt_values.Get<int8_t>(pages * layout.head_elements()));
  SLIM_ASSIGN_OR_RETURN(result.value_scales,
                        context.prompt_value_scales.Get<float>(pages * layout.block_tokens));
  SLIM_ASSIGN_OR_RETURN(result.key_scales,
                        context.prompt_key_scales.Get<float>(pages * layout.block_tokens));
  SLIM_ASSIGN_OR_RETURN(result.starts,
                        context.prompt_key_starts.Get<int32_t>(pages * layout.block_tokens));
  SLIM_ASSIGN_OR_RETURN(float* const centers,
                        context.prompt_centers.Get<float>(heads * layout.head_dim));
  for (size_t s = 0; s < sequences.size(); ++s) {
    const PromptKvPlace& place = context.prompt_places[s];
    if (place.pages == 0) continue;
    const AttentionSequence& sequence = sequences[s];
    float* const center = centers + s * layout.num_kv_heads * layout.head_dim;
    for (int h = 0; h < layout.num_kv_heads; ++h) {
      ComputeCenter(sequence, layout, h, center + h * layout.head_dim);
    }
    context.pool->ParallelFor(place.pages, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t page = begin; page < end; ++page) {
        const auto* slab = static_cast<const uint16_t*>(sequence.slabs[page]);
        for (int h = 0; h < layout.num_kv_heads; ++h) {
          const PromptKv to =
              PromptKvOfPage(layout, result, place.first_page + h * place.pages + page);
          context.kernels->quantize_prompt_keys(slab + layout.key_head_offset(h),
                                                center + h * layout.head_dim, layout.head_dim,
                                                layout.block_tokens, to);
          context.kernels->quantize_prompt_values(slab + layout.value_head_offset(h),
                                                  layout.head_dim, layout.block_tokens, to);
        }
      }
    });
  }
  return result;
}

}  // namespace slim
