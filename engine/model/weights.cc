#include "engine/model/weights.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

class WeightLoader {
 public:
  WeightLoader(const TensorSource& source, Backend& backend) : source_(source), backend_(backend) {}

  absl::StatusOr<std::unique_ptr<LinearWeight>> Matrix(const std::string& name, int64_t rows,
                                                       int64_t cols) {
    SLIM_ASSIGN_OR_RETURN(const HostTensor tensor, Find(name, rows, cols));
    SLIM_ASSIGN_OR_RETURN(std::unique_ptr<LinearWeight> weight, backend_.PrepareLinear(tensor));
    source_.ReleasePages(tensor);
    bytes_ += weight->bytes();
    return weight;
  }

  absl::StatusOr<Buffer> Vector(const std::string& name, int64_t size) {
    SLIM_ASSIGN_OR_RETURN(const HostTensor tensor, Find(name, 1, size));
    SLIM_ASSIGN_OR_RETURN(Buffer buffer, backend_.PrepareVector(tensor));
    bytes_ += buffer.bytes();
    return buffer;
  }

  int64_t bytes() const { return bytes_; }

 private:
  absl::StatusOr<HostTensor> Find(const std::string& name, int64_t rows, int64_t cols) {
    SLIM_ASSIGN_OR_RETURN(const HostTensor tensor, source_.GetTensor(name));
    if (tensor.rows != rows || tensor.cols != cols) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is [", tensor.rows, ", ",
                                                     tensor.cols, "], expected [", rows, ", ", cols,
                                                     "]"));
    }
    return tensor;
  }

  const TensorSource& source_;
  Backend& backend_;
  int64_t bytes_ = 0;
};

// What prompt rows are multiplied with: every matrix of the layers.
absl::Status PreparePromptRows(const ModelWeights& weights, Backend& backend) {
  std::vector<LinearWeight*> matrices;
  for (const LayerWeights& w : weights.layers) {
    for (const auto* matrix : {&w.query, &w.key, &w.value, &w.output, &w.gate, &w.up, &w.down}) {
      matrices.push_back(matrix->get());
    }
  }
  return backend.PreparePromptRows(matrices);
}

absl::StatusOr<LayerWeights> LoadLayer(WeightLoader& loader, const ModelConfig& config, int layer) {
  const std::string prefix = absl::StrCat("blk.", layer, ".");
  const int64_t d = config.width;
  const int64_t query_cols = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_cols = int64_t{config.num_kv_heads} * config.head_dim;
  LayerWeights w;
  SLIM_ASSIGN_OR_RETURN(w.attention_norm, loader.Vector(prefix + "attn_norm.weight", d));
  SLIM_ASSIGN_OR_RETURN(w.query, loader.Matrix(prefix + "attn_q.weight", query_cols, d));
  SLIM_ASSIGN_OR_RETURN(w.key, loader.Matrix(prefix + "attn_k.weight", kv_cols, d));
  SLIM_ASSIGN_OR_RETURN(w.value, loader.Matrix(prefix + "attn_v.weight", kv_cols, d));
  if (config.qkv_bias) {
    SLIM_ASSIGN_OR_RETURN(w.query_bias, loader.Vector(prefix + "attn_q.bias", query_cols));
    SLIM_ASSIGN_OR_RETURN(w.key_bias, loader.Vector(prefix + "attn_k.bias", kv_cols));
    SLIM_ASSIGN_OR_RETURN(w.value_bias, loader.Vector(prefix + "attn_v.bias", kv_cols));
  }
  SLIM_ASSIGN_OR_RETURN(w.output, loader.Matrix(prefix + "attn_output.weight", d, query_cols));
  SLIM_ASSIGN_OR_RETURN(w.ffn_norm, loader.Vector(prefix + "ffn_norm.weight", d));
  SLIM_ASSIGN_OR_RETURN(w.gate, loader.Matrix(prefix + "ffn_gate.weight", config.ffn_width, d));
  SLIM_ASSIGN_OR_RETURN(w.up, loader.Matrix(prefix + "ffn_up.weight", config.ffn_width, d));
  SLIM_ASSIGN_OR_RETURN(w.down, loader.Matrix(prefix + "ffn_down.weight", d, config.ffn_width));
  return w;
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const TensorSource& source, const ModelConfig& config,
                                         Backend& backend) {
  WeightLoader loader(source, backend);
  ModelWeights weights;
  SLIM_ASSIGN_OR_RETURN(weights.embedding,
                        loader.Matrix("token_embd.weight", config.vocab_size, config.width));
  if (!config.tied_embedding) {
    SLIM_ASSIGN_OR_RETURN(weights.head,
                          loader.Matrix("output.weight", config.vocab_size, config.width));
  }
  SLIM_ASSIGN_OR_RETURN(weights.output_norm, loader.Vector("output_norm.weight", config.width));
  weights.layers.reserve(config.num_layers);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    SLIM_ASSIGN_OR_RETURN(LayerWeights w, LoadLayer(loader, config, layer));
    weights.layers.push_back(std::move(w));
  }
  SLIM_RETURN_IF_ERROR(PreparePromptRows(weights, backend));
  weights.bytes = loader.bytes();
  return weights;
}

}  // namespace slim
