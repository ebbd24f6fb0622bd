#include "server/prompt_codec.h"

#include "sliminfer/v1/inference.pb.h"

namespace slim {

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const sliminfer::v1::GenerateRequest& request,
                                                  const PromptCodec& codec) {
  if (request.has_text()) return codec.Encode(request.text(), absl::nullopt);
  if (request.has_token_ids()) {
    return std::vector<int32_t>(request.token_ids().ids().begin(), request.token_ids().ids().end());
  }
  std::vector<PromptCodec::ChatMessage> messages;
  for (const auto& message : request.chat().messages()) {
    messages.push_back({message.role(), message.content()});
  }
  return codec.EncodeChat(messages);
}

}  // namespace slim
