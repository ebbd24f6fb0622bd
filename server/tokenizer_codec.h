// PromptCodec over the model's tokenizer and chat template. Immutable, thread-safe.
#ifndef SERVER_TOKENIZER_CODEC_H_
#define SERVER_TOKENIZER_CODEC_H_

#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/prompt_codec.h"

namespace slim {

class TokenizerCodec final : public PromptCodec {
 public:
  // `tokenizer` is borrowed.
  TokenizerCodec(const Tokenizer* tokenizer, ChatTemplate chat_template)
      : tokenizer_(*tokenizer), chat_template_(std::move(chat_template)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              absl::optional<bool> add_bos) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      absl::Span<const PromptCodec::ChatMessage> messages) const override;
  std::string Decode(absl::Span<const int32_t> tokens) const override {
    return tokenizer_.Decode(tokens);
  }
  std::string TokenBytes(int32_t token) const override { return tokenizer_.TokenBytes(token); }

 private:
  const Tokenizer& tokenizer_;
  const ChatTemplate chat_template_;
};

}  // namespace slim

#endif  // SERVER_TOKENIZER_CODEC_H_
