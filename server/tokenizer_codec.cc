#include "server/tokenizer_codec.h"

#include "engine/base/status_macros.h"
#include "server/status_reason.h"

namespace slim {

absl::StatusOr<std::vector<int32_t>> TokenizerCodec::Encode(absl::string_view text,
                                                            absl::optional<bool> add_bos) const {
  const absl::optional<int32_t> bos = tokenizer_.bos_token();
  if (add_bos.value_or(false) && !bos.has_value()) {
    return ErrorWithReason(absl::StatusCode::kInvalidArgument, reason::kBadField,
                           "add_bos is true, allowed: false, as the model has no such token");
  }
  SLIM_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, tokenizer_.Encode(text));
  if (bos.has_value() && add_bos.value_or(tokenizer_.adds_bos())) {
    tokens.insert(tokens.begin(), *bos);
  }
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> TokenizerCodec::EncodeChat(
    absl::Span<const PromptCodec::ChatMessage> messages) const {
  std::vector<slim::ChatMessage> converted;
  converted.reserve(messages.size());
  for (const PromptCodec::ChatMessage& message : messages) {
    converted.push_back({message.role, message.content});
  }
  SLIM_ASSIGN_OR_RETURN(const std::vector<PromptPiece> pieces, chat_template_.Render(converted));
  return tokenizer_.EncodePieces(pieces);
}

}  // namespace slim
