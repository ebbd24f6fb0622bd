#include "engine/tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace slim {
namespace {

constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kTypesKey[] = "tokenizer.ggml.token_type";

constexpr absl::string_view kEndTexts[] = {
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "</s>",
};

// Byte-level BPE writes each byte as one printable character: itself where it is printable Latin-1,
// otherwise U+0100 and up in byte order. Code points from kAlphabetEnd on stand for no byte.
constexpr uint32_t kAlphabetEnd = 0x100 + 68;

struct ByteAlphabet {
  std::array<int16_t, kAlphabetEnd> byte_of;  // -1: not in the alphabet

  ByteAlphabet() {
    byte_of.fill(-1);
    uint32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      byte_of[printable ? byte : next++] = static_cast<int16_t>(byte);
    }
  }
};

// False where `text` has a character outside the alphabet.
bool DecodeAlphabet(absl::string_view text, std::string* out) {
  static const ByteAlphabet alphabet;
  while (!text.empty()) {
    const size_t bytes = NextUtf8(text).length;
    const uint32_t code_point = DecodeUtf8(text.substr(0, bytes));
    if (code_point >= kAlphabetEnd || alphabet.byte_of[code_point] < 0) {
      return false;
    }
    out->push_back(static_cast<char>(alphabet.byte_of[code_point]));
    text.remove_prefix(bytes);
  }
  return true;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte of "<0xHH>", or -1.
int ParseByteToken(absl::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const int high = HexDigit(text[3]);
  const int low = HexDigit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// For messages: texts come from the file, may be long and may hold anything.
std::string Quoted(absl::string_view text) {
  const bool cut = text.size() > 60;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 60)), cut ? "...\"" : "\"");
}

absl::Status TokenError(int64_t id, absl::string_view text, absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat(kTokensKey, "[", id, "] = ", Quoted(text), " ", problem));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vocabulary>> Vocabulary::Load(const TensorSource& source) {
  auto vocabulary = absl::WrapUnique(new Vocabulary());
  SLIM_RETURN_IF_ERROR(vocabulary->ReadTexts(source));
  SLIM_RETURN_IF_ERROR(vocabulary->ReadKinds(source));
  SLIM_RETURN_IF_ERROR(vocabulary->DecodeBytes());
  SLIM_RETURN_IF_ERROR(vocabulary->ReadSpecialIds(source));
  return vocabulary;
}

absl::Status Vocabulary::ReadTexts(const TensorSource& source) {
  SLIM_ASSIGN_OR_RETURN(texts_, source.GetStrings(kTokensKey));
  if (texts_.empty() || texts_.size() > static_cast<size_t>(kMaxVocabTokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat(kTokensKey, ": ", texts_.size(), " tokens, allowed 1 to ", kMaxVocabTokens));
  }
  id_by_text_.reserve(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id) {
    const std::string& text = texts_[id];
    if (text.empty()) return TokenError(id, text, "is empty");
    if (text.size() > static_cast<size_t>(kMaxTokenTextBytes)) {
      return TokenError(id, text,
                        absl::StrCat("has ", text.size(), " bytes, at most ", kMaxTokenTextBytes));
    }
    const size_t invalid = FindInvalidUtf8(text);
    if (invalid != absl::string_view::npos) {
      return TokenError(id, text, absl::StrCat("is invalid UTF-8 at byte ", invalid));
    }
    const auto [other, inserted] = id_by_text_.emplace(text, static_cast<int32_t>(id));
    if (!inserted) return TokenError(id, text, absl::StrCat("is also token ", other->second));
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::ReadKinds(const TensorSource& source) {
  kinds_.assign(texts_.size(), TokenKind::kNormal);
  if (!source.HasKey(kTypesKey)) return absl::OkStatus();
  SLIM_ASSIGN_OR_RETURN(const std::vector<int64_t> types, source.GetInts(kTypesKey));
  if (types.size() != texts_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        kTypesKey, " has ", types.size(), " entries, but there are ", texts_.size(), " tokens"));
  }
  for (size_t id = 0; id < types.size(); ++id) {
    if (types[id] < 1 || types[id] > 6) {
      return absl::InvalidArgumentError(
          absl::StrCat(kTypesKey, "[", id, "] is ", types[id], ", allowed 1 to 6"));
    }
    kinds_[id] = static_cast<TokenKind>(types[id]);
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::DecodeBytes() {
  byte_ids_.assign(256, -1);
  bytes_.resize(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id) {
    const std::string& text = texts_[id];
    std::string& bytes = bytes_[id];
    if (kinds_[id] == TokenKind::kByte) {
      const int byte = ParseByteToken(text);
      if (byte < 0) return TokenError(id, text, "is a byte token, but not <0x00> to <0xFF>");
      bytes.push_back(static_cast<char>(byte));
    } else if (kinds_[id] != TokenKind::kNormal || !DecodeAlphabet(text, &bytes)) {
      // Added tokens are written literally. So is a normal one outside the alphabet: no merge can
      // reach it, but the model may choose it.
      bytes = text;
    } else if (bytes.size() == 1) {
      byte_ids_[static_cast<uint8_t>(bytes[0])] = static_cast<int32_t>(id);
    }
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::ReadSpecialIds(const TensorSource& source) {
  const auto read = [&](absl::string_view key, absl::optional<int32_t>* id) -> absl::Status {
    if (!source.HasKey(key)) return absl::OkStatus();
    SLIM_ASSIGN_OR_RETURN(const int64_t value, source.GetInt(key));
    if (!InRange(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " is ", value, ", allowed 0 to ", size() - 1));
    }
    *id = static_cast<int32_t>(value);
    return absl::OkStatus();
  };
  absl::optional<int32_t> end_of_turn;
  absl::optional<int32_t> end_of_message;
  SLIM_RETURN_IF_ERROR(read("tokenizer.ggml.bos_token_id", &bos_id_));
  SLIM_RETURN_IF_ERROR(read("tokenizer.ggml.eos_token_id", &eos_id_));
  SLIM_RETURN_IF_ERROR(read("tokenizer.ggml.eot_token_id", &end_of_turn));
  SLIM_RETURN_IF_ERROR(read("tokenizer.ggml.eom_token_id", &end_of_message));
  for (const absl::optional<int32_t>& id : {eos_id_, end_of_turn, end_of_message}) {
    if (id.has_value()) end_ids_.push_back(*id);
  }
  for (const absl::string_view text : kEndTexts) {
    const int32_t id = IdOf(text);
    if (id >= 0 && IsControl(id)) end_ids_.push_back(id);
  }
  std::sort(end_ids_.begin(), end_ids_.end());
  end_ids_.erase(std::unique(end_ids_.begin(), end_ids_.end()), end_ids_.end());
  return absl::OkStatus();
}

int32_t Vocabulary::IdOf(absl::string_view text) const {
  const auto found = id_by_text_.find(text);
  return found == id_by_text_.end() ? -1 : found->second;
}

}  // namespace slim
