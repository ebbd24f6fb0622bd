// The layers of a Llama-family transformer over packed rows, written as a list of backend ops.
//
// What it knows: weights and the order of operations. What it does not know: sequences, segments,
// pruning, where pages come from; the caller says per row what is to be computed.
// Thread rule: only the worker thread.
#ifndef ENGINE_MODEL_LLAMA_H_
#define ENGINE_MODEL_LLAMA_H_

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"

namespace slim {

// Rows [begin, end) of a batch, all of them prompt rows as LinearInput::prompt_rows means them.
struct PromptRowRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// The rows of one layer, ordered in three runs:
//   finish   K and V of this layer exist already; compute query, attention, output, FFN
//   full     compute everything
//   kv_only  compute and store K and V; the hidden row stays as it is
struct LayerBatch {
  TensorView hidden;  // [finish + full + kv_only, d], updated in place
  int64_t finish_rows = 0;
  int64_t full_rows = 0;
  int64_t kv_only_rows = 0;
  // Where the rows of LinearInput::prompt_rows lie; empty when the backend treats all rows alike.
  absl::Span<const PromptRowRange> prompt_ranges;
  absl::Span<const int32_t> positions;            // of every row
  absl::Span<const KvSlot> slots;                 // of the full and kv_only rows
  absl::Span<const AttentionSequence> sequences;  // over the finish and full rows, in order
  int64_t query_rows() const { return finish_rows + full_rows; }
  int64_t kv_rows() const { return full_rows + kv_only_rows; }
};

class Llama {
 public:
  // Loads the weights and configures the backend for `layout`. `backend` outlives the model.
  static absl::StatusOr<std::unique_ptr<Llama>> Create(const TensorSource& source,
                                                       const ModelConfig& config,
                                                       const KvLayout& layout, Backend* backend);

  // out[r] = embedding of tokens[r]; out is [tokens.size(), d].
  absl::Status Embed(absl::Span<const int32_t> tokens, TensorView out);

  // One layer. After it, the rotated queries of the finish and full rows are in queries(), of the
  // backend's activation type, until the next call.
  absl::Status RunLayer(int layer, const LayerBatch& batch);
  TensorView queries() const { return queries_; }

  // Rotated queries of `layer` for rows of hidden states at its input: out [rows, heads *
  // head_dim], float32 or of the activation type.
  absl::Status Queries(int layer, TensorView hidden, absl::Span<const int32_t> positions,
                       TensorView out);

  // logits [rows, vocabulary] of final hidden states [rows, d].
  absl::Status Logits(TensorView hidden, TensorView logits);

  const ModelConfig& config() const { return config_; }
  Backend& backend() { return *backend_; }
  int64_t weight_bytes() const { return weights_.bytes; }

 private:
  Llama(const ModelConfig& config, Backend* backend) : config_(config), backend_(backend) {}

  absl::Status ReserveRows(int64_t rows);
  absl::Status ComputeQkv(int layer, const LayerBatch& batch);
  // Calls run(begin, end, prompt_rows) for the `rows` rows of `batch` from first_row on, once for
  // every range of prompt rows and for what lies between them; counted from first_row.
  absl::Status ForEachRange(const LayerBatch& batch, int64_t first_row, int64_t rows,
                            absl::FunctionRef<absl::Status(int64_t, int64_t, bool)> run);
  // Backend::Linear and FeedForward for such rows.
  absl::Status Linear(const LayerBatch& batch, int64_t first_row, const LinearInput& input,
                      absl::Span<const LinearOutput> outputs);
  absl::Status FeedForward(const LayerBatch& batch, const LayerWeights& w, TensorView hidden);
  DType activation_type() const { return backend_->info().activation_type; }
  LinearInput Normed(TensorView x, const Buffer& norm) const;

  const ModelConfig config_;
  Backend* const backend_;
  ModelWeights weights_;

  // Workspaces, grown to the largest batch seen.
  int64_t reserved_rows_ = 0;
  Buffer q_, k_, v_, attention_, gate_, up_;
  TensorView queries_;
};

}  // namespace slim

#endif  // ENGINE_MODEL_LLAMA_H_
