#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer/pre_tokenizer.h"

#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

struct Expression {
  const char* name;
  const char* pattern;
};

// The expressions that the models' own tokenizers are made of.
constexpr char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// GPT-2's with every digit apart. A run of spaces before a digit keeps its last space.
constexpr char kSmolLm[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr Expression kExpressions[] = {
    {"smollm", kSmolLm},    {"gpt-2", kGpt2},    {"gpt2", kGpt2},
    {"llama-bpe", kLlama3}, {"llama3", kLlama3}, {"qwen2", kQwen2},
};

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(absl::string_view name) {
  for (const Expression& expression : kExpressions) {
    if (name != expression.name) continue;
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.pattern), PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    if (code == nullptr) {
      return absl::InternalError(
          absl::StrCat("pre-tokenizer expression does not compile, error ", error));
    }
    // Where no executable memory can be had the interpreter does the work, only slower.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    return PreTokenizer(
        std::shared_ptr<pcre2_real_code_8>(code, [](pcre2_real_code_8* c) { pcre2_code_free(c); }));
  }
  return absl::UnimplementedError(absl::StrCat(
      "pre-tokenizer '", name, "' is not supported; supported: smollm, gpt-2, llama-bpe, qwen2"));
}

absl::Status PreTokenizer::Split(absl::string_view text,
                                 absl::FunctionRef<void(absl::string_view)> piece) const {
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> match(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  if (match == nullptr) return absl::ResourceExhaustedError("no memory to tokenize");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0;
  while (done < text.size()) {
    // The caller has checked that the text is UTF-8; checking again from every offset would make
    // the whole quadratic.
    const int found = pcre2_match(code_.get(), subject, text.size(), done, PCRE2_NO_UTF_CHECK,
                                  match.get(), nullptr);
    size_t begin = text.size(), end = text.size();
    if (found > 0) {
      const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(match.get());
      begin = offsets[0];
      end = offsets[1];
    } else if (found != PCRE2_ERROR_NOMATCH) {
      return absl::InternalError(absl::StrCat("pre-tokenizer failed with code ", found));
    }
    if (begin > done) piece(text.substr(done, begin - done));  // what no alternative took
    if (end > begin) piece(text.substr(begin, end - begin));
    done = end > done ? end : done + 1;
  }
  return absl::OkStatus();
}

}  // namespace slim
