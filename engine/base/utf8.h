// UTF-8 as Unicode defines it (no overlong forms, no surrogates, up to U+10FFFF). Pure functions.
#ifndef ENGINE_BASE_UTF8_H_
#define ENGINE_BASE_UTF8_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace slim {

inline constexpr char kReplacementCharacter[] = "\xEF\xBF\xBD";  // U+FFFD

// What the bytes at the start of `text` are.
struct Utf8Step {
  enum Kind { kValid, kInvalid, kIncomplete } kind = kValid;
  size_t length =
      0;  // of the character, of the bytes to replace by one U+FFFD, or of what is there
};

// The code point of a whole valid character, and of nothing else.
uint32_t DecodeUtf8(absl::string_view character);

// `text` is not empty. kIncomplete: the text ends inside a character that could still become valid.
Utf8Step NextUtf8(absl::string_view text);

// Offset of the first byte that is not part of a valid character, or npos.
size_t FindInvalidUtf8(absl::string_view text);

}  // namespace slim

#endif  // ENGINE_BASE_UTF8_H_
