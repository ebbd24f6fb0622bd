// The tokens of a byte-level BPE model file: their bytes, kinds and special ids, all checked.
// Immutable after Load, hence thread-safe; views stay valid as long as the vocabulary.
#ifndef ENGINE_TOKENIZER_VOCABULARY_H_
#define ENGINE_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "engine/load/tensor_source.h"

namespace slim {

// The numbers of tokenizer.ggml.token_type.
enum class TokenKind : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

inline constexpr int64_t kMaxVocabTokens = int64_t{1} << 21;
inline constexpr int64_t kMaxTokenTextBytes = 64 << 10;

class Vocabulary {
 public:
  // Reads tokens, token_type and the special ids. INVALID_ARGUMENT names the key, the index and the
  // value for: no or too many tokens, a text that is empty, too long, not UTF-8 or there twice,
  // an unknown kind, a list of another length, a byte token not written <0xHH>, an id out of range.
  static absl::StatusOr<std::unique_ptr<Vocabulary>> Load(const TensorSource& source);

  int32_t size() const { return static_cast<int32_t>(texts_.size()); }
  bool InRange(int64_t id) const { return id >= 0 && id < size(); }

  // As written in the file, and the bytes it stands for. 0 <= id < size().
  const std::string& Text(int32_t id) const { return texts_[id]; }
  const std::string& Bytes(int32_t id) const { return bytes_[id]; }
  TokenKind Kind(int32_t id) const { return kinds_[id]; }
  // Control and unknown tokens: never text, neither from the user nor for the user.
  bool IsControl(int32_t id) const {
    return kinds_[id] == TokenKind::kControl || kinds_[id] == TokenKind::kUnknown;
  }

  // Control and user-defined tokens: what trusted text may name.
  bool IsSpecial(int32_t id) const {
    return IsControl(id) || kinds_[id] == TokenKind::kUserDefined;
  }

  // The id of the token with this text as written in the file, or -1.
  int32_t IdOf(absl::string_view text) const;
  // The normal token that is this one byte, or -1: some vocabularies lack rare bytes.
  int32_t IdOfByte(uint8_t byte) const { return byte_ids_[byte]; }

  absl::optional<int32_t> bos_id() const { return bos_id_; }
  absl::optional<int32_t> eos_id() const { return eos_id_; }
  // Every token that ends a generation, ascending: those named by the file and the control tokens
  // known by text (<|im_end|>, <|endoftext|>, ...).
  const std::vector<int32_t>& end_ids() const { return end_ids_; }

 private:
  Vocabulary() = default;

  absl::Status ReadTexts(const TensorSource& source);
  absl::Status ReadKinds(const TensorSource& source);
  absl::Status DecodeBytes();
  absl::Status ReadSpecialIds(const TensorSource& source);

  std::vector<std::string> texts_;
  std::vector<TokenKind> kinds_;
  std::vector<std::string> bytes_;
  absl::flat_hash_map<absl::string_view, int32_t> id_by_text_;  // views into texts_
  std::vector<int32_t> byte_ids_;                               // 256
  absl::optional<int32_t> bos_id_;
  absl::optional<int32_t> eos_id_;
  std::vector<int32_t> end_ids_;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_VOCABULARY_H_
