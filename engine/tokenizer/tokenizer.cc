#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/base/utf8.h"

namespace slim {
namespace {

constexpr char kModelKey[] = "tokenizer.ggml.model";
constexpr char kPreKey[] = "tokenizer.ggml.pre";
constexpr char kMergesKey[] = "tokenizer.ggml.merges";
constexpr char kAddBosKey[] = "tokenizer.ggml.add_bos_token";
constexpr size_t kMaxMerges = size_t{1} << 22;

absl::Status CheckModelKind(const TensorSource& source) {
  SLIM_ASSIGN_OR_RETURN(const std::string kind, source.GetString(kModelKey));
  if (kind == "gpt2") return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      kModelKey, " is \"", absl::CHexEscape(kind.substr(0, 60)),
      kind == "llama" ? "\" (SentencePiece)" : "\"", "; supported: gpt2 (byte-level BPE)"));
}

absl::Status MergeError(size_t rank, absl::string_view merge, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(
      kMergesKey, "[", rank, "] = \"", absl::CHexEscape(merge.substr(0, 60)), "\" ", problem));
}

absl::Status CheckText(absl::string_view text) {
  // The length first: nothing of a text that is too long is looked at.
  if (text.size() > static_cast<size_t>(kMaxEncodeBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("text has ", text.size(), " bytes, at most ", kMaxEncodeBytes));
  }
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", invalid));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const TensorSource& source) {
  SLIM_RETURN_IF_ERROR(CheckModelKind(source));
  auto tokenizer = absl::WrapUnique(new Tokenizer());
  std::string pre = "gpt-2";
  if (source.HasKey(kPreKey)) {
    SLIM_ASSIGN_OR_RETURN(pre, source.GetString(kPreKey));
  }
  SLIM_ASSIGN_OR_RETURN(tokenizer->pre_tokenizer_, PreTokenizer::Create(pre));
  SLIM_ASSIGN_OR_RETURN(tokenizer->vocabulary_, Vocabulary::Load(source));
  SLIM_RETURN_IF_ERROR(tokenizer->ReadMerges(source));
  SLIM_RETURN_IF_ERROR(tokenizer->ReadAddBos(source));
  tokenizer->IndexTokens();
  return tokenizer;
}

absl::Status Tokenizer::ReadMerges(const TensorSource& source) {
  SLIM_ASSIGN_OR_RETURN(const std::vector<std::string> merges, source.GetStrings(kMergesKey));
  if (merges.size() > kMaxMerges) {
    return absl::InvalidArgumentError(
        absl::StrCat(kMergesKey, ": ", merges.size(), " merges, at most ", kMaxMerges));
  }
  merger_ = std::make_unique<BpeMerger>(merges.size());
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const absl::string_view merge = merges[rank];
    const size_t space = merge.find(' ');
    if (space == absl::string_view::npos || space == 0 || space + 1 == merge.size()) {
      return MergeError(rank, merge, "is not two tokens with a space between");
    }
    const absl::string_view left = merge.substr(0, space);
    const absl::string_view right = merge.substr(space + 1);
    joined.assign(left.data(), left.size());
    joined.append(right.data(), right.size());
    const int32_t left_id = vocabulary_->IdOf(left);
    const int32_t right_id = vocabulary_->IdOf(right);
    const int32_t merged_id = vocabulary_->IdOf(joined);
    if (left_id < 0 || right_id < 0 || merged_id < 0) {
      return MergeError(rank, merge,
                        left_id < 0    ? "names an unknown left token"
                        : right_id < 0 ? "names an unknown right token"
                                       : "makes a text that is no token");
    }
    // Otherwise user text could become a control token by way of the merges.
    if (vocabulary_->IsControl(merged_id)) {
      return MergeError(rank, merge, absl::StrCat("makes the control token ", merged_id));
    }
    merger_->Add(left_id, right_id, merged_id);  // a repeated merge keeps its first rank
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::ReadAddBos(const TensorSource& source) {
  // Files of the Llama 3 family that leave the flag out mean true.
  adds_bos_ = pre_tokenizer_->whole_piece_first() && bos_token().has_value();
  if (!source.HasKey(kAddBosKey)) return absl::OkStatus();
  SLIM_ASSIGN_OR_RETURN(adds_bos_, source.GetBool(kAddBosKey));
  if (adds_bos_ && !bos_token().has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kAddBosKey, " is true, but tokenizer.ggml.bos_token_id is missing"));
  }
  return absl::OkStatus();
}

void Tokenizer::IndexTokens() {
  special_lengths_.resize(256);
  for (int32_t id = 0; id < vocabulary_->size(); ++id) {
    if (vocabulary_->IsSpecial(id)) {
      const std::string& text = vocabulary_->Text(id);
      special_lengths_[static_cast<uint8_t>(text[0])].push_back(text.size());
    } else if (pre_tokenizer_->whole_piece_first() && vocabulary_->Kind(id) == TokenKind::kNormal) {
      id_by_bytes_.emplace(vocabulary_->Bytes(id), id);
    }
  }
  for (std::vector<size_t>& lengths : special_lengths_) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

absl::optional<int32_t> Tokenizer::FindControl(absl::string_view name) const {
  const int32_t id = vocabulary_->IdOf(name);
  if (id < 0 || !vocabulary_->IsSpecial(id)) return absl::nullopt;
  return id;
}

void Tokenizer::EncodeWord(absl::string_view word, BpeScratch* scratch,
                           std::vector<int32_t>* tokens) const {
  if (pre_tokenizer_->whole_piece_first()) {
    const auto whole = id_by_bytes_.find(word);
    if (whole != id_by_bytes_.end()) {
      tokens->push_back(whole->second);
      return;
    }
  }
  scratch->ids.clear();
  for (const char c : word) {
    scratch->ids.push_back(vocabulary_->IdOfByte(static_cast<uint8_t>(c)));
  }
  // A byte without a token (-1) separates its neighbours until the merges are done.
  merger_->Merge(scratch);
  for (const int32_t id : scratch->ids) {
    if (id >= 0) tokens->push_back(id);
  }
}

absl::Status Tokenizer::EncodeText(absl::string_view text, std::vector<int32_t>* tokens) const {
  SLIM_RETURN_IF_ERROR(CheckText(text));
  BpeScratch scratch;
  return pre_tokenizer_->Split(text,
                               [&](absl::string_view word) { EncodeWord(word, &scratch, tokens); });
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text) const {
  std::vector<int32_t> tokens;
  SLIM_RETURN_IF_ERROR(EncodeText(text, &tokens));
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodePieces(
    absl::Span<const PromptPiece> pieces) const {
  std::vector<int32_t> tokens;
  std::string text;  // of the text pieces not encoded yet
  const auto flush = [&]() -> absl::Status {
    const absl::Status status = EncodeText(text, &tokens);
    text.clear();
    return status;
  };
  for (const PromptPiece& piece : pieces) {
    if (!piece.control) {
      text += piece.text;
      continue;
    }
    SLIM_RETURN_IF_ERROR(flush());
    const absl::optional<int32_t> id = FindControl(piece.text);
    if (!id.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the model's vocabulary has no control token \"",
                       absl::CHexEscape(piece.text.substr(0, 60)), "\""));
    }
    tokens.push_back(*id);
  }
  SLIM_RETURN_IF_ERROR(flush());
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeWithSpecial(absl::string_view text) const {
  SLIM_RETURN_IF_ERROR(CheckText(text));
  std::vector<int32_t> tokens;
  size_t begin = 0;  // of the text that no special token has taken
  for (size_t at = 0; at < text.size();) {
    size_t found = 0;  // length of the longest special token that starts here
    for (const size_t length : special_lengths_[static_cast<uint8_t>(text[at])]) {
      if (length > text.size() - at || !FindControl(text.substr(at, length))) continue;
      found = length;
      break;
    }
    if (found == 0) {
      ++at;
      continue;
    }
    SLIM_RETURN_IF_ERROR(EncodeText(text.substr(begin, at - begin), &tokens));
    tokens.push_back(*FindControl(text.substr(at, found)));
    at += found;
    begin = at;
  }
  SLIM_RETURN_IF_ERROR(EncodeText(text.substr(begin), &tokens));
  return tokens;
}

const std::string& Tokenizer::TokenBytes(int32_t token) const {
  static const std::string* const nothing = new std::string();
  return vocabulary_->InRange(token) ? vocabulary_->Bytes(token) : *nothing;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> tokens) const {
  std::string bytes;
  for (const int32_t token : tokens) {
    if (!IsControl(token)) bytes += TokenBytes(token);
  }
  return SanitizeUtf8(bytes);
}

}  // namespace slim
