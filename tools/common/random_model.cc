#include "tools/common/random_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/tensor/float_convert.h"

namespace slim {
namespace {

// Room for the longest published prompt and some tokens after it.
constexpr int64_t kContextTokens = 131072 + 4096;
// Numbers drawn; the pool repeats them. Prime, so that no two rows of a matrix are alike.
constexpr int64_t kDrawn = 1000003;
// Matrices begin at different places in the pool.
constexpr int64_t kMaxShift = 65536;

const ModelGeometry kGeometries[] = {
    {"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, kContextTokens, 5e5, false,
     false},
    {"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, kContextTokens, 5e5, true, false},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, kContextTokens, 1e6, false, true},
    {"tiny", "llama", 6, 128, 4, 2, 32, 256, 512, 4096, 1e4, true, false},
};

class RandomModel final : public TensorSource {
 public:
  RandomModel(const ModelGeometry& geometry, uint64_t seed) {
    AddMetadata(geometry);
    AddTensors(geometry);
    std::mt19937_64 generator(seed);
    const auto deviation = static_cast<float>(1.0 / std::sqrt(static_cast<double>(geometry.width)));
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<uint16_t> drawn(kDrawn);
    for (uint16_t& value : drawn) value = F32ToBF16(normal(generator));
    int64_t largest = 0;
    for (const auto& [name, tensor] : tensors_) {
      largest = std::max(largest, tensor.rows * tensor.cols);
    }
    pool_.resize(largest + kMaxShift);
    for (size_t begin = 0; begin < pool_.size(); begin += drawn.size()) {
      std::copy_n(drawn.begin(), std::min(drawn.size(), pool_.size() - begin),
                  pool_.begin() + static_cast<int64_t>(begin));
    }
    int64_t shift = 0;
    for (auto& [name, tensor] : tensors_) {
      if (tensor.dtype == DType::kBF16) {
        tensor.random_deviation = deviation;
        tensor.data = pool_.data() + shift;
        shift = (shift + 4099) % kMaxShift;
      } else {
        tensor.data = absl::EndsWith(name, "bias") ? zeros_.data() : ones_.data();
      }
    }
  }

  bool HasKey(absl::string_view key) const override {
    return numbers_.count(std::string(key)) > 0 || texts_.count(std::string(key)) > 0;
  }
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const override {
    const absl::StatusOr<double> number = GetFloat(key);
    if (!number.ok()) return number.status();
    return static_cast<int64_t>(*number);
  }
  absl::StatusOr<double> GetFloat(absl::string_view key) const override {
    const auto found = numbers_.find(std::string(key));
    if (found == numbers_.end()) return Missing(key);
    return found->second;
  }
  absl::StatusOr<std::string> GetString(absl::string_view key) const override {
    const auto found = texts_.find(std::string(key));
    if (found == texts_.end()) return Missing(key);
    return found->second;
  }
  // A model without a tokenizer has neither flags nor lists.
  absl::StatusOr<bool> GetBool(absl::string_view key) const override { return Missing(key); }
  absl::StatusOr<std::vector<std::string>> GetStrings(absl::string_view key) const override {
    return Missing(key);
  }
  absl::StatusOr<std::vector<int64_t>> GetInts(absl::string_view key) const override {
    return Missing(key);
  }
  absl::StatusOr<std::vector<double>> GetFloats(absl::string_view key) const override {
    return Missing(key);
  }

  bool HasTensor(absl::string_view name) const override {
    return tensors_.count(std::string(name)) > 0;
  }
  absl::StatusOr<HostTensor> GetTensor(absl::string_view name) const override {
    const auto found = tensors_.find(std::string(name));
    if (found == tensors_.end()) return Missing(name);
    return found->second;
  }
  std::vector<std::string> TensorNames() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  void ReleasePages(const HostTensor& tensor) const override {}
  int64_t file_bytes() const override { return 0; }

 private:
  static absl::Status Missing(absl::string_view key) {
    return absl::NotFoundError(absl::StrCat("a random model has no ", key));
  }

  void AddMetadata(const ModelGeometry& g) {
    texts_ = {{"general.architecture", g.architecture}, {"general.name", g.name}};
    const std::string prefix = g.architecture + ".";
    const auto add = [&](const char* key, double value) { numbers_[prefix + key] = value; };
    add("block_count", static_cast<double>(g.layers));
    add("embedding_length", static_cast<double>(g.width));
    add("attention.head_count", static_cast<double>(g.heads));
    add("attention.head_count_kv", static_cast<double>(g.kv_heads));
    add("attention.key_length", static_cast<double>(g.head_dim));
    add("feed_forward_length", static_cast<double>(g.ffn_width));
    add("context_length", static_cast<double>(g.context_tokens));
    add("rope.freq_base", g.rope_base);
    add("attention.layer_norm_rms_epsilon", 1e-5);
  }

  void Matrix(const std::string& name, int64_t rows, int64_t cols) {
    tensors_[name] = HostTensor{name, DType::kBF16, rows, cols, nullptr};
  }
  void Vector(const std::string& name, int64_t size) {
    tensors_[name] = HostTensor{name, DType::kF32, 1, size, nullptr};
    ones_.resize(std::max<size_t>(ones_.size(), size), 1.0f);
    zeros_.resize(ones_.size(), 0.0f);
  }

  void AddTensors(const ModelGeometry& g) {
    const int64_t query_cols = g.heads * g.head_dim, kv_cols = g.kv_heads * g.head_dim;
    Matrix("token_embd.weight", g.vocab_size, g.width);
    if (!g.tied_embedding) Matrix("output.weight", g.vocab_size, g.width);
    Vector("output_norm.weight", g.width);
    for (int64_t layer = 0; layer < g.layers; ++layer) {
      const std::string prefix = absl::StrCat("blk.", layer, ".");
      Vector(prefix + "attn_norm.weight", g.width);
      Matrix(prefix + "attn_q.weight", query_cols, g.width);
      Matrix(prefix + "attn_k.weight", kv_cols, g.width);
      Matrix(prefix + "attn_v.weight", kv_cols, g.width);
      if (g.qkv_bias) {
        Vector(prefix + "attn_q.bias", query_cols);
        Vector(prefix + "attn_k.bias", kv_cols);
        Vector(prefix + "attn_v.bias", kv_cols);
      }
      Matrix(prefix + "attn_output.weight", g.width, query_cols);
      Vector(prefix + "ffn_norm.weight", g.width);
      Matrix(prefix + "ffn_gate.weight", g.ffn_width, g.width);
      Matrix(prefix + "ffn_up.weight", g.ffn_width, g.width);
      Matrix(prefix + "ffn_down.weight", g.width, g.ffn_width);
    }
  }

  std::map<std::string, double> numbers_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, HostTensor> tensors_;
  std::vector<uint16_t> pool_;
  std::vector<float> ones_, zeros_;
};

}  // namespace

absl::StatusOr<ModelGeometry> FindGeometry(const std::string& name) {
  std::string known;
  for (const ModelGeometry& geometry : kGeometries) {
    if (geometry.name == name) return geometry;
    absl::StrAppend(&known, known.empty() ? "" : ", ", geometry.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--geometry is '", name, "', allowed are ", known));
}

std::unique_ptr<TensorSource> MakeRandomModel(const ModelGeometry& geometry, uint64_t seed) {
  return std::make_unique<RandomModel>(geometry, seed);
}

}  // namespace slim
