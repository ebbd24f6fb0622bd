// The inner loops of the CPU backend as a table of plain functions, one table per instruction set.
// Each table is made from the same sources (kernels_*.inc) in a file compiled for its instruction
// set; the ops (linear.cc, attention.cc, ...) split work over threads and call through the table.
//
// Nothing here may include a header with inline functions that other files use too: the linker
// keeps one copy of each, and it must not be the one compiled for the wrong processor.
// Thread rule: pure functions of their arguments. No allocation.
#ifndef ENGINE_BACKEND_CPU_KERNELS_H_
#define ENGINE_BACKEND_CPU_KERNELS_H_

#include <cstdint>

namespace slim {

inline constexpr int kTileOutputs = 16;   // outputs of one packed tile
inline constexpr int kGroup = 32;         // inputs that share a scale, but in gemm_prompt
inline constexpr int kMaxPanelTiles = 3;  // tiles that one gemm call of many rows may cover
inline constexpr int kThinRows = 16;      // up to so many rows may cover any number of tiles
inline constexpr int kPromptTiles = 2;    // tiles that one gemm_prompt call may cover
inline constexpr int kPromptBlock = 64;   // inputs that are rotated together for gemm_prompt
inline constexpr int kPromptSpan = 192;   // inputs that share a scale in gemm_prompt
// Bit i: input i of a rotated block changes its sign first; kRotationSigns of kvcache/int8_kv.h.
inline constexpr uint64_t kPromptSigns = 0x8777788878887888u;

constexpr int64_t PromptSpans(int64_t inputs) { return (inputs + kPromptSpan - 1) / kPromptSpan; }

// How the elements of a packed weight are stored (packed_weight.h).
enum class PackedKind : uint8_t { kU4, kU8, kF32, kF16, kBF16 };

// Where the groups of a quantised weight lie (packed_weight.h): bytes from one to the next, and
// elements from the scales of one to those of the next.
inline constexpr int kMinScaleBytes = 64;  // a group's scales and mins
constexpr int GroupStep(bool nibbles, bool has_min) {
  return (has_min ? kMinScaleBytes : 0) + kTileOutputs * kGroup / (nibbles ? 2 : 1);
}
constexpr int ScaleStep(bool nibbles, bool has_min) {
  return has_min ? GroupStep(nibbles, has_min) / 2 : kTileOutputs;
}

// Rows quantised to int8 by groups of 32: x = scale * q. groups = cols / 32. Prompt rows: values
// hold q + 128, scales one per span of kPromptSpan inputs, and there are no sums.
struct QuantizedRows {
  int8_t* values = nullptr;      // [rows, cols]
  float* scales = nullptr;       // [rows, groups]
  float* scaled_sums = nullptr;  // [rows, groups] scale * sum of the group's q
  int32_t* sums = nullptr;       // [rows, groups] sum of the group's q
};

// One row on its way into a linear layer.
struct RowTransform {
  enum class Kind : uint8_t { kPlain, kRmsNorm, kSwiGlu };
  Kind kind = Kind::kPlain;
  const float* x = nullptr;
  const float* up = nullptr;           // kSwiGlu
  const float* norm_weight = nullptr;  // kRmsNorm
  float eps = 0;
  int64_t cols = 0;
};

// Tiles of a quantised weight as gemm_prompt reads them: rotated, rounded to signed bytes with a
// scale per output and span of kPromptSpan inputs.
struct PromptWeight {
  int8_t* bytes = nullptr;    // per tile [inputs / 4][16 outputs][4 inputs]
  float* scales = nullptr;    // per tile [spans][16]
  int32_t* starts = nullptr;  // per tile [spans][16], -128 * sum of the span's bytes
};

// out[r, 0..columns) = rows times neighbouring tiles of a weight.
struct GemmArgs {
  PackedKind kind = PackedKind::kU4;
  int64_t rows = 0;
  int64_t inputs = 0;
  int tiles = 0;    // 1..kMaxPanelTiles, gemm of up to kThinRows rows: any number
  int columns = 0;  // valid outputs, in (16 (tiles - 1), 16 tiles]
  // Quantised kinds.
  const int8_t* x_values = nullptr;
  const float* x_scales = nullptr;
  const float* x_scaled_sums = nullptr;
  const int32_t* x_sums = nullptr;
  bool has_min = false;
  int zero_point = 0;                // w = scale * (q - zero_point) without a min
  const uint16_t* scales = nullptr;  // f16: of a group 16 scales, then 16 mins if has_min
  // Plain kinds.
  const float* x = nullptr;
  const void* weights = nullptr;
  int64_t tile_bytes = 0;             // from one tile to the next
  int64_t tile_scales = 0;            // the same for the scales, in elements
  PromptWeight prompt[kPromptTiles];  // gemm_prompt only, a part for each tile
  // gemm_prompt, two tiles: out is silu(first) * second, `columns` is at most 16, and there is no
  // bias.
  bool swiglu = false;
  const float* bias = nullptr;  // of the first column, or null
  bool accumulate = false;
  float* out = nullptr;
  int64_t out_stride = 0;
  void* scratch = nullptr;  // gemm: GemmScratchBytes(inputs), 64-byte aligned, for this call alone
};

// Bytes that a wide gemm needs to unpack a panel: bytes of the elements, scales and mins as float.
constexpr int64_t GemmScratchBytes(int64_t inputs) {
  return kMaxPanelTiles * kTileOutputs * (2 * inputs + (inputs / kGroup + 1) * 2 * 4) + 64;
}

// Attention. A *query* is one head of one row; queries that share a kv head run together.
// Scores are in units of log2: the scale that is folded into the queries includes log2(e).

// What a query in whole numbers comes with, for keys in bytes: score = scale * key scale * (start +
// sum of products).
struct QueryBytes {
  float scale = 0;
  int32_t start = 0;  // -128 * sum of the query's numbers, as keys are stored plus 128
};
inline constexpr int kMostHeadDims = 1024;  // CpuBackend::Configure

// Keys and values of one kv head of a page in bytes (KvType::kInt8, kvcache/int8_kv.h).
struct ByteKv {
  uint8_t* keys = nullptr;        // [head_dim / 4][block_tokens][4]
  float* key_scales = nullptr;    // [block_tokens]
  int8_t* values = nullptr;       // [block_tokens / 4][head_dim][4]
  float* value_scales = nullptr;  // [block_tokens]
};

struct AttentionSpanArgs {
  int num_queries = 0;
  const void* queries = nullptr;            // [num_queries, head_dim], packed by pack_query
  const QueryBytes* query_bytes = nullptr;  // bytes: per query
  const int32_t* visible_tokens = nullptr;  // per query: the first so many tokens of the span
  const void* const* slabs = nullptr;       // pages of the span
  // attention_span_all_heads: the page after them, read next, or null; only prefetched.
  const void* next_slab = nullptr;
  int num_kv_heads = 1;          // attention_span_all_heads only
  int64_t key_offset_bytes = 0;  // of the (first) kv head within a slab
  int64_t value_offset_bytes = 0;
  int64_t key_scale_offset_bytes = 0;  // bytes: of its first token's scale
  int64_t value_scale_offset_bytes = 0;
  int block_tokens = 0;
  int head_dim = 0;
  int span_tokens = 0;  // tokens of a whole span, the stride of the scratch rows
  // Bytes, set by attention_span_all_heads: what to prefetch, the same head of the next page, in
  // bytes from what is read.
  int64_t head_ahead = 0;
  float* scores = nullptr;  // scratch [kAttentionQueryBlock or num_queries, span_tokens]
  // Bytes: scratch [kAttentionQueryBlock or num_queries, span_tokens] of 4 bytes.
  void* weights = nullptr;
  float* max = nullptr;  // results, [num_queries]; -infinity where nothing is visible
  float* sum = nullptr;  // [num_queries]
  float* out = nullptr;  // [num_queries, head_dim], not normalised
};
inline constexpr int kAttentionQueryBlock = 12;
inline constexpr int kAttentionSpanTokens = 512;  // the largest span_tokens

// Weighted value sums over some keys, or over several spans of them.
struct AttentionState {
  int num_queries = 0;
  int head_dim = 0;
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;
};

struct KernelTable {
  const char* name = nullptr;

  // y = the transformed row, float32 [cols].
  void (*transform_row)(const RowTransform& transform, float* y) = nullptr;
  // Quantises one row; `out` points at the row's own values and groups. cols is a multiple of 32.
  void (*quantize_row)(const float* x, int64_t cols, const QuantizedRows& out) = nullptr;
  void (*gemm)(const GemmArgs& args) = nullptr;

  // Products of prompt rows with a quantised weight, in an arithmetic of their own: both sides are
  // rotated and rounded to bytes, x_values are q + 128, x_scales one per span. `inputs` is a
  // multiple of kPromptBlock. The tiles need not be neighbours. Null: this table has none.
  void (*gemm_prompt)(const GemmArgs& args) = nullptr;
  // Makes to.* of one tile from the weight's part of `tile`.
  void (*pack_prompt_tile)(const GemmArgs& tile, const PromptWeight& to) = nullptr;
  // One row: values [cols], scales [spans].
  void (*quantize_prompt_row)(const float* x, int64_t cols, uint8_t* values,
                              float* scales) = nullptr;

  // Whether the cache holds bytes (KvType::kInt8), else bf16. "Bytes:" and "bf16:" below and in
  // AttentionSpanArgs mean tables of one kind.
  bool kv_bytes = false;
  // One token's key and value of one kv head [head_dim] into slot `slot` of its page; null for
  // bf16.
  void (*store_kv)(const float* key, const float* value, int head_dim, int block_tokens, int slot,
                   const ByteKv& to) = nullptr;
  // A query q [head_dim] times `scale`, as the span kernels want it. Bytes: *bytes belongs to it.
  void (*pack_query)(const float* q, int head_dim, float scale, void* packed,
                     QueryBytes* bytes) = nullptr;
  int packed_query_bytes = 4;  // per element
  void (*attention_span)(const AttentionSpanArgs& args) = nullptr;
  // One row: the queries of kv head 0, 1, ...; scratch for all queries at once. Bytes: head_dim is
  // at most span_tokens.
  void (*attention_span_all_heads)(const AttentionSpanArgs& args) = nullptr;
  // Folds `later` into `state`; queries of `later` that saw nothing change nothing.
  void (*attention_merge)(const AttentionState& state, const AttentionState& later) = nullptr;
  // head_dim values of a query divided by its sum.
  void (*attention_finish)(const float* out, float sum, int head_dim, float* result) = nullptr;

  // Block scores: the same bits on every instruction set that caches the same type
  // (score_blocks.h). `scales`: of keys in bytes, whose q comes rotated; null for bf16.
  void (*score_dots)(const float* q, const void* keys, const float* scales, int head_dim,
                     int block_tokens, float* dots) = nullptr;
  void (*score_exp)(const float* x, float max, int count, float* result) = nullptr;
};

extern const KernelTable kPortableKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
// KernelTable::gemm_prompt with AMX, the same bits. The process must have the permission that
// DetectCpuFeatures asks for.
void GemmPromptAmx(const GemmArgs& args);
#endif

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_KERNELS_H_
