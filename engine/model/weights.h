// The weights of a Llama-family model, prepared for one backend. Immutable after LoadWeights.
#ifndef ENGINE_MODEL_WEIGHTS_H_
#define ENGINE_MODEL_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/load/tensor_source.h"
#include "engine/model/model_config.h"

namespace slim {

struct LayerWeights {
  Buffer attention_norm;                    // [d]
  std::unique_ptr<LinearWeight> query;      // [H D, d]
  std::unique_ptr<LinearWeight> key;        // [G D, d]
  std::unique_ptr<LinearWeight> value;      // [G D, d]
  Buffer query_bias, key_bias, value_bias;  // empty when the model has none
  std::unique_ptr<LinearWeight> output;     // [d, H D]
  Buffer ffn_norm;                          // [d]
  std::unique_ptr<LinearWeight> gate;       // [F, d]
  std::unique_ptr<LinearWeight> up;         // [F, d]
  std::unique_ptr<LinearWeight> down;       // [d, F]
};

struct ModelWeights {
  std::unique_ptr<LinearWeight> embedding;  // [vocabulary, d]
  std::unique_ptr<LinearWeight> head;       // null: tied to the embedding
  Buffer output_norm;                       // [d]
  std::vector<LayerWeights> layers;
  int64_t bytes = 0;

  const LinearWeight& lm_head() const { return head != nullptr ? *head : *embedding; }
};

// Checks every shape against the config and hands each tensor to the backend; pages of the file
// that were packed are released on the way. NOT_FOUND names a missing tensor, INVALID_ARGUMENT a
// shape.
absl::StatusOr<ModelWeights> LoadWeights(const TensorSource& source, const ModelConfig& config,
                                         Backend& backend);

}  // namespace slim

#endif  // ENGINE_MODEL_WEIGHTS_H_
