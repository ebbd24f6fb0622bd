#include "engine/model/llama.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

const Buffer* OrNull(const Buffer& bias) { return bias.data() != nullptr ? &bias : nullptr; }

}  // namespace

absl::StatusOr<std::unique_ptr<Llama>> Llama::Create(const TensorSource& source,
                                                     const ModelConfig& config,
                                                     const KvLayout& layout, Backend* backend) {
  auto model = std::unique_ptr<Llama>(new Llama(config, backend));
  RopeParams rope;
  rope.head_dim = config.head_dim;
  rope.rotary_dims = config.rotary_dims;
  rope.base = config.rope_base;
  rope.neighbouring_pairs = config.rope_neighbouring_pairs;
  rope.frequency_factors = config.rope_frequency_factors;
  SLIM_RETURN_IF_ERROR(backend->Configure(layout, config.num_heads, rope, config.context_tokens));
  SLIM_ASSIGN_OR_RETURN(model->weights_, LoadWeights(source, config, *backend));
  return model;
}

absl::Status Llama::ReserveRows(int64_t rows) {
  if (rows <= reserved_rows_) return absl::OkStatus();
  rows = std::max<int64_t>(rows, 64);
  const int64_t query_cols = int64_t{config_.num_heads} * config_.head_dim;
  const int64_t kv_cols = int64_t{config_.num_kv_heads} * config_.head_dim;
  const int64_t bytes = BlockBytes(activation_type()) * rows;
  SLIM_ASSIGN_OR_RETURN(q_, backend_->Allocate(bytes * query_cols));
  SLIM_ASSIGN_OR_RETURN(k_, backend_->Allocate(bytes * kv_cols));
  SLIM_ASSIGN_OR_RETURN(v_, backend_->Allocate(bytes * kv_cols));
  SLIM_ASSIGN_OR_RETURN(attention_, backend_->Allocate(bytes * query_cols));
  SLIM_ASSIGN_OR_RETURN(gate_, backend_->Allocate(bytes * config_.ffn_width));
  SLIM_ASSIGN_OR_RETURN(up_, backend_->Allocate(bytes * config_.ffn_width));
  reserved_rows_ = rows;
  return absl::OkStatus();
}

LinearInput Llama::Normed(TensorView x, const Buffer& norm) const {
  LinearInput input;
  input.kind = LinearInput::Kind::kRmsNorm;
  input.x = x;
  input.norm_weight = &norm;
  input.eps = config_.rms_eps;
  return input;
}

absl::Status Llama::Embed(absl::Span<const int32_t> tokens, TensorView out) {
  return backend_->Embed(*weights_.embedding, tokens, out);
}

absl::Status Llama::ForEachRange(const LayerBatch& batch, int64_t first_row, int64_t rows,
                                 absl::FunctionRef<absl::Status(int64_t, int64_t, bool)> run) {
  const auto part = [&](int64_t begin, int64_t end, bool prompt) {
    return begin < end ? run(begin, end, prompt) : absl::OkStatus();
  };
  int64_t done = 0;
  for (const PromptRowRange& range : batch.prompt_ranges) {
    const int64_t begin = std::clamp<int64_t>(range.begin - first_row, 0, rows);
    const int64_t end = std::clamp<int64_t>(range.end - first_row, 0, rows);
    SLIM_RETURN_IF_ERROR(part(done, begin, false));
    SLIM_RETURN_IF_ERROR(part(begin, end, true));
    done = std::max(done, end);
  }
  return part(done, rows, false);
}

absl::Status Llama::Linear(const LayerBatch& batch, int64_t first_row, const LinearInput& input,
                           absl::Span<const LinearOutput> outputs) {
  return ForEachRange(
      batch, first_row, input.x.rows, [&](int64_t begin, int64_t end, bool prompt_rows) {
        LinearInput part = input;
        part.prompt_rows = prompt_rows;
        part.x = input.x.Rows(begin, end - begin);
        absl::InlinedVector<LinearOutput, 3> part_outputs(outputs.begin(), outputs.end());
        for (LinearOutput& output : part_outputs) output.out = output.out.Rows(begin, end - begin);
        return backend_->Linear(part, part_outputs);
      });
}

absl::Status Llama::FeedForward(const LayerBatch& batch, const LayerWeights& w, TensorView hidden) {
  const TensorView gate{gate_.data(), hidden.rows, config_.ffn_width, activation_type()};
  const TensorView up{up_.data(), gate.rows, gate.cols, gate.dtype};
  return ForEachRange(batch, 0, hidden.rows, [&](int64_t begin, int64_t end, bool prompt_rows) {
    const int64_t rows = end - begin;
    FeedForwardArgs args;
    args.out = hidden.Rows(begin, rows);
    args.input = Normed(args.out, w.ffn_norm);
    args.input.prompt_rows = prompt_rows;
    args.gate = w.gate.get();
    args.up = w.up.get();
    args.down = w.down.get();
    args.gate_rows = gate.Rows(begin, rows);
    args.up_rows = up.Rows(begin, rows);
    return backend_->FeedForward(args);
  });
}

absl::Status Llama::ComputeQkv(int layer, const LayerBatch& batch) {
  const LayerWeights& w = weights_.layers[layer];
  const TensorView k{k_.data(), batch.kv_rows(), int64_t{config_.num_kv_heads} * config_.head_dim,
                     activation_type()};
  const TensorView v{v_.data(), k.rows, k.cols, k.dtype};
  const LinearOutput query{w.query.get(), queries_, false, OrNull(w.query_bias)};
  const LinearOutput key{w.key.get(), k, false, OrNull(w.key_bias)};
  const LinearOutput value{w.value.get(), v, false, OrNull(w.value_bias)};
  if (batch.finish_rows == 0 && batch.kv_only_rows == 0) {
    SLIM_RETURN_IF_ERROR(
        Linear(batch, 0, Normed(batch.hidden, w.attention_norm), {query, key, value}));
  } else {
    if (queries_.rows > 0) {
      SLIM_RETURN_IF_ERROR(
          Linear(batch, 0, Normed(batch.hidden.Rows(0, queries_.rows), w.attention_norm), {query}));
    }
    if (k.rows > 0) {
      SLIM_RETURN_IF_ERROR(Linear(
          batch, batch.finish_rows,
          Normed(batch.hidden.Rows(batch.finish_rows, k.rows), w.attention_norm), {key, value}));
    }
  }
  if (k.rows > 0) {
    SLIM_RETURN_IF_ERROR(
        backend_->RopeAndStoreKv(k, v, batch.positions.subspan(batch.finish_rows), batch.slots));
  }
  if (queries_.rows > 0) {
    SLIM_RETURN_IF_ERROR(backend_->Rope(queries_, batch.positions.subspan(0, queries_.rows)));
  }
  return absl::OkStatus();
}

absl::Status Llama::RunLayer(int layer, const LayerBatch& batch) {
  SLIM_CHECK(batch.hidden.rows == batch.finish_rows + batch.full_rows + batch.kv_only_rows);
  SLIM_RETURN_IF_ERROR(ReserveRows(batch.hidden.rows));
  const LayerWeights& w = weights_.layers[layer];
  const int64_t rows = batch.query_rows();
  queries_ =
      TensorView{q_.data(), rows, int64_t{config_.num_heads} * config_.head_dim, activation_type()};
  SLIM_RETURN_IF_ERROR(ComputeQkv(layer, batch));
  if (rows == 0) return absl::OkStatus();

  const TensorView hidden = batch.hidden.Rows(0, rows);
  const TensorView attention{attention_.data(), rows, queries_.cols, queries_.dtype};
  SLIM_RETURN_IF_ERROR(
      backend_->Attention(queries_, batch.positions.subspan(0, rows), batch.sequences, attention));
  LinearInput heads;
  heads.x = attention;
  SLIM_RETURN_IF_ERROR(Linear(
      batch, 0, heads, {LinearOutput{w.output.get(), hidden, /*accumulate=*/true, nullptr}}));

  return FeedForward(batch, w, hidden);
}

absl::Status Llama::Queries(int layer, TensorView hidden, absl::Span<const int32_t> positions,
                            TensorView out) {
  const LayerWeights& w = weights_.layers[layer];
  SLIM_RETURN_IF_ERROR(
      backend_->Linear(Normed(hidden, w.attention_norm),
                       {LinearOutput{w.query.get(), out, false, OrNull(w.query_bias)}}));
  return backend_->Rope(out, positions);
}

absl::Status Llama::Logits(TensorView hidden, TensorView logits) {
  LinearOutput output{&weights_.lm_head(), logits, false, nullptr};
  output.precise = true;
  return backend_->Linear(Normed(hidden, weights_.output_norm), {output});
}

}  // namespace slim
