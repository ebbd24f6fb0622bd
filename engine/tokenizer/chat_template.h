// The chat templates we know, written out in code and recognised by marks in the model's template
// text. That text itself is never run: it came with a file from somewhere. Thread-safe, plain
// values.
#ifndef ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
#define ENGINE_TOKENIZER_CHAT_TEMPLATE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/load/tensor_source.h"
#include "engine/tokenizer/tokenizer.h"

namespace slim {

struct ChatMessage {
  std::string role;  // "system" (first only), "user", "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  enum class Kind { kNone, kChatMl, kQwen, kLlama2, kLlama3, kMistral };

  // Recognises tokenizer.chat_template; kNone when there is none or it is not known.
  static ChatTemplate FromSource(const TensorSource& source);
  // The same from the text. A default system message is taken from ChatML templates that have one.
  static ChatTemplate FromText(absl::string_view text);

  Kind kind() const { return kind_; }
  // "chatml", "qwen", "llama2", "llama3", "mistral", or "" for kNone.
  absl::string_view name() const;

  // The prompt for the assistant's next turn. INVALID_ARGUMENT: no message, unknown role, a system
  // message that is not the first, or turns out of order where the template needs them in order.
  // UNIMPLEMENTED when the model has no known template.
  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatMessage> messages) const;

 private:
  Kind kind_ = Kind::kNone;
  std::string default_system_;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
