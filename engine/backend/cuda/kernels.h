// The device code as plain C++: raw device pointers, sizes, an explicit stream. No allocation, no
// synchronisation, no policy; every launcher returns what the launch returned. Needs a GPU of
// compute capability 8.0 or later (bf16 tensor cores, asynchronous copies).
//
// Shapes are row-major and contiguous. Bf16 is the bit pattern of a bfloat16. "Device array" means
// that the pointer itself may be read by kernels only. Thread rule: any thread, the stream orders.
#ifndef ENGINE_BACKEND_CUDA_KERNELS_H_
#define ENGINE_BACKEND_CUDA_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/backend/cuda/attention_work.h"

namespace slim::cuda {

using Bf16 = uint16_t;
enum class Element : uint8_t { kF32, kBf16 };

// out[r, i] = x[r, i] / sqrt(mean(x[r]^2) + eps) * weight[i]; x [rows, cols], weight [cols].
cudaError_t RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
                    Bf16* out, cudaStream_t stream);

// out[i] = gate[i] / (1 + exp(-gate[i])) * up[i].
cudaError_t SwiGlu(const Bf16* gate, const Bf16* up, int64_t count, Bf16* out, cudaStream_t stream);

// out[i] = number i of sequence `seed`, evenly spread around zero with this standard deviation.
cudaError_t FillRandom(float deviation, uint64_t seed, int64_t count, Bf16* out,
                       cudaStream_t stream);

cudaError_t ConvertToBf16(const float* x, int64_t count, Bf16* out, cudaStream_t stream);

// out[r, i] = bias[i], or += bias[i] with `accumulate`; out [rows, cols].
cudaError_t FillBias(const float* bias, bool accumulate, int64_t rows, int64_t cols, void* out,
                     Element type, cudaStream_t stream);

// out[r] = table[tokens[r]]; table [vocabulary, cols], tokens a device array.
cudaError_t Embed(const Bf16* table, const int32_t* tokens, int64_t rows, int64_t cols, float* out,
                  cudaStream_t stream);

// dst row dst_rows[i] = src row src_rows[i], `row_bytes` each, even; row numbers are device arrays.
cudaError_t CopyRows(const void* src, const int64_t* src_rows, void* dst, const int64_t* dst_rows,
                     int64_t rows, int64_t row_bytes, cudaStream_t stream);

// angles [max_positions, rotary_dims / 2, 2]: cosine, sine. Device array.
struct RopeTable {
  const float* angles = nullptr;
  int32_t rotary_dims = 0;
  int32_t neighbouring_pairs = 1;  // or 0; no padding, see CommandList
};

// Rotates x [rows, heads * head_dim] in place; positions [rows] is a device array.
cudaError_t Rope(const RopeTable& table, int head_dim, int heads, void* x, Element type,
                 int64_t rows, const int32_t* positions, cudaStream_t stream);

// Writes rotated k and plain v, [rows, kv_heads * head_dim] each, into slot slots[r] of slabs[r];
// k itself is left as it is. positions, slabs, slots: device arrays [rows].
cudaError_t RopeStoreKv(const RopeTable& table, const HeadShape& shape, const Bf16* k,
                        const Bf16* v, int64_t rows, const int32_t* positions, void* const* slabs,
                        const int32_t* slots, cudaStream_t stream);

// Queries and keys of an attention call; all pointers are device arrays.
struct AttentionArgs {
  HeadShape shape;
  const Bf16* q = nullptr;             // [rows, num_heads * head_dim]
  Bf16* out = nullptr;                 // like q
  const int32_t* positions = nullptr;  // [rows]
  const void* const* slabs = nullptr;  // of all sequences, one after the other
  const int32_t* block_ids = nullptr;  // of the slabs, ascending within a sequence
};

// Causal attention of many rows. tiles: device array.
cudaError_t AttentionPrefill(const AttentionArgs& args, const PrefillTile* tiles, int num_tiles,
                             cudaStream_t stream);

// Attention of few rows over many keys, in two kernels. splits and rows: device arrays; partials:
// device memory for DecodePartialFloats of every split.
cudaError_t AttentionDecode(const AttentionArgs& args, const DecodeSplit* splits, int num_splits,
                            const DecodeRow* rows, int num_rows, float* partials,
                            cudaStream_t stream);

// Block scores, bit for bit as engine/backend/cpu/score_blocks.h words them.
enum class UnitScore : uint8_t { kMax, kSignedMax, kMean, kMaxPool };
struct ScoreArgs {
  HeadShape shape;                // head_dim: any even number
  const void* queries = nullptr;  // [window, num_heads * head_dim]
  Element query_type = Element::kF32;
  const int32_t* positions = nullptr;  // [window], window_attention only
  int window = 0;
  const void* const* slabs = nullptr;  // [blocks]
  const int32_t* block_ids = nullptr;  // [blocks]
  int blocks = 0;
  int64_t num_tokens = 0;
  float* scores = nullptr;  // [blocks]
};
// qbar: device memory for num_heads * head_dim floats.
cudaError_t ScoreUnits(const ScoreArgs& args, UnitScore kind, float* qbar, cudaStream_t stream);
// dots: device memory for `queries_at_once` * blocks * block_tokens floats; results: for
// `queries_at_once` * blocks. Window queries times heads are taken queries_at_once at a time.
cudaError_t ScoreWindow(const ScoreArgs& args, int queries_at_once, float* dots, float* results,
                        cudaStream_t stream);

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_KERNELS_H_
