// How the next token is chosen from the logits. Plain value.
#ifndef ENGINE_SAMPLE_SAMPLING_PARAMS_H_
#define ENGINE_SAMPLE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/optional.h"

namespace slim {

// Ranges and meaning: proto/sliminfer/v1/inference.proto, SamplingParams.
struct SamplingParams {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  absl::optional<uint64_t> seed;
};

}  // namespace slim

#endif  // ENGINE_SAMPLE_SAMPLING_PARAMS_H_
