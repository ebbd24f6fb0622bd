#include "engine/tokenizer/chat_template.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

constexpr char kImStart[] = "<|im_start|>";
constexpr char kImEnd[] = "<|im_end|>";
constexpr char kStartHeader[] = "<|start_header_id|>";
constexpr char kEndHeader[] = "<|end_header_id|>";
constexpr char kEndOfTurn[] = "<|eot_id|>";
constexpr char kThoughtEnd[] = "</think>";
constexpr size_t kMaxDefaultSystemBytes = 4096;
constexpr int64_t kControlType = 3;  // of tokenizer.ggml.token_type

// The literal default system message of a ChatML template: what stands between
// "<|im_start|>system\n" and "<|im_end|>" without any sign of an expression, or nothing.
// The line end is written as a real one or as backslash and n.
std::string FindDefaultSystem(absl::string_view text) {
  const std::string mark = absl::StrCat(kImStart, "system");
  const size_t found = text.find(mark);
  if (found == absl::string_view::npos) return "";
  text.remove_prefix(found + mark.size());
  if (!absl::ConsumePrefix(&text, "\n") && !absl::ConsumePrefix(&text, "\\n")) return "";
  const size_t end = text.find(kImEnd);
  if (end == absl::string_view::npos || end > kMaxDefaultSystemBytes) return "";
  const absl::string_view message = text.substr(0, end);
  if (message.find_first_of("'\"\\{}") != absl::string_view::npos) return "";
  return std::string(message);
}

absl::Status CheckMessages(absl::Span<const ChatMessage> messages) {
  if (messages.empty()) {
    return absl::InvalidArgumentError("chat.messages has 0 entries, allowed is at least 1");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("chat.messages[", i, "].role is \"",
                                                     absl::CHexEscape(role.substr(0, 40)),
                                                     "\", allowed are system, user, assistant"));
    }
    if (role == "system" && i > 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "chat.messages[", i, "].role is system, allowed for the first message only"));
    }
  }
  return absl::OkStatus();
}

// An optional system message, then user and assistant in turn.
absl::Status CheckTurns(absl::Span<const ChatMessage> messages) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  if (first == messages.size()) {
    return absl::InvalidArgumentError(
        "chat.messages has only a system message, this model's template needs a user message");
  }
  for (size_t i = first; i < messages.size(); ++i) {
    const absl::string_view wanted = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role == wanted) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("chat.messages[", i, "].role is ", messages[i].role,
                     ", allowed are user and assistant in turn: here ", wanted));
  }
  return absl::OkStatus();
}

absl::string_view AfterThoughts(absl::string_view answer) {
  const size_t end = answer.rfind(kThoughtEnd);
  if (end == absl::string_view::npos) return answer;
  answer.remove_prefix(end + sizeof(kThoughtEnd) - 1);
  while (absl::ConsumePrefix(&answer, "\n")) {
  }
  return answer;
}

std::string StringOr(const TensorSource& source, absl::string_view key) {
  if (!source.HasKey(key)) return "";
  const absl::StatusOr<std::string> value = source.GetString(key);
  return value.ok() ? *value : "";
}

ChatTemplate::Marks ReadMarks(const TensorSource& source) {
  ChatTemplate::Marks marks;
  const auto tokens = source.GetStrings("tokenizer.ggml.tokens");
  const auto types = source.GetInts("tokenizer.ggml.token_type");
  if (!tokens.ok() || !types.ok() || tokens->size() != types->size()) return marks;
  const auto name_of = [&](absl::string_view key) -> std::string {
    if (!source.HasKey(key)) return "";
    const absl::StatusOr<int64_t> id = source.GetInt(key);
    const bool known = id.ok() && *id >= 0 && static_cast<size_t>(*id) < tokens->size();
    return known && (*types)[*id] == kControlType ? (*tokens)[*id] : "";
  };
  marks.bos = name_of("tokenizer.ggml.bos_token_id");
  marks.eos = name_of("tokenizer.ggml.eos_token_id");
  int instruction_tokens = 0;
  for (size_t i = 0; i < tokens->size(); ++i) {
    if ((*types)[i] != kControlType) continue;
    const std::string& token = (*tokens)[i];
    if (token == "[INST]" || token == "[/INST]") ++instruction_tokens;
  }
  marks.instruction_tokens = instruction_tokens == 2;
  return marks;
}

}  // namespace

class ChatTemplate::Writer {
 public:
  // Joins neighbouring text.
  Writer& Text(absl::string_view text) {
    if (text.empty()) return *this;
    if (pieces_.empty() || pieces_.back().control) pieces_.emplace_back();
    pieces_.back().text.append(text.data(), text.size());
    return *this;
  }
  Writer& Control(absl::string_view name) {
    if (!name.empty()) pieces_.push_back({std::string(name), true});
    return *this;
  }
  // A mark that is a token in some vocabularies and ordinary text in others.
  Writer& Mark(absl::string_view mark, bool is_token) {
    return is_token ? Control(mark) : Text(mark);
  }
  std::vector<PromptPiece> Take() { return std::move(pieces_); }

 private:
  std::vector<PromptPiece> pieces_;
};

ChatTemplate ChatTemplate::FromSource(const TensorSource& source) {
  return FromText(StringOr(source, "tokenizer.chat_template"), ReadMarks(source));
}

ChatTemplate ChatTemplate::FromText(absl::string_view text) {
  const bool llama3 = absl::StrContains(text, kStartHeader);
  return FromText(
      text, llama3 ? Marks{"<|begin_of_text|>", kEndOfTurn, false} : Marks{"<s>", "</s>", false});
}

ChatTemplate ChatTemplate::FromText(absl::string_view text, const Marks& marks) {
  ChatTemplate result;
  result.marks_ = marks;
  if (absl::StrContains(text, kImStart)) {
    result.kind_ = absl::StrContains(text, "You are Qwen") || absl::StrContains(text, kThoughtEnd)
                       ? Kind::kQwen
                       : Kind::kChatMl;
    result.default_system_ = FindDefaultSystem(text);
    result.drop_past_thoughts_ = absl::StrContains(text, kThoughtEnd);
    if (!absl::StrContains(text, "bos_token")) result.marks_.bos.clear();
  } else if (absl::StrContains(text, kStartHeader)) {
    result.kind_ = Kind::kLlama3;
    // These templates put two dates before every system message. The second is the day of the
    // request where the template engine has a clock, else this one; a constant keeps prompts, and
    // with them cached prefixes, the same from day to day.
    if (absl::StrContains(text, "Cutting Knowledge Date: December 2023")) {
      result.system_prefix_ = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    }
  } else if (absl::StrContains(text, "<<SYS>>")) {
    result.kind_ = Kind::kLlama2;
  } else if (absl::StrContains(text, "[INST]")) {
    result.kind_ = Kind::kMistral;
    result.RecogniseMistral(text);
  }
  return result;
}

void ChatTemplate::RecogniseMistral(absl::string_view text) {
  if (absl::StrContains(text, "[SYSTEM_PROMPT]")) {
    mistral_ = {"", "", "", "", true};
  } else if (absl::StrContains(text, "\"[INST]\"")) {
    mistral_ = {"", "", "", "", false};
  } else if (absl::StrContains(text, " [INST]")) {
    mistral_ = {" ", " ", " ", " ", false};
  } else if (absl::StrContains(text, "[AVAILABLE_TOOLS]")) {
    mistral_ = {"", " ", "", " ", false};
  } else {
    mistral_ = {"", " ", " ", "", false};
  }
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
    absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
  if (kind_ == Kind::kNone) {
    return absl::UnimplementedError(
        "this model has no chat template that is known here; supported: chatml, qwen, llama2, "
        "llama3, mistral. Send text or token ids instead");
  }
  SLIM_RETURN_IF_ERROR(CheckMessages(messages));
  Writer out;
  out.Control(marks_.bos);
  switch (kind_) {
    case Kind::kChatMl:
    case Kind::kQwen:
      RenderChatMl(messages, add_generation_prompt, &out);
      break;
    case Kind::kLlama3:
      RenderLlama3(messages, add_generation_prompt, &out);
      break;
    case Kind::kLlama2:
      SLIM_RETURN_IF_ERROR(CheckTurns(messages));
      RenderLlama2(messages, &out);
      break;
    case Kind::kMistral:
      SLIM_RETURN_IF_ERROR(CheckTurns(messages));
      RenderMistral(messages, &out);
      break;
    case Kind::kNone:
      break;
  }
  return out.Take();
}

// <|im_start|>role \n content <|im_end|> \n
void ChatTemplate::RenderChatMl(absl::Span<const ChatMessage> messages, bool generate,
                                Writer* out) const {
  size_t last_user = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "user") last_user = i;
  }
  const auto turn = [&](absl::string_view role, absl::string_view content) {
    out->Control(kImStart).Text(role).Text("\n").Text(content).Control(kImEnd).Text("\n");
  };
  if (!default_system_.empty() && messages[0].role != "system") turn("system", default_system_);
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& content = messages[i].content;
    const bool past = drop_past_thoughts_ && messages[i].role == "assistant" && i < last_user;
    turn(messages[i].role, past ? AfterThoughts(content) : absl::string_view(content));
  }
  if (generate) out->Control(kImStart).Text("assistant\n");
}

// <|start_header_id|>role<|end_header_id|> \n\n content <|eot_id|>
void ChatTemplate::RenderLlama3(absl::Span<const ChatMessage> messages, bool generate,
                                Writer* out) const {
  const auto header = [&](absl::string_view role) -> Writer& {
    return out->Control(kStartHeader).Text(role).Control(kEndHeader).Text("\n\n");
  };
  if (!system_prefix_.empty()) {
    header("system").Text(system_prefix_);
    if (messages[0].role == "system") {
      out->Text(absl::StripAsciiWhitespace(messages[0].content));
      messages.remove_prefix(1);
    }
    out->Control(kEndOfTurn);
  }
  for (const ChatMessage& message : messages) {
    header(message.role).Text(absl::StripAsciiWhitespace(message.content)).Control(kEndOfTurn);
  }
  if (generate) header("assistant");
}

// BOS [INST] <<SYS>> \n system \n <</SYS>> \n\n user [/INST] assistant EOS, each turn with its BOS.
void ChatTemplate::RenderLlama2(absl::Span<const ChatMessage> messages, Writer* out) const {
  std::string system;
  if (messages[0].role == "system") {
    system = absl::StrCat("<<SYS>>\n", messages[0].content, "\n<</SYS>>\n\n");
    messages.remove_prefix(1);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string content = absl::StrCat(system, messages[i].content);
    system.clear();
    if (i % 2 == 1) {
      out->Text(" ").Text(absl::StripAsciiWhitespace(content)).Text(" ").Control(marks_.eos);
      continue;
    }
    if (i > 0) out->Control(marks_.bos);
    out->Mark("[INST]", marks_.instruction_tokens).Text(" ");
    out->Text(absl::StripAsciiWhitespace(content)).Text(" ");
    out->Mark("[/INST]", marks_.instruction_tokens);
  }
}

// BOS [INST] system \n\n user [/INST] assistant EOS [INST] ..., with the version's spaces.
void ChatTemplate::RenderMistral(absl::Span<const ChatMessage> messages, Writer* out) const {
  std::string system;
  if (messages[0].role == "system") {
    if (mistral_.system_tokens) {
      out->Control("[SYSTEM_PROMPT]").Text(messages[0].content).Control("[/SYSTEM_PROMPT]");
    } else {
      system = absl::StrCat(messages[0].content, "\n\n");
    }
    messages.remove_prefix(1);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    if (i % 2 == 1) {
      out->Text(mistral_.before_answer).Text(messages[i].content).Control(marks_.eos);
      continue;
    }
    out->Text(mistral_.before_turn).Mark("[INST]", marks_.instruction_tokens);
    out->Text(mistral_.before_user)
        .Text(system)
        .Text(messages[i].content)
        .Text(mistral_.before_end);
    out->Mark("[/INST]", marks_.instruction_tokens);
    system.clear();
  }
}

}  // namespace slim
