// Turns a stream of token bytes into a stream of valid UTF-8: holds back a character until its last
// byte is there, replaces what can never become one by U+FFFD. One object per stream, not
// thread-safe.
#ifndef ENGINE_TOKENIZER_INCREMENTAL_DECODER_H_
#define ENGINE_TOKENIZER_INCREMENTAL_DECODER_H_

#include <string>

#include "absl/strings/string_view.h"

namespace slim {

class IncrementalDecoder {
 public:
  // Appends bytes; returns the text that is complete by now.
  std::string Add(absl::string_view bytes);
  // The end of the stream: an unfinished character becomes one U+FFFD.
  std::string Flush();

 private:
  std::string pending_;  // at most 3 bytes
};

// The whole at once.
std::string SanitizeUtf8(absl::string_view bytes);

}  // namespace slim

#endif  // ENGINE_TOKENIZER_INCREMENTAL_DECODER_H_
