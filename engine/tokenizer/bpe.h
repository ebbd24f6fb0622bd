// Byte-level byte-pair encoding: joins the neighbouring pair with the lowest rank until none is
// left. Immutable after construction, thread-safe.
#ifndef ENGINE_TOKENIZER_BPE_H_
#define ENGINE_TOKENIZER_BPE_H_

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace slim {

class Bpe {
 public:
  // A merge of two tokens: lower ranks join first.
  struct Merge {
    int32_t rank = 0;
    int32_t result = 0;
  };
  using MergeMap = absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge>;

  // byte_tokens[b] is the token of the single byte b, -1 where the vocabulary has none.
  Bpe(const std::array<int32_t, 256>& byte_tokens, MergeMap merges)
      : byte_tokens_(byte_tokens), merges_(std::move(merges)) {}

  // Appends the tokens of one piece (bytes). Bytes without a token are left out. O(n log n).
  void Encode(absl::string_view piece, std::vector<int32_t>& tokens) const;

 private:
  void EncodeShort(absl::string_view piece, std::vector<int32_t>& tokens) const;
  void EncodeLong(absl::string_view piece, std::vector<int32_t>& tokens) const;

  std::array<int32_t, 256> byte_tokens_;
  MergeMap merges_;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_BPE_H_
