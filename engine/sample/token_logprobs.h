// Log-probabilities of one sampled token. Plain value.
#ifndef ENGINE_SAMPLE_TOKEN_LOGPROBS_H_
#define ENGINE_SAMPLE_TOKEN_LOGPROBS_H_

#include <cstdint>
#include <utility>
#include <vector>

namespace slim {

// Natural logarithms of the model's probabilities, before penalties and temperature.
struct TokenLogprobs {
  int32_t token = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // most likely first, ties by ascending id
};

}  // namespace slim

#endif  // ENGINE_SAMPLE_TOKEN_LOGPROBS_H_
