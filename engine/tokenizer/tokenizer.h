// Text to tokens and back, from the vocabulary in the model's metadata: byte-level BPE.
//
// Text is ordinary text: a special token's string inside it becomes ordinary tokens. Control tokens
// enter only through control pieces, which our own chat templates make. Immutable after Create,
// thread-safe.
#ifndef ENGINE_TOKENIZER_TOKENIZER_H_
#define ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/load/tensor_source.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/pre_tokenizer.h"

namespace slim {

// A part of a prompt: text of whatever origin, or the name of one control token, e.g.
// "<|im_start|>". Neighbouring texts are tokenized as if they were one.
struct PromptPiece {
  std::string text;
  bool control = false;
};

class Tokenizer {
 public:
  // Reads tokenizer.ggml.*. UNIMPLEMENTED names a tokenizer model or pre-tokenizer that is not
  // supported, INVALID_ARGUMENT a broken vocabulary, NOT_FOUND a missing key.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const TensorSource& source);

  // Tokens of ordinary text. INVALID_ARGUMENT with the byte offset for text that is not UTF-8.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const;
  // Tokens of a prompt. INVALID_ARGUMENT for a control piece that the vocabulary does not have.
  absl::StatusOr<std::vector<int32_t>> EncodePieces(absl::Span<const PromptPiece> pieces) const;
  // As EncodePieces, after cutting `text` at every special token's string. For text that is
  // trusted.
  absl::StatusOr<std::vector<int32_t>> EncodeWithSpecial(absl::string_view text) const;

  // The bytes a token stands for; of a control token its name. `token` is in [0, vocab_size()).
  const std::string& TokenBytes(int32_t token) const { return bytes_[token]; }
  // Bytes of all tokens, control tokens left out; invalid UTF-8 replaced by U+FFFD.
  std::string Decode(absl::Span<const int32_t> tokens) const;

  int64_t vocab_size() const { return static_cast<int64_t>(bytes_.size()); }
  bool IsControl(int32_t token) const { return control_[token]; }
  // Tokens that end a generation, ascending.
  const std::vector<int32_t>& end_tokens() const { return end_tokens_; }
  absl::optional<int32_t> bos_token() const { return bos_token_; }
  // Whether prompts begin with bos_token() by default.
  bool adds_bos() const { return adds_bos_; }
  absl::optional<int32_t> FindControl(absl::string_view name) const;

 private:
  explicit Tokenizer(PreTokenizer pre_tokenizer) : pre_tokenizer_(std::move(pre_tokenizer)) {}

  absl::Status ReadVocabulary(const TensorSource& source);
  absl::Status ReadMerges(const TensorSource& source,
                          const absl::flat_hash_map<std::string, int32_t>& ids);
  absl::Status ReadSpecialIds(const TensorSource& source);

  PreTokenizer pre_tokenizer_;
  Bpe::MergeMap merges_;  // empty once bpe_ has them
  std::unique_ptr<Bpe> bpe_;
  std::vector<std::string> bytes_;
  std::vector<bool> control_;
  absl::flat_hash_map<std::string, int32_t> control_ids_;
  size_t longest_control_ = 0;
  std::vector<int32_t> end_tokens_;
  absl::optional<int32_t> bos_token_;
  bool adds_bos_ = false;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_TOKENIZER_H_
