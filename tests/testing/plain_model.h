// The oracle of the forward pass: a dense transformer in plain loops, all rows through all layers,
// where a mask says per layer which key a query may see. Independent of Backend, KV manager,
// packing and pruning: it shares nothing with the engine but the model file.
//
// Weights are dequantised to float, sums are taken in double. For small models only.
#ifndef TESTS_TESTING_PLAIN_MODEL_H_
#define TESTS_TESTING_PLAIN_MODEL_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/load/tensor_source.h"
#include "engine/model/model_config.h"
#include "engine/prune/prune_plan.h"

namespace slim {

// Whether the query at position `query` may see the key at position `key` <= query in `layer`.
using PlainMask = std::function<bool(int layer, int64_t query, int64_t key)>;

struct PlainTrace {
  std::vector<std::vector<float>> hidden;   // [layers + 1][tokens * d]: embedding, then each layer
  std::vector<std::vector<float>> queries;  // [layers][tokens * heads * head_dim], after RoPE
  std::vector<std::vector<float>> keys;     // [layers][tokens * kv_heads * head_dim], after RoPE
  std::vector<float> logits;                // of the last token
};

class PlainModel {
 public:
  static absl::StatusOr<PlainModel> Load(const TensorSource& source);

  PlainTrace Forward(absl::Span<const int32_t> tokens, const PlainMask& mask) const;
  const ModelConfig& config() const { return config_; }

  // Scores of `block_ids` by definition (engine/prune/block_scorer.h), with dilation where asked
  // for: the queries at `window` positions against the keys of those blocks below num_tokens, in
  // `layer`.
  std::vector<float> Scores(const PlainTrace& trace, int layer, const PruneSchedule& schedule,
                            int block_tokens, absl::Span<const int32_t> block_ids,
                            absl::Span<const int32_t> window, int64_t num_tokens) const;

 private:
  struct Layer {
    std::vector<float> attention_norm, q, k, v, q_bias, k_bias, v_bias, o, ffn_norm, gate, up, down;
  };
  ModelConfig config_;
  std::vector<float> embedding_, head_, output_norm_;
  std::vector<Layer> layers_;
};

// The greedy continuation and every decision, by the oracle alone.
struct PlainRun {
  std::vector<std::vector<int32_t>> retained;  // R_0, R_1, ...
  std::vector<int32_t> tokens;                 // generated, greedy
  std::vector<std::vector<float>> logits;      // behind each of them
  int64_t swaps = 0;                           // RESELECT only
};
// `forced_tokens`: when given, these are fed in place of the greedy ones (teacher forcing).
PlainRun RunPlain(const PlainModel& model, absl::Span<const int32_t> prompt,
                  const PruneSchedule& schedule, int block_tokens, int num_tokens,
                  absl::Span<const int32_t> forced_tokens = {});

}  // namespace slim

#endif  // TESTS_TESTING_PLAIN_MODEL_H_
