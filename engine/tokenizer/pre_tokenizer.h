// Cuts text into the pieces inside which byte-level BPE merges: words, digits, punctuation, spaces.
// The expression is chosen by the name a model file gives (tokenizer.ggml.pre) and run by PCRE2.
// Immutable after Create, hence thread-safe; every Split allocates its own match state on the heap,
// so that it needs little stack and threads share nothing.
#ifndef ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

class PreTokenizer {
 public:
  // UNIMPLEMENTED, with the names there are, for an unknown `name`. Without executable memory (or
  // with allow_jit false) the interpreter of PCRE2 runs the expression: same pieces, slower.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(absl::string_view name,
                                                              bool allow_jit = true);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Calls `piece` for each piece in order; the pieces joined are `text`, none is empty.
  // `text` must be valid UTF-8. INTERNAL if PCRE2 fails, naming its error.
  absl::Status Split(absl::string_view text,
                     absl::FunctionRef<void(absl::string_view)> piece) const;

  // True where a piece that is a token as a whole is that token, whatever the merges would give.
  bool whole_piece_first() const { return whole_piece_first_; }
  bool uses_jit() const { return uses_jit_; }

 private:
  struct Compiled;  // keeps PCRE2's header out of this one

  PreTokenizer();

  std::unique_ptr<Compiled> compiled_;
  bool whole_piece_first_ = false;
  bool uses_jit_ = false;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_PRE_TOKENIZER_H_
