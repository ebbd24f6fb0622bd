// Text to tokens and back, from the vocabulary in the model's metadata: byte-level BPE.
// Text is ordinary text: a special token's string inside it becomes ordinary tokens. Control tokens
// enter only through control pieces, which our own chat templates make.
// Immutable after Create, hence thread-safe; a call keeps its state on the heap and needs little
// stack.
#ifndef ENGINE_TOKENIZER_TOKENIZER_H_
#define ENGINE_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/load/tensor_source.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/vocabulary.h"

namespace slim {

// A part of a prompt: text of whatever origin, or the name of one control token, e.g.
// "<|im_start|>". Neighbouring texts are tokenized as if they were one.
struct PromptPiece {
  std::string text;
  bool control = false;
};

// The longest text of one call. Merging needs up to 40 bytes of memory per byte of one long word.
inline constexpr int64_t kMaxEncodeBytes = 16 << 20;

class Tokenizer {
 public:
  // Reads tokenizer.ggml.*. UNIMPLEMENTED names a tokenizer model or pre-tokenizer that is not
  // supported, INVALID_ARGUMENT the broken entry of the vocabulary, NOT_FOUND a missing key.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const TensorSource& source);

  // Tokens of ordinary text. Bytes for which the vocabulary has no token are left out, as the
  // reference tokenizers do. INVALID_ARGUMENT for text that is not UTF-8 (with the byte offset) or
  // longer than kMaxEncodeBytes.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const;
  // Tokens of a prompt. INVALID_ARGUMENT for a control piece that the vocabulary does not have.
  absl::StatusOr<std::vector<int32_t>> EncodePieces(absl::Span<const PromptPiece> pieces) const;
  // As EncodePieces, after cutting `text` at every special token's string (leftmost, then longest).
  // For text that is trusted.
  absl::StatusOr<std::vector<int32_t>> EncodeWithSpecial(absl::string_view text) const;

  // The bytes a token stands for; of a control token its name; nothing for an id that is no token.
  const std::string& TokenBytes(int32_t token) const;
  // Bytes of all tokens, control tokens left out; invalid UTF-8 replaced by U+FFFD.
  std::string Decode(absl::Span<const int32_t> tokens) const;

  int64_t vocab_size() const { return vocabulary_->size(); }
  bool IsControl(int32_t token) const {
    return vocabulary_->InRange(token) && vocabulary_->IsControl(token);
  }
  // Tokens that end a generation, ascending.
  const std::vector<int32_t>& end_tokens() const { return vocabulary_->end_ids(); }
  absl::optional<int32_t> bos_token() const { return vocabulary_->bos_id(); }
  // Whether prompts begin with bos_token() by default.
  bool adds_bos() const { return adds_bos_; }
  // The control or user-defined token of this name.
  absl::optional<int32_t> FindControl(absl::string_view name) const;
  const Vocabulary& vocabulary() const { return *vocabulary_; }

 private:
  Tokenizer() = default;

  absl::Status ReadMerges(const TensorSource& source);
  absl::Status ReadAddBos(const TensorSource& source);
  void IndexTokens();
  // Appends the tokens of one text, or of one of its words.
  absl::Status EncodeText(absl::string_view text, std::vector<int32_t>* tokens) const;
  void EncodeWord(absl::string_view word, BpeScratch* scratch, std::vector<int32_t>* tokens) const;

  std::unique_ptr<Vocabulary> vocabulary_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<BpeMerger> merger_;
  // Only for pre-tokenizers with whole_piece_first(): normal tokens by their bytes.
  absl::flat_hash_map<absl::string_view, int32_t> id_by_bytes_;
  // Lengths of the special tokens' names by their first byte, longest first.
  std::vector<std::vector<size_t>> special_lengths_;
  bool adds_bos_ = false;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_TOKENIZER_H_
