// The table of inner kernels of the CPU backend; one filled per instruction set, chosen at start.
// Raw pointers and sizes only; no allocation, no threads, no policy. All variants take the sums of
// one output in the same order, so the integer products, norms and quantised rows are equal bit for
// bit on every instruction set; attention differs in rounding where bf16 dot products exist.
// Private to engine/backend/cpu.
#ifndef ENGINE_BACKEND_CPU_KERNELS_H_
#define ENGINE_BACKEND_CPU_KERNELS_H_

#include <cstdint>

#include "engine/backend/cpu/cpu_features.h"

namespace slim {

inline constexpr int kTileOutputs = 16;  // outputs of one weight tile
inline constexpr int kGroup = 32;        // inputs that share scales

// Bytes of one (tile, group): see packed_weight.h.
inline constexpr int kQ4GroupBytes = 256 + 2 * 16 * 2;
inline constexpr int kQ8GroupBytes = 512 + 16 * 2;

// One product of quantised rows with two neighbouring tiles (or one).
struct IntGemmArgs {
  const uint8_t* tiles = nullptr;  // first tile
  int64_t tile_bytes = 0;          // distance to the second
  int num_tiles = 1;               // 1 or 2
  int64_t groups = 0;
  int zero_point = 0;                   // subtracted from the stored unsigned weights
  bool has_min = false;                 // Q4_1
  const int8_t* x = nullptr;            // [rows, groups * 32]
  const float* x_scale = nullptr;       // [rows, groups]
  const float* x_scaled_sum = nullptr;  // [rows, groups]: scale * sum of the group
  const int32_t* x_sum = nullptr;       // [rows, groups]
  int64_t rows = 0;
  float* out = nullptr;  // out[r * out_stride + n]
  int64_t out_stride = 0;
  int num_outputs = 16;  // of the num_tiles * 16 that exist
  bool accumulate = false;
  const float* bias = nullptr;  // [num_outputs] or null
};

// The same with float weights, tile layout [inputs][16].
struct FloatGemmArgs {
  const float* tiles = nullptr;
  int64_t inputs = 0;
  int num_tiles = 1;
  const float* x = nullptr;  // [rows, inputs]
  int64_t rows = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  int num_outputs = 16;
  bool accumulate = false;
  const float* bias = nullptr;
};

// Attention of a few queries to one span of pages, by one key/value head, without what came before.
// Queries and probabilities are float or bf16, as the variant likes: `element_bytes`.
struct SpanArgs {
  const void* const* slabs = nullptr;  // pages of the span
  int64_t key_offset = 0;              // elements from the slab's start to this head's keys
  int64_t value_offset = 0;
  int block_tokens = 0;
  int head_dim = 0;
  const void* queries = nullptr;    // [num_queries, head_dim] as made by convert_query
  int num_queries = 0;              // at most kMaxQueries
  const int32_t* limits = nullptr;  // [num_queries]: visible tokens of the span, a prefix of it
  float scale_log2e = 0;            // log2(e) / sqrt(head_dim)
  float* scratch = nullptr;         // span_scratch_floats(span tokens)
  float* max = nullptr;  // [num_queries], in units of log2; -inf where nothing is visible
  float* sum = nullptr;  // [num_queries]
  float* out = nullptr;  // [num_queries, head_dim], not divided by the sum
};
inline constexpr int kMaxQueries = 6;

struct CpuKernels {
  CpuIsa isa;
  int query_tile;     // queries that AttendSpan takes best, <= kMaxQueries
  int element_bytes;  // of converted queries: 2 (bf16) or 4

  // out = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm_row)(const float* x, const float* weight, float eps, int64_t cols, float* out);
  // out = silu(gate) * up
  void (*swiglu_row)(const float* gate, const float* up, int64_t cols, float* out);
  // Groups of 32: scale = max|x| / 127, q = round(x / scale).
  void (*quantize_row)(const float* x, int64_t cols, int8_t* q, float* scale, float* scaled_sum,
                       int32_t* sum);
  void (*gemm_q4)(const IntGemmArgs& args);
  void (*gemm_q8)(const IntGemmArgs& args);
  void (*gemm_f32)(const FloatGemmArgs& args);
  void (*convert_query)(const float* q, int64_t cols, void* out);
  void (*attend_span)(const SpanArgs& args);
};

// Floats of scratch that attend_span needs for a span of that many tokens.
constexpr int64_t SpanScratchFloats(int64_t span_tokens) {
  return 2 * kMaxQueries * (span_tokens + 64);
}

// Tables of the variants; only those in SupportedIsas() may be called.
const CpuKernels& PortableKernels();
const CpuKernels& Avx2Kernels();
const CpuKernels& Avx512VnniKernels();
const CpuKernels& Avx512Bf16Kernels();
const CpuKernels& KernelsFor(CpuIsa isa);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_KERNELS_H_
