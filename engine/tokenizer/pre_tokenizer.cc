#include "engine/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/utf8.h"

namespace slim {
namespace {

constexpr char kSmolLm[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";
constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kLlama3[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                           R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                          R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Rule {
  const char* name;
  const char* expression;
  bool whole_piece_first;
};

constexpr Rule kRules[] = {
    {"smollm", kSmolLm, false}, {"gpt-2", kGpt2, false},
    {"gpt2", kGpt2, false},     {"llama-bpe", kLlama3, true},
    {"llama3", kLlama3, true},  {"llama-v3", kLlama3, true},
    {"qwen2", kQwen2, false},   {"deepseek-r1-qwen", kQwen2, false},
};

std::string PcreMessage(int code) {
  PCRE2_UCHAR text[160];
  if (pcre2_get_error_message(code, text, sizeof text) < 0) return absl::StrCat("code ", code);
  return absl::StrCat(reinterpret_cast<const char*>(text), " (code ", code, ")");
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataDeleter>;

}  // namespace

struct PreTokenizer::Compiled {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;

  ~Compiled() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

PreTokenizer::PreTokenizer() : compiled_(std::make_unique<Compiled>()) {}
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(absl::string_view name,
                                                                   bool allow_jit) {
  const Rule* rule = nullptr;
  std::vector<absl::string_view> names;
  for (const Rule& candidate : kRules) {
    names.push_back(candidate.name);
    if (name == candidate.name) rule = &candidate;
  }
  if (rule == nullptr) {
    return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.pre is \"", name,
                                                 "\"; supported: ", absl::StrJoin(names, ", ")));
  }
  auto result = absl::WrapUnique(new PreTokenizer());
  Compiled& compiled = *result->compiled_;
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  compiled.code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rule->expression), PCRE2_ZERO_TERMINATED,
                    PCRE2_UTF | PCRE2_UCP, &error, &error_offset, nullptr);
  if (compiled.code == nullptr) {
    return absl::InternalError(absl::StrCat("expression of pre-tokenizer ", name, ", offset ",
                                            error_offset, ": ", PcreMessage(error)));
  }
  compiled.context = pcre2_match_context_create(nullptr);
  if (compiled.context == nullptr) return absl::ResourceExhaustedError("PCRE2: out of memory");
  // The default limit counts backtracks and is for hostile expressions; ours are fixed and cost a
  // bounded number of steps per byte, but a run of spaces may be as long as the prompt.
  pcre2_set_match_limit(compiled.context, UINT32_MAX);
  pcre2_set_depth_limit(compiled.context, UINT32_MAX);
  // Failure is no error: pcre2_match interprets what has no machine code.
  result->uses_jit_ = allow_jit && pcre2_jit_compile(compiled.code, PCRE2_JIT_COMPLETE) == 0;
  result->whole_piece_first_ = rule->whole_piece_first;
  return result;
}

absl::Status PreTokenizer::Split(absl::string_view text,
                                 absl::FunctionRef<void(absl::string_view)> piece) const {
  if (text.empty()) return absl::OkStatus();
  MatchData match(pcre2_match_data_create(1, nullptr));
  if (match == nullptr) return absl::ResourceExhaustedError("PCRE2: out of memory");
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
  size_t at = 0;
  while (at < text.size()) {
    int rc = pcre2_match(compiled_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, match.get(),
                         compiled_->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      // Machine code has a fixed stack; the interpreter keeps its state on the heap.
      rc = pcre2_match(compiled_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       match.get(), compiled_->context);
    }
    size_t begin = text.size();
    size_t end = text.size();
    if (rc >= 0) {
      begin = bounds[0];
      end = bounds[1];
    } else if (rc != PCRE2_ERROR_NOMATCH) {
      return absl::InternalError(absl::StrCat("pre-tokenizer at byte ", at, ": ", PcreMessage(rc)));
    }
    if (begin > at) piece(text.substr(at, begin - at));
    // The expressions match no empty text; were one to, one character goes on its own.
    if (end == begin && begin < text.size()) end = begin + NextUtf8(text.substr(begin)).length;
    if (end > begin) piece(text.substr(begin, end - begin));
    at = end;
  }
  return absl::OkStatus();
}

}  // namespace slim
