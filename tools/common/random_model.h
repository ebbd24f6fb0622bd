// A model of published shapes with random weights, for measuring speed without the weights: the
// same tensors and metadata as a file would have. Matrices are bf16 and share one pool of numbers
// (each begins elsewhere in it), norms are one, biases zero. Immutable, hence thread-safe.
#ifndef TOOLS_COMMON_RANDOM_MODEL_H_
#define TOOLS_COMMON_RANDOM_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/load/tensor_source.h"

namespace slim {

struct ModelGeometry {
  std::string name;
  std::string architecture;  // "llama" or "qwen2"
  int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn_width = 0;
  int64_t vocab_size = 0;
  int64_t context_tokens = 0;
  double rope_base = 0;
  bool tied_embedding = false;
  bool qkv_bias = false;
};

// llama-3.1-8b, llama-3.2-1b, qwen2.5-7b, and tiny (for tests). INVALID_ARGUMENT names them.
absl::StatusOr<ModelGeometry> FindGeometry(const std::string& name);

std::unique_ptr<TensorSource> MakeRandomModel(const ModelGeometry& geometry, uint64_t seed);

}  // namespace slim

#endif  // TOOLS_COMMON_RANDOM_MODEL_H_
