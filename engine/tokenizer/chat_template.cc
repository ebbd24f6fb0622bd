#include "engine/tokenizer/chat_template.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

constexpr char kQwenSystem[] =
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

class PieceList {
 public:
  void Control(absl::string_view name) { pieces_.push_back({std::string(name), true}); }
  void Text(absl::string_view text) { pieces_.push_back({std::string(text), false}); }
  std::vector<PromptPiece> Take() { return std::move(pieces_); }

 private:
  std::vector<PromptPiece> pieces_;
};

absl::Status CheckMessages(absl::Span<const ChatMessage> messages) {
  if (messages.empty()) {
    return absl::InvalidArgumentError("chat.messages has 0 entries, allowed is at least 1");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("chat.messages[", i,
                                                     "].role is not one of system, user, "
                                                     "assistant"));
    }
    if (role == "system" && i > 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "chat.messages[", i, "].role is system, allowed for the first message only"));
    }
  }
  return absl::OkStatus();
}

// <|im_start|>role \n content <|im_end|> \n
std::vector<PromptPiece> RenderChatMl(absl::Span<const ChatMessage> messages,
                                      const std::string& default_system) {
  PieceList out;
  const auto turn = [&](absl::string_view role, absl::string_view content) {
    out.Control("<|im_start|>");
    out.Text(absl::StrCat(std::string(role), "\n", std::string(content)));
    out.Control("<|im_end|>");
    out.Text("\n");
  };
  if (messages[0].role != "system" && !default_system.empty()) turn("system", default_system);
  for (const ChatMessage& message : messages) turn(message.role, message.content);
  out.Control("<|im_start|>");
  out.Text("assistant\n");
  return out.Take();
}

// <|start_header_id|>role<|end_header_id|> \n\n content <|eot_id|>
std::vector<PromptPiece> RenderLlama3(absl::Span<const ChatMessage> messages) {
  PieceList out;
  out.Control("<|begin_of_text|>");
  const auto header = [&](absl::string_view role) {
    out.Control("<|start_header_id|>");
    out.Text(role);
    out.Control("<|end_header_id|>");
    out.Text("\n\n");
  };
  for (const ChatMessage& message : messages) {
    header(message.role);
    out.Text(absl::StripAsciiWhitespace(message.content));
    out.Control("<|eot_id|>");
  }
  header("assistant");
  return out.Take();
}

// [INST] ... [/INST] answer </s>, as text between the sequence marks; the system message goes into
// the first user turn.
absl::StatusOr<std::vector<PromptPiece>> RenderInst(absl::Span<const ChatMessage> messages,
                                                    bool llama2) {
  PieceList out;
  std::string system;
  size_t first = 0;
  if (messages[0].role == "system") {
    system = llama2 ? absl::StrCat("<<SYS>>\n", messages[0].content, "\n<</SYS>>\n\n")
                    : absl::StrCat(messages[0].content, "\n\n");
    first = 1;
  }
  if (!llama2) out.Control("<s>");
  for (size_t i = first; i < messages.size(); ++i) {
    const bool user = (i - first) % 2 == 0;
    if (messages[i].role != (user ? "user" : "assistant")) {
      return absl::InvalidArgumentError(absl::StrCat("chat.messages[", i, "].role is ",
                                                     messages[i].role,
                                                     ", allowed are user and assistant in turn"));
    }
    if (user) {
      if (llama2) out.Control("<s>");
      out.Text(absl::StrCat("[INST] ", system, messages[i].content, " [/INST]"));
      system.clear();
    } else {
      out.Text(absl::StrCat(" ", messages[i].content, llama2 ? " " : ""));
      out.Control("</s>");
    }
  }
  if ((messages.size() - first) % 2 == 0) {
    return absl::InvalidArgumentError("chat.messages must end with a user message");
  }
  return out.Take();
}

// The text between `before` and the next quote of the template, if it is there.
std::string Between(absl::string_view text, absl::string_view before) {
  const size_t at = text.find(before);
  if (at == absl::string_view::npos) return "";
  const absl::string_view rest = text.substr(at + before.size());
  const size_t end = rest.find("<|im_end|>");
  return end == absl::string_view::npos ? "" : std::string(rest.substr(0, end));
}

}  // namespace

ChatTemplate ChatTemplate::FromSource(const TensorSource& source) {
  const absl::StatusOr<std::string> text = source.GetString("tokenizer.chat_template");
  return text.ok() ? FromText(*text) : ChatTemplate();
}

ChatTemplate ChatTemplate::FromText(absl::string_view text) {
  ChatTemplate result;
  if (absl::StrContains(text, "<|im_start|>")) {
    if (absl::StrContains(text, "You are Qwen")) {
      result.kind_ = Kind::kQwen;
      result.default_system_ = kQwenSystem;
    } else {
      result.kind_ = Kind::kChatMl;
      // A template that fills in a system message names it as a literal turn.
      result.default_system_ = Between(text, "<|im_start|>system\\n");
      if (result.default_system_.empty()) {
        result.default_system_ = Between(text, "<|im_start|>system\n");
      }
      if (absl::StrContains(result.default_system_, "{") ||
          absl::StrContains(result.default_system_, "'")) {
        result.default_system_.clear();  // an expression, not a literal
      }
    }
  } else if (absl::StrContains(text, "<|start_header_id|>")) {
    result.kind_ = Kind::kLlama3;
  } else if (absl::StrContains(text, "<<SYS>>")) {
    result.kind_ = Kind::kLlama2;
  } else if (absl::StrContains(text, "[INST]")) {
    result.kind_ = Kind::kMistral;
  }
  while (absl::EndsWith(result.default_system_, "\\n")) {
    result.default_system_.resize(result.default_system_.size() - 2);
  }
  return result;
}

absl::string_view ChatTemplate::name() const {
  switch (kind_) {
    case Kind::kNone:
      return "";
    case Kind::kChatMl:
      return "chatml";
    case Kind::kQwen:
      return "qwen";
    case Kind::kLlama2:
      return "llama2";
    case Kind::kLlama3:
      return "llama3";
    case Kind::kMistral:
      return "mistral";
  }
  return "";
}

absl::StatusOr<std::vector<PromptPiece>> ChatTemplate::Render(
    absl::Span<const ChatMessage> messages) const {
  SLIM_RETURN_IF_ERROR(CheckMessages(messages));
  switch (kind_) {
    case Kind::kChatMl:
    case Kind::kQwen:
      return RenderChatMl(messages, default_system_);
    case Kind::kLlama3:
      return RenderLlama3(messages);
    case Kind::kLlama2:
      return RenderInst(messages, /*llama2=*/true);
    case Kind::kMistral:
      return RenderInst(messages, /*llama2=*/false);
    case Kind::kNone:
      break;
  }
  return absl::UnimplementedError(
      "this model has no chat template that is known here; supported: chatml, qwen, llama2, "
      "llama3, "
      "mistral. Send text or token ids instead");
}

}  // namespace slim
