// The kinds of launches, for the texts of errors and for op times. No CUDA.
#ifndef ENGINE_BACKEND_CUDA_OP_H_
#define ENGINE_BACKEND_CUDA_OP_H_

#include <cstdint>

namespace slim::cuda {

enum class Op : uint8_t {
  kEmbed,
  kCopyRows,
  kConvert,
  kRmsNorm,
  kSwiGlu,
  kBias,
  kMatmul,
  kRope,
  kStoreKv,
  kAttentionPrefill,
  kAttentionDecode,
  kScoreBlocks,
  kRandom,
};
inline constexpr int kNumOps = 13;

constexpr const char* OpName(Op op) {
  constexpr const char* kNames[kNumOps] = {
      "embed",  "copy_rows", "convert",  "rms_norm",          "swiglu",           "bias",
      "matmul", "rope",      "store_kv", "attention_prefill", "attention_decode", "score_blocks",
      "random"};
  return kNames[static_cast<int>(op)];
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_OP_H_
