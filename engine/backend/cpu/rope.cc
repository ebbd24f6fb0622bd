// Rotary position embedding from a table of cosines and sines, and the write of keys and values
// into their slots.

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/ops.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"
#include "kvcache/int8_kv.h"

namespace slim {
namespace {

static_assert(kRotationSigns == kPromptSigns);

// Constant distances, so that the compiler can take several pairs at a time.
template <bool kNeighbours>
void RotateHead(const float* __restrict angles, int half, float* __restrict head) {
  for (int i = 0; i < half; ++i) {
    float& a = kNeighbours ? head[2 * i] : head[i];
    float& b = kNeighbours ? head[2 * i + 1] : head[i + half];
    const float u = a, v = b, c = angles[2 * i], s = angles[2 * i + 1];
    a = u * c - v * s;
    b = u * s + v * c;
  }
}

void RotateRow(const CpuModelShape& shape, int32_t position, float* row, int64_t cols) {
  SLIM_CHECK(position >= 0 && position < shape.max_positions);
  const float* angles =
      static_cast<const float*>(shape.rope.data()) + int64_t{position} * shape.rotary_dims;
  const int half = shape.rotary_dims / 2;
  for (int64_t h = 0; h < cols; h += shape.layout.head_dim) {
    if (shape.neighbouring_pairs) {
      RotateHead<true>(angles, half, row + h);
    } else {
      RotateHead<false>(angles, half, row + h);
    }
  }
}

// StoreRow for a slab of bytes.
void StoreBytes(const KernelTable& kernels, const KvLayout& layout, const float* k, const float* v,
                const KvSlot& slot) {
  auto* slab = static_cast<uint8_t*>(slot.slab);
  const int dims = layout.head_dim;
  for (int h = 0; h < layout.num_kv_heads; ++h, k += dims, v += dims) {
    ByteKv to;
    to.keys = slab + layout.key_head_offset(h);
    to.key_scales = reinterpret_cast<float*>(slab + layout.key_scale_offset(h, 0));
    to.values = reinterpret_cast<int8_t*>(slab + layout.value_head_offset(h));
    to.value_scales = reinterpret_cast<float*>(slab + layout.value_scale_offset(h, 0));
    kernels.store_kv(k, v, dims, layout.block_tokens, slot.slot, to);
  }
}

// Keys and values of one row, [kv_heads, head_dim] each, into slot `slot` of the slab.
void StoreRow(const KernelTable& kernels, const KvLayout& layout, const float* k, const float* v,
              const KvSlot& slot) {
  const int dims = layout.head_dim, tokens = layout.block_tokens;
  SLIM_CHECK(slot.slot >= 0 && slot.slot < tokens);
  if (kernels.kv_bytes) return StoreBytes(kernels, layout, k, v, slot);
  auto* slab = static_cast<uint16_t*>(slot.slab);
  for (int h = 0; h < layout.num_kv_heads; ++h, k += dims, v += dims) {
    uint16_t* key = slab + layout.key_offset(h, slot.slot, 0);
    for (int d = 0; d < dims; d += 2) {
      key[d * tokens] = F32ToBF16(k[d]);
      key[d * tokens + 1] = F32ToBF16(k[d + 1]);
    }
    uint16_t* value = slab + layout.value_offset(h, slot.slot, 0);
    for (int d = 0; d < dims; ++d) value[2 * d] = F32ToBF16(v[d]);
  }
}

}  // namespace

absl::Status PrepareRope(const RopeParams& params, int64_t max_positions, ThreadPool& pool,
                         CpuModelShape* shape) {
  const int half = params.rotary_dims / 2;
  if (!(params.rotary_dims >= 0 && params.rotary_dims % 2 == 0 &&
        params.rotary_dims <= params.head_dim)) {
    return absl::InvalidArgumentError(absl::StrCat("rotary_dims is ", params.rotary_dims,
                                                   ", allowed are even numbers from 0 to ",
                                                   params.head_dim));
  }
  if (!params.frequency_factors.empty() &&
      params.frequency_factors.size() != static_cast<size_t>(half)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "frequency_factors has ", params.frequency_factors.size(), " entries, wanted are ", half));
  }
  shape->rotary_dims = params.rotary_dims;
  shape->neighbouring_pairs = params.neighbouring_pairs;
  shape->max_positions = max_positions;
  SLIM_ASSIGN_OR_RETURN(shape->rope, AllocateAligned(max_positions * params.rotary_dims *
                                                     static_cast<int64_t>(sizeof(float))));
  auto* table = static_cast<float*>(shape->rope.data());
  pool.ParallelFor(half, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double frequency =
          std::pow(double{params.base}, -2.0 * static_cast<double>(i) / params.rotary_dims);
      if (!params.frequency_factors.empty()) frequency /= params.frequency_factors[i];
      for (int64_t p = 0; p < max_positions; ++p) {
        const double angle = static_cast<double>(p) * frequency;
        table[p * params.rotary_dims + 2 * i] = static_cast<float>(std::cos(angle));
        table[p * params.rotary_dims + 2 * i + 1] = static_cast<float>(std::sin(angle));
      }
    }
  });
  return absl::OkStatus();
}

void CpuRope(CpuContext& context, TensorView q, absl::Span<const int32_t> positions) {
  SLIM_CHECK(static_cast<int64_t>(positions.size()) == q.rows &&
             q.cols % context.shape.layout.head_dim == 0);
  context.pool->ParallelFor(q.rows, 32, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      RotateRow(context.shape, positions[r], q.f32() + r * q.cols, q.cols);
    }
  });
}

void CpuRopeAndStoreKv(CpuContext& context, TensorView k, TensorView v,
                       absl::Span<const int32_t> positions, absl::Span<const KvSlot> slots) {
  const KvLayout& layout = context.shape.layout;
  SLIM_CHECK(static_cast<int64_t>(positions.size()) == k.rows && v.rows == k.rows &&
             slots.size() == positions.size());
  SLIM_CHECK(k.cols == int64_t{layout.num_kv_heads} * layout.head_dim && v.cols == k.cols);
  // Whole blocks of rows, so that two threads seldom write to one cache line.
  context.pool->ParallelFor(k.rows, 32, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      float* keys = k.f32() + r * k.cols;
      RotateRow(context.shape, positions[r], keys, k.cols);
      StoreRow(*context.kernels, layout, keys, v.f32() + r * v.cols, slots[r]);
    }
  });
}

}  // namespace slim
