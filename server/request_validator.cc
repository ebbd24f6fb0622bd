#include "server/request_validator.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "server/status_reason.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

absl::Status Error(absl::string_view why, absl::string_view field, const absl::AlphaNum& value,
                   absl::string_view allowed) {
  return ErrorWithReason(absl::StatusCode::kInvalidArgument, why,
                         absl::StrCat(field, " is ", value, ", allowed: ", allowed));
}

absl::Status BadField(absl::string_view field, const absl::AlphaNum& value,
                      absl::string_view allowed) {
  return Error(reason::kBadField, field, value, allowed);
}

absl::Status OverLimit(absl::string_view suffix, absl::string_view field,
                       const absl::AlphaNum& value, absl::string_view allowed) {
  return Error(absl::StrCat(reason::kLimit, "_", suffix), field, value, allowed);
}

// The accepting form: NaN fails it.
template <typename T>
absl::Status CheckRange(absl::string_view field, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return BadField(field, value, absl::StrCat(low, " to ", high));
}

// (0, high]
absl::Status CheckPositive(absl::string_view field, float value, float high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return BadField(field, value, absl::StrCat("greater than 0, at most ", high));
}

absl::Status CheckTokenId(absl::string_view field, uint32_t id, int64_t vocabulary) {
  if (id < vocabulary) return absl::OkStatus();
  return BadField(field, id, absl::StrCat("0 to ", vocabulary - 1));
}

absl::Status CheckUtf8(absl::string_view field, absl::string_view text) {
  if (IsValidUtf8(text)) return absl::OkStatus();
  return BadField(field, "not valid UTF-8", "UTF-8 text");
}

absl::Status CheckPromptBytes(absl::string_view field, size_t bytes) {
  if (bytes <= kMaxPromptBytes) return absl::OkStatus();
  return OverLimit("PROMPT", field, absl::StrCat(bytes, " bytes"),
                   absl::StrCat("at most ", kMaxPromptBytes, " bytes"));
}

absl::Status ValidateChat(const v1::Chat& chat) {
  if (chat.messages().empty()) {
    return OverLimit("PROMPT", "chat.messages", "empty", "at least one message");
  }
  if (chat.messages_size() > kMaxChatMessages) {
    return OverLimit("MESSAGES", "chat.messages", absl::StrCat(chat.messages_size(), " messages"),
                     absl::StrCat("at most ", kMaxChatMessages));
  }
  size_t bytes = 0;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    const std::string field = absl::StrCat("chat.messages[", i, "]");
    const std::string& role = message.role();
    if (role != "system" && role != "user" && role != "assistant") {
      const std::string seen = absl::CHexEscape(absl::string_view(role).substr(0, 32));
      return BadField(absl::StrCat(field, ".role"), absl::StrCat("\"", seen, "\""),
                      "system, user, assistant");
    }
    if (role == "system" && i > 0) {
      return BadField(absl::StrCat(field, ".role"), "\"system\"", "system as first message only");
    }
    SLIM_RETURN_IF_ERROR(CheckUtf8(absl::StrCat(field, ".content"), message.content()));
    bytes += message.content().size();
  }
  return CheckPromptBytes("chat.messages", bytes);
}

absl::Status ValidatePrompt(const v1::GenerateRequest& request, const ModelConfig& model) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      SLIM_RETURN_IF_ERROR(CheckPromptBytes("text", request.text().size()));
      return CheckUtf8("text", request.text());
    case v1::GenerateRequest::kTokenIds:
      if (request.token_ids().ids().empty()) {
        return OverLimit("PROMPT", "token_ids.ids", "empty", "at least one id");
      }
      for (int i = 0; i < request.token_ids().ids_size(); ++i) {
        const uint32_t id = request.token_ids().ids(i);
        if (!(id < model.vocab_size)) {
          return CheckTokenId(absl::StrCat("token_ids.ids[", i, "]"), id, model.vocab_size);
        }
      }
      return absl::OkStatus();
    case v1::GenerateRequest::kChat:
      return ValidateChat(request.chat());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return BadField("prompt", "not set", "text, token_ids or chat");
}

absl::Status ValidateSampling(const v1::SamplingParams& s, const ModelConfig& model) {
  if (s.has_temperature()) {
    SLIM_RETURN_IF_ERROR(CheckRange("sampling.temperature", s.temperature(), 0.0f, 2.0f));
  }
  if (s.has_top_p()) SLIM_RETURN_IF_ERROR(CheckPositive("sampling.top_p", s.top_p(), 1.0f));
  if (s.has_top_k()) {
    SLIM_RETURN_IF_ERROR(CheckRange<int64_t>("sampling.top_k", s.top_k(), 0, model.vocab_size));
  }
  if (s.has_min_p()) {
    SLIM_RETURN_IF_ERROR(CheckRange("sampling.min_p", s.min_p(), 0.0f, 1.0f));
  }
  if (s.has_repetition_penalty()) {
    SLIM_RETURN_IF_ERROR(
        CheckPositive("sampling.repetition_penalty", s.repetition_penalty(), 2.0f));
  }
  if (s.has_frequency_penalty()) {
    SLIM_RETURN_IF_ERROR(
        CheckRange("sampling.frequency_penalty", s.frequency_penalty(), -2.0f, 2.0f));
  }
  if (s.has_presence_penalty()) {
    SLIM_RETURN_IF_ERROR(
        CheckRange("sampling.presence_penalty", s.presence_penalty(), -2.0f, 2.0f));
  }
  if (s.logit_bias_size() > kMaxLogitBias) {
    return OverLimit("LOGIT_BIAS", "sampling.logit_bias",
                     absl::StrCat(s.logit_bias_size(), " entries"),
                     absl::StrCat("at most ", kMaxLogitBias));
  }
  for (const auto& [id, bias] : s.logit_bias()) {
    SLIM_RETURN_IF_ERROR(CheckTokenId("sampling.logit_bias token id", id, model.vocab_size));
    SLIM_RETURN_IF_ERROR(
        CheckRange(absl::StrCat("sampling.logit_bias[", id, "]"), bias, -100.0f, 100.0f));
  }
  return absl::OkStatus();
}

absl::Status ValidateStopping(const v1::StoppingCriteria& s, const ModelConfig& model) {
  if (s.has_max_tokens()) {
    SLIM_RETURN_IF_ERROR(
        CheckRange<int64_t>("stopping.max_tokens", s.max_tokens(), 1, model.context_tokens - 1));
  }
  if (s.has_min_tokens()) {
    const int64_t high = s.has_max_tokens() ? s.max_tokens() : model.context_tokens - 1;
    SLIM_RETURN_IF_ERROR(CheckRange<int64_t>("stopping.min_tokens", s.min_tokens(), 0, high));
  }
  if (s.stop_strings_size() > kMaxStopStrings) {
    return OverLimit("STOP_STRINGS", "stopping.stop_strings",
                     absl::StrCat(s.stop_strings_size(), " strings"),
                     absl::StrCat("at most ", kMaxStopStrings));
  }
  for (int i = 0; i < s.stop_strings_size(); ++i) {
    const std::string& text = s.stop_strings(i);
    const std::string field = absl::StrCat("stopping.stop_strings[", i, "]");
    if (text.empty() || text.size() > kMaxStopStringBytes) {
      return OverLimit("STOP_STRINGS", field, absl::StrCat(text.size(), " bytes"),
                       absl::StrCat("1 to ", kMaxStopStringBytes, " bytes"));
    }
    SLIM_RETURN_IF_ERROR(CheckUtf8(field, text));
  }
  if (s.stop_token_ids_size() > kMaxStopTokenIds) {
    return OverLimit("STOP_TOKEN_IDS", "stopping.stop_token_ids",
                     absl::StrCat(s.stop_token_ids_size(), " ids"),
                     absl::StrCat("at most ", kMaxStopTokenIds));
  }
  for (int i = 0; i < s.stop_token_ids_size(); ++i) {
    SLIM_RETURN_IF_ERROR(CheckTokenId(absl::StrCat("stopping.stop_token_ids[", i, "]"),
                                      s.stop_token_ids(i), model.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status ValidateResponse(const v1::ResponseOptions& response) {
  if (!response.has_logprobs()) return absl::OkStatus();
  if (response.logprobs() > kMaxTopLogprobs) {
    return OverLimit("LOGPROBS", "response.logprobs", response.logprobs(),
                     absl::StrCat("0 to ", kMaxTopLogprobs));
  }
  return CheckRange("response.logprobs", response.logprobs(), 0, kMaxTopLogprobs);
}

// Tokens that the prompt may have so that `max_tokens` of output fit.
int64_t TruncationRoom(const v1::StoppingCriteria& stopping, int64_t context_tokens) {
  const int64_t wanted = stopping.has_max_tokens()
                             ? stopping.max_tokens()
                             : std::min<int64_t>(kDefaultMaxTokens, context_tokens / 2);
  return context_tokens - wanted;
}

// Keeps the prompt's end (and its begin-of-sequence token), or both ends.
void Truncate(v1::OverflowPolicy policy, int64_t room, const ValidationContext& context,
              std::vector<int32_t>* prompt) {
  const int64_t size = static_cast<int64_t>(prompt->size());
  int64_t head = 0;
  if (policy == v1::TRUNCATE_MIDDLE) {
    head = (room + 1) / 2;
  } else if (context.has_bos && prompt->front() == context.bos_token_id && room > 1) {
    head = 1;
  }
  prompt->erase(prompt->begin() + head, prompt->begin() + head + (size - room));
}

absl::Status ApplyOverflow(const v1::GenerateRequest& request, const ValidationContext& context,
                           std::vector<int32_t>* prompt) {
  const int64_t context_tokens = context.pruning.model->context_tokens;
  const int64_t size = static_cast<int64_t>(prompt->size());
  const v1::StoppingCriteria& stopping = request.stopping();
  const int64_t needed = stopping.has_max_tokens() ? stopping.max_tokens() : 1;
  if (size + needed <= context_tokens) return absl::OkStatus();
  if (request.overflow() == v1::TRUNCATE_LEFT || request.overflow() == v1::TRUNCATE_MIDDLE) {
    Truncate(request.overflow(), TruncationRoom(stopping, context_tokens), context, prompt);
    return absl::OkStatus();
  }
  if (size >= context_tokens) {
    return ErrorWithReason(
        absl::StatusCode::kInvalidArgument, reason::kContextLength,
        absl::StrCat("the prompt has ", size, " tokens, allowed: 1 to ", context_tokens - 1,
                     " (the context holds ", context_tokens, ")"));
  }
  return ErrorWithReason(
      absl::StatusCode::kInvalidArgument, reason::kContextLength,
      absl::StrCat("the prompt's ", size, " tokens and stopping.max_tokens ", needed, " are ",
                   size + needed, " tokens, allowed: at most ", context_tokens, " together"));
}

SamplingParams ConvertSampling(const v1::SamplingParams& s, uint64_t seed) {
  SamplingParams params;
  if (s.has_temperature()) params.temperature = s.temperature();
  if (s.has_top_p()) params.top_p = s.top_p();
  params.top_k = s.top_k();
  params.min_p = s.min_p();
  if (s.has_repetition_penalty()) params.repetition_penalty = s.repetition_penalty();
  params.frequency_penalty = s.frequency_penalty();
  params.presence_penalty = s.presence_penalty();
  for (const auto& [id, bias] : s.logit_bias()) {
    params.logit_bias.emplace_back(static_cast<int32_t>(id), bias);
  }
  // A map has no order of its own; the sum per logit must not depend on it.
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.seed = seed;
  return params;
}

uint64_t RandomWord() {
  thread_local std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

absl::Status FillLengths(const v1::StoppingCriteria& stopping, int64_t context_tokens,
                         SequenceSpec* spec) {
  const int64_t room = context_tokens - static_cast<int64_t>(spec->prompt.size());
  spec->max_new_tokens = stopping.has_max_tokens() ? stopping.max_tokens()
                                                   : std::min<int64_t>(kDefaultMaxTokens, room);
  spec->min_new_tokens = stopping.min_tokens();
  return CheckRange<int64_t>("stopping.min_tokens", spec->min_new_tokens, 0, spec->max_new_tokens);
}

}  // namespace

absl::Status CheckModelName(absl::string_view requested, const ValidationContext& context) {
  if (requested.empty() || requested == context.model_name) return absl::OkStatus();
  return ErrorWithReason(absl::StatusCode::kNotFound, reason::kModel,
                         absl::StrCat("model is \"", absl::CHexEscape(requested.substr(0, 128)),
                                      "\", allowed: empty or \"", context.model_name, "\""));
}

absl::Status CheckRequestId(absl::string_view id) {
  if (id.empty() || id.size() > kMaxRequestIdBytes) {
    return BadField("request_id", absl::StrCat(id.size(), " bytes"),
                    absl::StrCat("at most ", kMaxRequestIdBytes, " bytes"));
  }
  for (size_t i = 0; i < id.size(); ++i) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(id[i]))) {
      return BadField("request_id",
                      absl::StrFormat("byte 0x%02x at %d", static_cast<unsigned char>(id[i]), i),
                      "printable ASCII");
    }
  }
  return absl::OkStatus();
}

std::string DrawRequestId() {
  return absl::StrFormat("gen-%016x%016x", RandomWord(), RandomWord());
}

bool IsValidUtf8(absl::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = p + text.size();
  while (p < end) {
    const unsigned char lead = *p++;
    if (lead < 0x80) continue;
    const int tail = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || end - p < tail) return false;
    // The first tail byte excludes overlong forms, surrogates and values above U+10FFFF.
    const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (*p < low || *p > high) return false;
    for (int i = 1; i < tail; ++i) {
      if ((p[i] & 0xc0) != 0x80) return false;
    }
    p += tail;
  }
  return true;
}

absl::Status ValidateGenerateRequest(const v1::GenerateRequest& request,
                                     const ValidationContext& context) {
  const ModelConfig& model = *context.pruning.model;
  if (!request.request_id().empty()) SLIM_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  SLIM_RETURN_IF_ERROR(CheckModelName(request.model(), context));
  if (!v1::OverflowPolicy_IsValid(request.overflow())) {
    return BadField("overflow", static_cast<int>(request.overflow()),
                    "the values of OverflowPolicy");
  }
  if (request.has_priority()) {
    SLIM_RETURN_IF_ERROR(CheckRange("priority", request.priority(), -100, 100));
  }
  if (request.cache_salt().size() > kMaxCacheSaltBytes) {
    return OverLimit("CACHE_SALT", "cache_salt",
                     absl::StrCat(request.cache_salt().size(), " bytes"),
                     absl::StrCat("at most ", kMaxCacheSaltBytes, " bytes"));
  }
  SLIM_RETURN_IF_ERROR(CheckUtf8("cache_salt", request.cache_salt()));
  SLIM_RETURN_IF_ERROR(ValidateSampling(request.sampling(), model));
  SLIM_RETURN_IF_ERROR(ValidateStopping(request.stopping(), model));
  SLIM_RETURN_IF_ERROR(ValidateResponse(request.response()));
  SLIM_RETURN_IF_ERROR(ValidatePruningOptions(request.pruning(), context.pruning));
  return ValidatePrompt(request, model);
}

absl::StatusOr<Request> BuildRequest(const v1::GenerateRequest& request,
                                     std::vector<int32_t> prompt,
                                     const ValidationContext& context) {
  if (prompt.empty()) {
    return OverLimit("PROMPT", "prompt", "empty", "at least one token");
  }
  SLIM_RETURN_IF_ERROR(ApplyOverflow(request, context, &prompt));
  Request result;
  result.id = request.request_id().empty() ? DrawRequestId() : request.request_id();
  result.priority = request.priority();

  SequenceSpec& spec = result.spec;
  spec.prompt = std::move(prompt);
  SLIM_RETURN_IF_ERROR(
      FillLengths(request.stopping(), context.pruning.model->context_tokens, &spec));
  spec.seed = request.sampling().has_seed() ? request.sampling().seed() : RandomWord();
  spec.sampling = ConvertSampling(request.sampling(), spec.seed);
  spec.top_logprobs = request.response().has_logprobs() ? request.response().logprobs() : -1;
  SLIM_ASSIGN_OR_RETURN(spec.pruning, BuildPruneSchedule(request.pruning(), context.pruning,
                                                         static_cast<int64_t>(spec.prompt.size())));
  spec.report_scores = request.response().pruning_report();
  spec.cache_salt = request.cache_salt();
  spec.bypass_prefix_cache = request.bypass_prefix_cache();

  result.stop.strings.assign(request.stopping().stop_strings().begin(),
                             request.stopping().stop_strings().end());
  result.stop.token_ids.assign(request.stopping().stop_token_ids().begin(),
                               request.stopping().stop_token_ids().end());
  result.stop.ignore_end_tokens = request.stopping().ignore_eos();
  result.stop.include_stop = request.stopping().include_stop();
  const v1::ResponseOptions& response = request.response();
  result.response.text = response.has_text() ? response.text() : true;
  result.response.token_ids = response.token_ids();
  result.response.progress = response.progress();
  result.response.pruning_report = response.pruning_report();
  return result;
}

}  // namespace slim
