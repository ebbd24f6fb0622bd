#include "engine/base/utf8.h"

#include <cstring>

#include "engine/base/check.h"

namespace slim {

Utf8Step NextUtf8(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {Utf8Step::kValid, 1};
  size_t length;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {Utf8Step::kInvalid, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Step::kIncomplete, i};
    if (byte(i) < low || byte(i) > high) return {Utf8Step::kInvalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::kValid, length};
}

uint32_t DecodeUtf8(absl::string_view character) {
  const auto byte = [&](size_t i) -> uint32_t { return static_cast<unsigned char>(character[i]); };
  const auto tail = [&](size_t i) { return byte(i) & 0x3Fu; };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1Fu) << 6 | tail(1);
    case 3:
      return (byte(0) & 0x0Fu) << 12 | tail(1) << 6 | tail(2);
    case 4:
      return (byte(0) & 0x07u) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
  }
  SLIM_CHECK(false);
  return 0;
}

size_t FindInvalidUtf8(absl::string_view text) {
  size_t done = 0;
  while (done < text.size()) {
    // Eight ASCII bytes at once: most text is nothing else.
    uint64_t word;
    if (text.size() - done >= sizeof word) {
      std::memcpy(&word, text.data() + done, sizeof word);
      if ((word & 0x8080808080808080u) == 0) {
        done += sizeof word;
        continue;
      }
    }
    const Utf8Step step = NextUtf8(text.substr(done));
    if (step.kind != Utf8Step::kValid) return done;
    done += step.length;
  }
  return absl::string_view::npos;
}

}  // namespace slim
