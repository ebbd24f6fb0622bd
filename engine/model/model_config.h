// Hyper-parameters of a decoder-only transformer of the Llama family, read from model metadata.
// Plain value, immutable after it was read.
#ifndef ENGINE_MODEL_MODEL_CONFIG_H_
#define ENGINE_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/load/tensor_source.h"

namespace slim {

struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;          // general.name, may be empty
  int num_layers = 0;        // L, 1 .. 512
  int width = 0;             // d
  int num_heads = 0;         // H
  int num_kv_heads = 0;      // G, divides H
  int head_dim = 0;          // D, even
  int ffn_width = 0;         // F
  int64_t vocab_size = 0;
  int64_t context_tokens = 0;
  float rms_eps = 1e-5f;
  float rope_base = 10000.0f;
  int rotary_dims = 0;  // <= head_dim
  bool rope_neighbouring_pairs = true;
  std::vector<float> rope_frequency_factors;  // empty or [rotary_dims / 2]
  bool tied_embedding = false;
  bool qkv_bias = false;

  // 2 G D: elements of K and V that one token adds per layer.
  int64_t kv_elements_per_token_layer() const { return int64_t{2} * num_kv_heads * head_dim; }
};

// Reads and checks every value. NOT_FOUND for a missing key, INVALID_ARGUMENT naming key, value
// and range, UNIMPLEMENTED naming an architecture or rope scaling that is not supported.
absl::StatusOr<ModelConfig> ReadModelConfig(const TensorSource& source);

}  // namespace slim

#endif  // ENGINE_MODEL_MODEL_CONFIG_H_
