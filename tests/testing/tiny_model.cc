#include "tests/testing/tiny_model.h"

#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/check.h"
#include "tests/testing/quantize.h"

namespace slim {
namespace {

constexpr absl::string_view kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// Frequent pairs, each made of symbols that exist by then. "_" stands for the symbol of a space.
constexpr absl::string_view kMerges =
    "_ t|_ a|i n|h e|r e|o n|_t he|e r|_ s|a t|_ w|o r|e n|_ o|_ c|n d|i t|i s|_ b|_ f|e s|a l|"
    "a n|_ m|e d|_ p|in g|o u|_a nd|a r|_t o|_ d|_o f|_ h|_i n|l l|o m|i c|_ I|_ l|_ n|_ T|a s|"
    "l e|e l|en t|_ g|_w h|_ y|_y ou|_f or|i on|v e|_b e|o t|_t h|_th at|_i s|_i t|_w as|_ e|h a|"
    "_h e|l o|u r|c h|_ r|_ u|r o|_s t|i l|a ll|_a s|_w ith|h o|_h a|_ N";

// A fixed generator: the standard library's distributions differ between implementations.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // Uniform in [-1, 1).
  float Next() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t bits = state_;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    return static_cast<float>(bits >> 40) / 8388608.0f - 1.0f;
  }

 private:
  uint64_t state_;
};

std::string Utf8(uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

// Printable bytes stand for themselves.
bool IsPlainByte(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
         (byte >= 0xae && byte <= 0xff);
}

// Grows a vocabulary by merges until it is full.
class MergeList {
 public:
  MergeList(TinyVocabulary* vocabulary, size_t max_tokens)
      : vocabulary_(*vocabulary), max_tokens_(max_tokens) {
    known_.insert(vocabulary_.tokens.begin(), vocabulary_.tokens.end());
  }

  // Does nothing when a part is unknown, the result exists already, or there is no room.
  void Add(const std::string& left, const std::string& right) {
    if (vocabulary_.tokens.size() >= max_tokens_) return;
    if (known_.count(left) == 0 || known_.count(right) == 0) return;
    if (!known_.insert(left + right).second) return;
    vocabulary_.tokens.push_back(left + right);
    vocabulary_.token_types.push_back(1);
    vocabulary_.merges.push_back(left + " " + right);
  }

 private:
  TinyVocabulary& vocabulary_;
  const size_t max_tokens_;
  std::set<std::string> known_;
};

std::string WithSpaceSymbol(absl::string_view text) {
  std::string out;
  for (const char c : text) out += c == '_' ? ByteLevelSymbol(' ') : std::string(1, c);
  return out;
}

class Builder {
 public:
  explicit Builder(const TinyModelOptions& options)
      : options_(options),
        width_(options.num_heads * options.head_dim),
        kv_width_(options.num_kv_heads * options.head_dim),
        random_(options.seed) {
    SLIM_CHECK(options.num_layers > 0 && options.ffn_width > 0 && options.context_tokens > 0);
    SLIM_CHECK(options.num_kv_heads > 0 && options.num_heads % options.num_kv_heads == 0);
    SLIM_CHECK(options.head_dim > 0 && options.head_dim % 2 == 0);
    SLIM_CHECK(options.vocab_size >= kTinyModelMinVocab);
    SLIM_CHECK(!options.weight_dtypes.empty());
  }

  GgufWriter Build() {
    AddHyperparameters();
    AddVocabulary();
    AddMatrix("token_embd.weight", options_.vocab_size, width_, options_.embedding_dtype);
    for (int layer = 0; layer < options_.num_layers; ++layer) {
      const std::string prefix = absl::StrCat("blk.", layer, ".");
      AddNorm(prefix + "attn_norm.weight");
      AddMatrix(prefix + "ffn_down.weight", width_, options_.ffn_width, NextDType());
      AddMatrix(prefix + "ffn_gate.weight", options_.ffn_width, width_, NextDType());
      AddMatrix(prefix + "ffn_up.weight", options_.ffn_width, width_, NextDType());
      AddNorm(prefix + "ffn_norm.weight");
      AddMatrix(prefix + "attn_k.weight", kv_width_, width_, NextDType());
      AddMatrix(prefix + "attn_output.weight", width_, width_, NextDType());
      AddMatrix(prefix + "attn_q.weight", width_, width_, NextDType());
      AddMatrix(prefix + "attn_v.weight", kv_width_, width_, NextDType());
    }
    AddNorm("output_norm.weight");
    if (!options_.tied_embeddings) {
      AddMatrix("output.weight", options_.vocab_size, width_, options_.embedding_dtype);
    }
    return std::move(writer_);
  }

 private:
  void AddHyperparameters() {
    writer_.AddString("general.architecture", "llama");
    writer_.AddString("general.type", "model");
    writer_.AddString("general.name", "tiny test model");
    writer_.AddUint32("llama.block_count", static_cast<uint32_t>(options_.num_layers));
    writer_.AddUint32("llama.context_length", static_cast<uint32_t>(options_.context_tokens));
    writer_.AddUint32("llama.embedding_length", static_cast<uint32_t>(width_));
    writer_.AddUint32("llama.feed_forward_length", static_cast<uint32_t>(options_.ffn_width));
    writer_.AddUint32("llama.attention.head_count", static_cast<uint32_t>(options_.num_heads));
    writer_.AddUint32("llama.attention.head_count_kv",
                      static_cast<uint32_t>(options_.num_kv_heads));
    writer_.AddFloat32("llama.rope.freq_base", options_.rope_base);
    writer_.AddFloat32("llama.attention.layer_norm_rms_epsilon", options_.rms_epsilon);
    writer_.AddUint32("llama.vocab_size", static_cast<uint32_t>(options_.vocab_size));
    writer_.AddUint32("llama.rope.dimension_count", static_cast<uint32_t>(options_.head_dim));
  }

  void AddVocabulary() {
    const TinyVocabulary vocabulary = MakeTinyVocabulary(options_.vocab_size);
    writer_.AddBool("tokenizer.ggml.add_space_prefix", false);
    writer_.AddBool("tokenizer.ggml.add_bos_token", options_.add_bos_token);
    writer_.AddString("tokenizer.ggml.model", "gpt2");
    writer_.AddString("tokenizer.ggml.pre", "smollm");
    writer_.AddStrings("tokenizer.ggml.tokens", vocabulary.tokens);
    writer_.AddInts("tokenizer.ggml.token_type", vocabulary.token_types);
    writer_.AddStrings("tokenizer.ggml.merges", vocabulary.merges);
    writer_.AddUint32("tokenizer.ggml.bos_token_id", kTinyModelImStart);
    writer_.AddUint32("tokenizer.ggml.eos_token_id", kTinyModelImEnd);
    writer_.AddUint32("tokenizer.ggml.unknown_token_id", kTinyModelEndOfText);
    writer_.AddUint32("tokenizer.ggml.padding_token_id", kTinyModelImEnd);
    writer_.AddString("tokenizer.chat_template",
                      options_.chat_template.empty() ? kChatMl : options_.chat_template);
    writer_.AddUint32("general.quantization_version", 2);
  }

  DType NextDType() {
    return options_.weight_dtypes[next_dtype_++ % options_.weight_dtypes.size()];
  }

  // Uniform with variance 1 / cols, so that activations keep their size from layer to layer.
  void AddMatrix(const std::string& name, int rows, int cols, DType dtype) {
    SLIM_CHECK(cols % BlockElements(dtype) == 0);
    const float scale = std::sqrt(3.0f / static_cast<float>(cols));
    std::vector<float> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    for (float& value : values) value = random_.Next() * scale;
    writer_.AddTensor(name, {static_cast<uint64_t>(cols), static_cast<uint64_t>(rows)}, dtype,
                      Quantize(dtype, values));
  }

  void AddNorm(const std::string& name) {
    std::vector<float> values(static_cast<size_t>(width_));
    for (float& value : values) value = 1.0f + 0.1f * random_.Next();
    writer_.AddTensor(name, {static_cast<uint64_t>(width_)}, DType::kF32,
                      Quantize(DType::kF32, values));
  }

  const TinyModelOptions& options_;
  const int width_;
  const int kv_width_;
  Random random_;
  size_t next_dtype_ = 0;
  GgufWriter writer_;
};

}  // namespace

std::string ByteLevelSymbol(uint8_t byte) {
  if (IsPlainByte(byte)) return Utf8(byte);
  // The other bytes take the code points from 256 on, in byte order.
  uint32_t code_point = 256;
  for (uint32_t other = 0; other < byte; ++other) {
    if (!IsPlainByte(other)) ++code_point;
  }
  return Utf8(code_point);
}

TinyVocabulary MakeTinyVocabulary(int vocab_size) {
  const auto max_tokens = static_cast<size_t>(vocab_size);
  TinyVocabulary vocabulary;
  vocabulary.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  vocabulary.token_types = {3, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(ByteLevelSymbol(static_cast<uint8_t>(byte)));
    vocabulary.token_types.push_back(1);
  }
  MergeList merges(&vocabulary, max_tokens);
  for (const absl::string_view merge : absl::StrSplit(kMerges, '|')) {
    const std::vector<std::string> parts = absl::StrSplit(merge, ' ');
    if (parts.size() == 2) merges.Add(WithSpaceSymbol(parts[0]), WithSpaceSymbol(parts[1]));
  }
  for (char left = 'a'; left <= 'z'; ++left) {
    for (char right = 'a'; right <= 'z'; ++right) {
      merges.Add(std::string(1, left), std::string(1, right));
    }
  }
  while (vocabulary.tokens.size() < max_tokens) {
    vocabulary.tokens.push_back(absl::StrCat("<unused_", vocabulary.tokens.size(), ">"));
    vocabulary.token_types.push_back(5);
  }
  return vocabulary;
}

GgufWriter MakeTinyModelWriter(const TinyModelOptions& options) { return Builder(options).Build(); }

std::string MakeTinyModel(const TinyModelOptions& options) {
  return MakeTinyModelWriter(options).Finish();
}

std::string WriteTinyModel(absl::string_view file_name, const TinyModelOptions& options) {
  return WriteTempFile(file_name, MakeTinyModel(options));
}

}  // namespace slim
