#include "engine/model/model_config.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

// Reads `<architecture>.<suffix>` as an integer in [low, high].
absl::StatusOr<int64_t> ReadInt(const TensorSource& source, const std::string& key, int64_t low,
                                int64_t high) {
  SLIM_ASSIGN_OR_RETURN(const int64_t value, source.GetInt(key));
  if (value < low || value > high) {
    return absl::InvalidArgumentError(
        absl::StrCat("model metadata ", key, " is ", value, ", allowed is ", low, " to ", high));
  }
  return value;
}

absl::StatusOr<int64_t> ReadIntOr(const TensorSource& source, const std::string& key,
                                  int64_t fallback, int64_t low, int64_t high) {
  if (!source.HasKey(key)) return fallback;
  return ReadInt(source, key, low, high);
}

absl::StatusOr<double> ReadPositive(const TensorSource& source, const std::string& key,
                                    double fallback, double high) {
  if (!source.HasKey(key)) return fallback;
  SLIM_ASSIGN_OR_RETURN(const double value, source.GetFloat(key));
  if (!(value > 0 && value <= high)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model metadata ", key, " is ", value, ", allowed is above 0 up to ", high));
  }
  return value;
}

absl::Status ReadRope(const TensorSource& source, const std::string& prefix, ModelConfig& config) {
  SLIM_ASSIGN_OR_RETURN(const double base,
                        ReadPositive(source, prefix + "rope.freq_base", 10000.0, 1e12));
  config.rope_base = static_cast<float>(base);
  SLIM_ASSIGN_OR_RETURN(const int64_t rotary, ReadIntOr(source, prefix + "rope.dimension_count",
                                                        config.head_dim, 2, config.head_dim));
  if (rotary % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model metadata ", prefix,
                                                   "rope.dimension_count is ", rotary,
                                                   ", allowed is an even number"));
  }
  config.rotary_dims = static_cast<int>(rotary);
  const std::string scaling_key = prefix + "rope.scaling.type";
  if (source.HasKey(scaling_key)) {
    SLIM_ASSIGN_OR_RETURN(const std::string scaling, source.GetString(scaling_key));
    if (scaling != "none") {
      return absl::UnimplementedError(absl::StrCat("rope scaling '", scaling,
                                                   "' is not supported; supported: none, and "
                                                   "frequency factors in rope_freqs.weight"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const TensorSource& source) {
  ModelConfig config;
  SLIM_ASSIGN_OR_RETURN(config.architecture, source.GetString("general.architecture"));
  if (config.architecture != "llama" && config.architecture != "qwen2") {
    return absl::UnimplementedError(absl::StrCat("architecture '", config.architecture,
                                                 "' is not supported; supported: llama, qwen2"));
  }
  if (source.HasKey("general.name")) {
    SLIM_ASSIGN_OR_RETURN(config.name, source.GetString("general.name"));
  }
  const std::string prefix = config.architecture + ".";
  SLIM_ASSIGN_OR_RETURN(const int64_t layers, ReadInt(source, prefix + "block_count", 1, 512));
  SLIM_ASSIGN_OR_RETURN(const int64_t width,
                        ReadInt(source, prefix + "embedding_length", 1, 1 << 17));
  SLIM_ASSIGN_OR_RETURN(const int64_t heads,
                        ReadInt(source, prefix + "attention.head_count", 1, 1024));
  SLIM_ASSIGN_OR_RETURN(const int64_t kv_heads,
                        ReadIntOr(source, prefix + "attention.head_count_kv", heads, 1, heads));
  SLIM_ASSIGN_OR_RETURN(const int64_t ffn,
                        ReadInt(source, prefix + "feed_forward_length", 1, 1 << 20));
  SLIM_ASSIGN_OR_RETURN(config.context_tokens,
                        ReadInt(source, prefix + "context_length", 1, int64_t{1} << 27));
  if (heads % kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model metadata ", prefix,
                                                   "attention.head_count_kv is ", kv_heads,
                                                   ", allowed is a divisor of head_count ", heads));
  }
  if (!source.HasKey(prefix + "attention.key_length") && width % heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model metadata ", prefix, "embedding_length is ", width,
                     ", allowed is a multiple of head_count ", heads));
  }
  SLIM_ASSIGN_OR_RETURN(const int64_t head_dim,
                        ReadIntOr(source, prefix + "attention.key_length", width / heads, 1, 1024));
  if (head_dim % 2 != 0 || head_dim < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("head dimension is ", head_dim, ", allowed is an even number"));
  }
  config.num_layers = static_cast<int>(layers);
  config.width = static_cast<int>(width);
  config.num_heads = static_cast<int>(heads);
  config.num_kv_heads = static_cast<int>(kv_heads);
  config.head_dim = static_cast<int>(head_dim);
  config.ffn_width = static_cast<int>(ffn);
  SLIM_ASSIGN_OR_RETURN(
      const double eps,
      ReadPositive(source, prefix + "attention.layer_norm_rms_epsilon", 1e-5, 1.0));
  config.rms_eps = static_cast<float>(eps);
  SLIM_RETURN_IF_ERROR(ReadRope(source, prefix, config));
  // GGUF files of the Llama architecture store query and key rows permuted to neighbouring pairs.
  config.rope_neighbouring_pairs = config.architecture == "llama";

  SLIM_ASSIGN_OR_RETURN(const HostTensor embedding, source.GetTensor("token_embd.weight"));
  if (embedding.cols != config.width || embedding.rows < 1 || embedding.rows > (1 << 21)) {
    return absl::InvalidArgumentError(absl::StrCat("token_embd.weight is [", embedding.rows, ", ",
                                                   embedding.cols, "], allowed is [1 to 2097152, ",
                                                   config.width, "]"));
  }
  config.vocab_size = embedding.rows;
  config.tied_embedding = !source.HasTensor("output.weight");
  config.qkv_bias = source.HasTensor("blk.0.attn_q.bias");
  return config;
}

}  // namespace slim
