// Random valid UTF-8 with every kind of character that pre-tokenizers tell apart.
#ifndef TESTS_ENGINE_TOKENIZER_RANDOM_TEXT_H_
#define TESTS_ENGINE_TOKENIZER_RANDOM_TEXT_H_

#include <cstdint>
#include <random>
#include <string>

namespace slim {

inline void AppendCodePoint(uint32_t c, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

inline std::string RandomText(std::mt19937* random, int characters) {
  static constexpr struct {
    uint32_t low, high;
  } kRanges[] = {{'a', 'z'},       {'a', 'z'},         {'A', 'Z'},       {'0', '9'},
                 {' ', ' '},       {' ', ' '},         {'\n', '\n'},     {0, 0x7F},
                 {0xA0, 0x17F},    {0x300, 0x36F},     {0x400, 0x4FF},   {0x660, 0x669},
                 {0x2000, 0x200F}, {0x4E00, 0x9FFF},   {0xE000, 0xF8FF}, {0x1F600, 0x1F64F},
                 {'\'', '\''},     {0x10000, 0x10FFFF}};
  constexpr size_t kNumRanges = sizeof kRanges / sizeof kRanges[0];
  std::string text;
  for (int i = 0; i < characters; ++i) {
    const auto& range = kRanges[(*random)() % kNumRanges];
    AppendCodePoint(range.low + (*random)() % (range.high - range.low + 1), &text);
  }
  return text;
}

}  // namespace slim

#endif  // TESTS_ENGINE_TOKENIZER_RANDOM_TEXT_H_
