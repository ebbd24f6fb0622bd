// What the bytes of KvType::kInt8 mean, in plain loops: for what is not worth a kernel, and for
// tests.
//
// A value is scale * v, v a signed byte. A key is (D H u) * scale / n with u = byte - 128: before
// it was rounded it was multiplied, in blocks of n channels, with H D, a Hadamard matrix and fixed
// signs, whose inverse is D H / n. That spreads a channel which is large in all keys over its block
// (QuaRot, arXiv 2404.00456). A query multiplied with H D gives the same products, times n.
// Thread rule: pure functions.
#ifndef KVCACHE_INT8_KV_H_
#define KVCACHE_INT8_KV_H_

#include <cstdint>

#include "kvcache/kv_layout.h"

namespace slim {

// Bit i: channel i of a block changes its sign first (D). i0 i1 ^ i2 i3 ^ i4 i5 of the bits of i, a
// bent function: what all channels have in common is spread evenly.
inline constexpr uint64_t kRotationSigns = 0x8777788878887888u;

// Channels that are rotated together: the largest power of two that divides head_dim, at most 64.
constexpr int RotationBlock(int head_dim) {
  const int power = head_dim & -head_dim;
  return power < 64 ? power : 64;
}

// head = H D head, in place, [head_dim]: additions in the order of the kernels, so the same bits.
void RotateChannels(float* head, int head_dim);
// head = D H head / n: what RotateChannels did, undone.
void UndoRotation(float* head, int head_dim);

// u * scale of one token's key, [head_dim]: still rotated.
void DecodeRotatedKey(const KvLayout& layout, const void* slab, int kv_head, int slot, float* key);
// Of one token's value, [head_dim].
void DecodeValue(const KvLayout& layout, const void* slab, int kv_head, int slot, float* value);

// Writes one token's key and value, [head_dim] each, of any numbers. NaN: the scale is NaN.
void EncodeKey(const KvLayout& layout, const float* key, int kv_head, int slot, void* slab);
void EncodeValue(const KvLayout& layout, const float* value, int kv_head, int slot, void* slab);

}  // namespace slim

#endif  // KVCACHE_INT8_KV_H_
