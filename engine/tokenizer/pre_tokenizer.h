// Cuts text into the pieces that byte-level BPE works on, by the regular expression that the
// model's metadata names. Thread-safe after Create.
#ifndef ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;

namespace slim {

class PreTokenizer {
 public:
  // `name` as in tokenizer.ggml.pre: smollm, gpt-2, llama-bpe (llama3), qwen2. UNIMPLEMENTED names
  // an unknown one and those that are known.
  static absl::StatusOr<PreTokenizer> Create(absl::string_view name);

  // Calls `piece` for each piece of valid UTF-8 `text` in order; together they are the text.
  // INTERNAL when the matcher fails.
  absl::Status Split(absl::string_view text,
                     absl::FunctionRef<void(absl::string_view piece)> piece) const;

 private:
  explicit PreTokenizer(std::shared_ptr<pcre2_real_code_8> code) : code_(std::move(code)) {}

  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_PRE_TOKENIZER_H_
