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
// feeds it to a pairwise multiply-add as it lies. Thread rule: plain value, immutable after
// filling.
#ifndef KVCACHE_KV_LAYOUT_H_
#define KVCACHE_KV_LAYOUT_H_

#include <cstdint>

namespace slim {

enum class KvType : uint8_t { kF32, kBF16 };

struct KvLayout {
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 0;  // B: 32 or 64
  KvType type = KvType::kBF16;
  // Elements from a slab's first key to its first value; 0: the values follow the keys. A pool that
  // keeps the keys of all its slabs before the values of all sets it.
  int64_t values_after = 0;

  constexpr int element_bytes() const { return type == KvType::kF32 ? 4 : 2; }
  // P: elements that share 32 bits.
  constexpr int pack() const { return 4 / element_bytes(); }
  // Elements of the keys (or of the values) of one kv head in one slab.
  constexpr int64_t head_elements() const { return int64_t{head_dim} * block_tokens; }
  constexpr int64_t key_elements() const { return num_kv_heads * head_elements(); }
  constexpr int64_t slab_elements() const { return 2 * key_elements(); }
  constexpr int64_t slab_bytes() const { return slab_elements() * element_bytes(); }

  // Element offsets from the start of the slab.
  constexpr int64_t key_head_offset(int kv_head) const { return kv_head * head_elements(); }
  constexpr int64_t value_head_offset(int kv_head) const {
    return (values_after > 0 ? values_after : key_elements()) + kv_head * head_elements();
  }
  constexpr int64_t key_offset(int kv_head, int slot, int dim) const {
    const int p = pack();
    return key_head_offset(kv_head) + (int64_t{dim / p} * block_tokens + slot) * p + dim % p;
  }
  constexpr int64_t value_offset(int kv_head, int slot, int dim) const {
    const int p = pack();
    return value_head_offset(kv_head) + (int64_t{slot / p} * head_dim + dim) * p + slot % p;
  }
};

}  // namespace slim

#endif  // KVCACHE_KV_LAYOUT_H_
