// How an attention call is cut into pieces for the device: tiles of rows for the prefill kernel,
// runs of keys for the decode kernel. The arithmetic alone, no CUDA. Pure functions.
#ifndef ENGINE_BACKEND_CUDA_ATTENTION_WORK_H_
#define ENGINE_BACKEND_CUDA_ATTENTION_WORK_H_

#include <cstdint>

#include "engine/backend/cuda/host_device.h"

namespace slim::cuda {

// How slabs are laid out (kvcache/kv_layout.h, bf16) and how heads share keys.
struct HeadShape {
  int head_dim = 0;      // 32, 64, 96 or 128 for attention
  int num_heads = 0;     // query heads
  int num_kv_heads = 0;  // divides num_heads
  int block_tokens = 0;  // 32 or 64
};

// Rows of one sequence that one thread block takes, for one kv head.
struct PrefillTile {
  int32_t first_row = 0;
  int32_t num_rows = 0;    // at most PrefillTileTokens(heads per kv head)
  int32_t first_slab = 0;  // index into the call's slabs
  int32_t num_slabs = 0;   // those with a key that the tile's last row sees
};
inline constexpr int kPrefillTileRows = 128;  // query rows times heads of one kv head
constexpr int PrefillTileTokens(int heads_per_kv_head) {
  return kPrefillTileRows / heads_per_kv_head;
}

// A part of the keys of one query row, whose result is number `partial`; a row's parts are numbered
// without gaps. Without slabs: nothing to do, no result.
struct DecodeSplit {
  int32_t row = 0;
  int32_t first_slab = 0;
  int32_t num_slabs = 0;
  int32_t partial = 0;
};
struct DecodeRow {
  int32_t row = 0;
  int32_t first_partial = 0;
  int32_t num_partials = 0;
};
inline constexpr int kDecodeSplitTokens = 512;
// Sequences with at most so many rows in a call take the decode kernel, row by row.
inline constexpr int kMaxDecodeRows = 4;
// Floats of one partial result: per head the unnormalised output, the maximum and the sum.
SLIM_HOST_DEVICE constexpr int64_t DecodePartialFloats(int num_heads, int head_dim) {
  return int64_t{num_heads} * (head_dim + 2);
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_ATTENTION_WORK_H_
