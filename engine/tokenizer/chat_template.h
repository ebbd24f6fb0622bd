// The chat templates we know, written out in code and recognised by marks in the model's template
// text. That text itself is never run: it came with a file from somewhere. Roles and contents are
// text pieces, whatever they hold: no message can write a control token.
// A value, immutable after it was made: copies are independent, const use is thread-safe.
#ifndef ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
#define ENGINE_TOKENIZER_CHAT_TEMPLATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
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

  // What a template takes from the vocabulary besides the names that are part of its format.
  struct Marks {
    std::string bos;  // names of the control tokens; empty: none
    std::string eos;
    bool instruction_tokens = false;  // [INST] and [/INST] are control tokens, not text
  };

  // Recognises tokenizer.chat_template; kNone when there is none or it is not known. Broken
  // vocabulary keys are ignored here: Tokenizer::Create reports them.
  static ChatTemplate FromSource(const TensorSource& source);
  // The same from the text, with the usual names of the format's BOS and EOS tokens.
  static ChatTemplate FromText(absl::string_view text);
  static ChatTemplate FromText(absl::string_view text, const Marks& marks);

  Kind kind() const { return kind_; }
  // "chatml", "qwen", "llama2", "llama3", "mistral", or "" for kNone.
  absl::string_view name() const;
  // What the model gets as system message where the first message is none; may be empty.
  const std::string& default_system() const { return default_system_; }

  // The prompt for these messages; with `add_generation_prompt` it ends where the assistant's
  // answer begins. INVALID_ARGUMENT names the message: none at all, an unknown role, a system
  // message that is not the first, or turns out of order where the format needs them in order.
  // UNIMPLEMENTED when the model has no known template.
  absl::StatusOr<std::vector<PromptPiece>> Render(absl::Span<const ChatMessage> messages,
                                                  bool add_generation_prompt = true) const;

 private:
  class Writer;

  // How the versions of Mistral's format write a turn:
  // before_turn [INST] before_user user before_end [/INST] before_answer assistant EOS.
  struct MistralStyle {
    std::string before_turn;
    std::string before_user;
    std::string before_end;
    std::string before_answer;
    bool system_tokens = false;  // [SYSTEM_PROMPT] and [/SYSTEM_PROMPT]
  };

  void RecogniseMistral(absl::string_view text);
  void RenderChatMl(absl::Span<const ChatMessage> messages, bool generate, Writer* out) const;
  void RenderLlama3(absl::Span<const ChatMessage> messages, bool generate, Writer* out) const;
  void RenderLlama2(absl::Span<const ChatMessage> messages, Writer* out) const;
  void RenderMistral(absl::Span<const ChatMessage> messages, Writer* out) const;

  Kind kind_ = Kind::kNone;
  Marks marks_;
  MistralStyle mistral_;
  std::string default_system_;
  std::string system_prefix_;        // Llama 3.1 and later: dates before the system message
  bool drop_past_thoughts_ = false;  // Qwen 3: earlier answers go without <think>...</think>
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
