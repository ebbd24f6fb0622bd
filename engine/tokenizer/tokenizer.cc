#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/utf8.h"

namespace slim {
namespace {

constexpr int kTokenControl = 3;  // token types of the file format
constexpr int kTokenUserDefined = 4;

// Byte-level BPE writes each byte as one printable character: itself where it is printable Latin-1,
// else U+0100 and following in byte order.
std::array<uint32_t, 256> ByteCharacters() {
  std::array<uint32_t, 256> characters;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

// The code point of a character of at most three bytes (the table above needs no more), or none.
absl::optional<uint32_t> CodePoint(absl::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(character[i]) & 0xFFu; };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return ((byte(0) & 0x1Fu) << 6) | (byte(1) & 0x3Fu);
    default:
      return absl::nullopt;
  }
}

// Bytes behind a token's text; a character outside the table stands for itself.
std::string TokenToBytes(absl::string_view text,
                         const absl::flat_hash_map<uint32_t, unsigned char>& byte_of) {
  std::string bytes;
  while (!text.empty()) {
    const size_t length = NextUtf8(text).length;
    const absl::optional<uint32_t> code_point = CodePoint(text.substr(0, length));
    const auto found = code_point ? byte_of.find(*code_point) : byte_of.end();
    if (found != byte_of.end()) {
      bytes.push_back(static_cast<char>(found->second));
    } else {
      bytes.append(text.data(), length);
    }
    text.remove_prefix(length);
  }
  return bytes;
}

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("vocabulary: ", what));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const TensorSource& source) {
  SLIM_ASSIGN_OR_RETURN(const std::string model, source.GetString("tokenizer.ggml.model"));
  if (model != "gpt2") {
    return absl::UnimplementedError(absl::StrCat("tokenizer model '", model,
                                                 "' is not supported; supported: gpt2 "
                                                 "(byte-level BPE)"));
  }
  std::string pre = "gpt-2";
  if (source.HasKey("tokenizer.ggml.pre")) {
    SLIM_ASSIGN_OR_RETURN(pre, source.GetString("tokenizer.ggml.pre"));
  }
  SLIM_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(pre));
  auto tokenizer = std::unique_ptr<Tokenizer>(new Tokenizer(std::move(pre_tokenizer)));
  SLIM_RETURN_IF_ERROR(tokenizer->ReadVocabulary(source));
  SLIM_RETURN_IF_ERROR(tokenizer->ReadSpecialIds(source));
  return tokenizer;
}

absl::Status Tokenizer::ReadVocabulary(const TensorSource& source) {
  SLIM_ASSIGN_OR_RETURN(const std::vector<std::string> tokens,
                        source.GetStrings("tokenizer.ggml.tokens"));
  if (tokens.empty() || tokens.size() > (1u << 21)) {
    return Broken(absl::StrCat(tokens.size(), " tokens, allowed is 1 to 2097152"));
  }
  std::vector<int64_t> types(tokens.size(), 1);
  if (source.HasKey("tokenizer.ggml.token_type")) {
    SLIM_ASSIGN_OR_RETURN(types, source.GetInts("tokenizer.ggml.token_type"));
    if (types.size() != tokens.size()) {
      return Broken(absl::StrCat(types.size(), " token types for ", tokens.size(), " tokens"));
    }
  }
  absl::flat_hash_map<uint32_t, unsigned char> byte_of;
  const std::array<uint32_t, 256> characters = ByteCharacters();
  for (uint32_t byte = 0; byte < 256; ++byte) {
    byte_of[characters[byte]] = static_cast<unsigned char>(byte);
  }
  absl::flat_hash_map<std::string, int32_t> ids;
  ids.reserve(tokens.size());
  bytes_.reserve(tokens.size());
  std::array<int32_t, 256> byte_tokens;
  byte_tokens.fill(-1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string& text = tokens[i];
    const auto id = static_cast<int32_t>(i);
    if (FindInvalidUtf8(text) != absl::string_view::npos) {
      return Broken(absl::StrCat("token ", id, " is not UTF-8"));
    }
    if (!ids.emplace(text, id).second) return Broken(absl::StrCat("token ", id, " occurs twice"));
    const bool control = types[i] == kTokenControl || types[i] == kTokenUserDefined;
    control_.push_back(types[i] == kTokenControl);
    if (control) {
      if (text.empty()) return Broken(absl::StrCat("control token ", id, " has no name"));
      control_ids_.emplace(text, id);
      longest_control_ = std::max(longest_control_, text.size());
      bytes_.push_back(text);
      continue;
    }
    bytes_.push_back(TokenToBytes(text, byte_of));
    if (bytes_.back().size() == 1) byte_tokens[static_cast<unsigned char>(bytes_.back()[0])] = id;
  }
  SLIM_RETURN_IF_ERROR(ReadMerges(source, ids));
  bpe_ = std::make_unique<Bpe>(byte_tokens, std::move(merges_));
  return absl::OkStatus();
}

absl::Status Tokenizer::ReadMerges(const TensorSource& source,
                                   const absl::flat_hash_map<std::string, int32_t>& ids) {
  SLIM_ASSIGN_OR_RETURN(const std::vector<std::string> lines,
                        source.GetStrings("tokenizer.ggml.merges"));
  merges_.reserve(lines.size());
  for (size_t rank = 0; rank < lines.size(); ++rank) {
    const std::string& line = lines[rank];
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos) return Broken(absl::StrCat("merge ", rank, " has no space"));
    const std::string left = line.substr(0, space), right = line.substr(space + 1);
    const auto left_id = ids.find(left), right_id = ids.find(right),
               joined = ids.find(left + right);
    if (left_id == ids.end() || right_id == ids.end() || joined == ids.end()) {
      return Broken(absl::StrCat("merge ", rank, " names a token that does not exist"));
    }
    merges_.emplace(std::make_pair(left_id->second, right_id->second),
                    Bpe::Merge{static_cast<int32_t>(rank), joined->second});
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::ReadSpecialIds(const TensorSource& source) {
  const auto read = [&](const char* key) -> absl::StatusOr<absl::optional<int32_t>> {
    if (!source.HasKey(key)) return absl::optional<int32_t>();
    SLIM_ASSIGN_OR_RETURN(const int64_t id, source.GetInt(key));
    if (!(id >= 0 && id < vocab_size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("model metadata ", key, " is ", id, ", allowed is 0 to ", vocab_size() - 1));
    }
    return absl::optional<int32_t>(static_cast<int32_t>(id));
  };
  SLIM_ASSIGN_OR_RETURN(bos_token_, read("tokenizer.ggml.bos_token_id"));
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    SLIM_ASSIGN_OR_RETURN(const absl::optional<int32_t> id, read(key));
    if (id) end_tokens_.push_back(*id);
  }
  // Control tokens that end a turn in the templates we know, whether the file says so or not.
  for (const char* name :
       {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>"}) {
    if (const absl::optional<int32_t> id = FindControl(name)) end_tokens_.push_back(*id);
  }
  std::sort(end_tokens_.begin(), end_tokens_.end());
  end_tokens_.erase(std::unique(end_tokens_.begin(), end_tokens_.end()), end_tokens_.end());
  if (source.HasKey("tokenizer.ggml.add_bos_token")) {
    SLIM_ASSIGN_OR_RETURN(const bool add, source.GetBool("tokenizer.ggml.add_bos_token"));
    adds_bos_ = add && bos_token_.has_value();
  }
  return absl::OkStatus();
}

absl::optional<int32_t> Tokenizer::FindControl(absl::string_view name) const {
  const auto found = control_ids_.find(name);
  if (found == control_ids_.end()) return absl::nullopt;
  return found->second;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text) const {
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", invalid));
  }
  std::vector<int32_t> tokens;
  tokens.reserve(text.size() / 4 + 8);
  SLIM_RETURN_IF_ERROR(
      pre_tokenizer_.Split(text, [&](absl::string_view piece) { bpe_->Encode(piece, tokens); }));
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodePieces(
    absl::Span<const PromptPiece> pieces) const {
  std::vector<int32_t> tokens;
  std::string text;
  const auto flush = [&]() -> absl::Status {
    if (text.empty()) return absl::OkStatus();
    SLIM_ASSIGN_OR_RETURN(const std::vector<int32_t> some, Encode(text));
    tokens.insert(tokens.end(), some.begin(), some.end());
    text.clear();
    return absl::OkStatus();
  };
  for (const PromptPiece& piece : pieces) {
    if (!piece.control) {
      text += piece.text;
      continue;
    }
    SLIM_RETURN_IF_ERROR(flush());
    const absl::optional<int32_t> id = FindControl(piece.text);
    if (!id) {
      return absl::InvalidArgumentError(
          absl::StrCat("the model's vocabulary has no control token ", piece.text));
    }
    tokens.push_back(*id);
  }
  SLIM_RETURN_IF_ERROR(flush());
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeWithSpecial(absl::string_view text) const {
  std::vector<PromptPiece> pieces;
  size_t begin = 0;  // of the text that no special token has taken
  for (size_t i = 0; i < text.size();) {
    size_t length = 0;  // of the longest special token that starts here
    for (size_t n = std::min(longest_control_, text.size() - i); n > 0 && length == 0; --n) {
      if (control_ids_.contains(text.substr(i, n))) length = n;
    }
    if (length == 0) {
      ++i;
      continue;
    }
    pieces.push_back({std::string(text.substr(begin, i - begin)), false});
    pieces.push_back({std::string(text.substr(i, length)), true});
    i += length;
    begin = i;
  }
  pieces.push_back({std::string(text.substr(begin)), false});
  return EncodePieces(pieces);
}

std::string Tokenizer::Decode(absl::Span<const int32_t> tokens) const {
  std::string bytes;
  for (const int32_t token : tokens) {
    if (!control_[token]) bytes += bytes_[token];
  }
  return SanitizeUtf8(bytes);
}

}  // namespace slim
