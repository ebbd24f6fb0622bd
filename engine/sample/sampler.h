// Chooses one sequence's next token from its logits, and keeps what the penalties need to know of
// the tokens so far. The generator is explicit and seeded: the same logits, parameters and seed
// give the same tokens on every machine. Thread rule: only the worker thread; one object per
// sequence.
#ifndef ENGINE_SAMPLE_SAMPLER_H_
#define ENGINE_SAMPLE_SAMPLER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/sample/sampling_params.h"
#include "engine/sample/token_logprobs.h"

namespace slim {

class Sampler {
 public:
  // `params` were validated. `prompt` counts for the repetition penalty only.
  Sampler(const SamplingParams& params, uint64_t seed, absl::Span<const int32_t> prompt,
          int64_t vocab_size);

  // The next token; remembered for the penalties. `logits` [vocabulary] is changed in place; tokens
  // in `banned` are never chosen. Temperature 0 (or below 1e-5) takes the largest logit, of equals
  // the lowest id; otherwise min_p, top_k and top_p limit the choice in this order. Sorts only as
  // many tokens as top_p keeps. INTERNAL when a logit is NaN, or the largest is not finite.
  absl::StatusOr<int32_t> Sample(absl::Span<float> logits, absl::Span<const int32_t> banned);

 private:
  struct Count {
    bool in_prompt = false;
    int32_t in_output = 0;
  };
  void ApplyPenalties(absl::Span<float> logits) const;
  int32_t Draw(absl::Span<const float> logits, float largest);
  // Drops the candidates after `last` in the order of probability.
  void KeepUpTo(std::pair<float, int32_t> last);
  // Keeps the most likely candidates that reach top_p of `total`; returns their sum.
  double KeepNucleus(double total);
  double NextUniform();  // in [0, 1)

  const SamplingParams params_;
  uint64_t state_;  // of the generator (splitmix64)
  absl::flat_hash_map<int32_t, Count> counts_;
  // Logit, then probability, and token; by ascending token.
  std::vector<std::pair<float, int32_t>> candidates_;
  std::vector<std::pair<float, int32_t>> ranked_;  // a copy to put in order
};

// Log-softmax of `logits` at `token`, and the `top` most likely tokens, ties by ascending id.
TokenLogprobs ComputeLogprobs(absl::Span<const float> logits, int32_t token, int top);

}  // namespace slim

#endif  // ENGINE_SAMPLE_SAMPLER_H_
