// The one place where the memory layout of cached keys and values is written.
//
// A *slab* is what one layer caches of one block of tokens: first all keys, then all values, or the
// values at a fixed distance (`values_after`). It is the unit of the pools; a *page* (a block's KV
// in one segment) is one slab per layer of the segment.
//
//   keys   [kv_heads][head_dim / P][block_tokens][P]
//   values [kv_heads][block_tokens / P][head_dim][P]
//
// with P = 4 / sizeof(element): P neighbouring elements along the axis that a dot product sums over
// share 32 bits, so that a kernel loads 16 tokens (keys) or 16 channels (values) as one vector and
// feeds it to a multiply-add of pairs or quads as it lies. Thread rule: plain value, immutable
// after filling.
//
// kInt8: an element is a byte, and before the keys, and before the values, lie their scales as
// float32 [kv_heads][block_tokens]. Keys are rotated and stored plus 128, see int8_kv.h.
#ifndef KVCACHE_KV_LAYOUT_H_
#define KVCACHE_KV_LAYOUT_H_

#include <cstdint>

namespace slim {

enum class KvType : uint8_t { kF32, kBF16, kInt8 };

// "f32", "bf16", "int8".
constexpr const char* KvTypeName(KvType type) {
  return type == KvType::kF32 ? "f32" : type == KvType::kBF16 ? "bf16" : "int8";
}

struct KvLayout {
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 0;  // B
  KvType type = KvType::kBF16;
  // Elements from a slab's first key to its first value; 0: the values follow the keys. A pool that
  // keeps the keys of all its slabs before the values of all sets it.
  int64_t values_after = 0;

  constexpr int element_bytes() const {
    return type == KvType::kF32 ? 4 : type == KvType::kBF16 ? 2 : 1;
  }
  // P: elements that share 32 bits.
  constexpr int pack() const { return 4 / element_bytes(); }
  // Elements of the keys (or of the values) of one kv head in one slab.
  constexpr int64_t head_elements() const { return int64_t{head_dim} * block_tokens; }
  // kInt8: that the scales of all keys (or of all values) of a slab take; else 0.
  constexpr int64_t scale_elements() const {
    return type == KvType::kInt8 ? int64_t{4} * num_kv_heads * block_tokens : 0;
  }
  // Of all keys with their scales, and of all values with theirs.
  constexpr int64_t key_elements() const {
    return scale_elements() + num_kv_heads * head_elements();
  }
  constexpr int64_t slab_elements() const { return 2 * key_elements(); }
  constexpr int64_t slab_bytes() const { return slab_elements() * element_bytes(); }
  // What one token takes in one layer.
  constexpr int64_t token_bytes() const { return slab_bytes() / block_tokens; }

  // Element offsets from the start of the slab.
  constexpr int64_t values_offset() const {
    return values_after > 0 ? values_after : key_elements();
  }
  constexpr int64_t key_head_offset(int kv_head) const {
    return scale_elements() + kv_head * head_elements();
  }
  constexpr int64_t value_head_offset(int kv_head) const {
    return values_offset() + key_head_offset(kv_head);
  }
  constexpr int64_t key_offset(int kv_head, int slot, int dim) const {
    const int p = pack();
    return key_head_offset(kv_head) + (int64_t{dim / p} * block_tokens + slot) * p + dim % p;
  }
  constexpr int64_t value_offset(int kv_head, int slot, int dim) const {
    const int p = pack();
    return value_head_offset(kv_head) + (int64_t{slot / p} * head_dim + dim) * p + slot % p;
  }
  // kInt8: of a token's scale.
  constexpr int64_t key_scale_offset(int kv_head, int slot) const {
    return int64_t{4} * (int64_t{kv_head} * block_tokens + slot);
  }
  constexpr int64_t value_scale_offset(int kv_head, int slot) const {
    return values_offset() + key_scale_offset(kv_head, slot);
  }
};

}  // namespace slim

#endif  // KVCACHE_KV_LAYOUT_H_
