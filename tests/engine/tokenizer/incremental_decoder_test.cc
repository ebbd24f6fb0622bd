#include "engine/tokenizer/incremental_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/base/utf8.h"
#include "tests/engine/tokenizer/random_text.h"

namespace slim {
namespace {

// The definition in plain code: at each place the longest beginning of any valid character; a whole
// one stays, a part (or a byte that begins none) becomes U+FFFD.
bool BeginsCharacter(const std::string& bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  // All that the first two bytes can rule out; the rest must be continuation bytes.
  size_t length = 1;
  if (byte(0) >= 0x80) {
    if (byte(0) < 0xC2 || byte(0) > 0xF4) return false;
    length = byte(0) < 0xE0 ? 2 : byte(0) < 0xF0 ? 3 : 4;
  }
  if (bytes.size() > length) return false;
  for (size_t i = 1; i < bytes.size(); ++i) {
    if ((byte(i) & 0xC0) != 0x80) return false;
  }
  if (bytes.size() < 2) return true;
  const int second = byte(1);
  if (byte(0) == 0xE0 && second < 0xA0) return false;  // overlong
  if (byte(0) == 0xED && second > 0x9F) return false;  // surrogate
  if (byte(0) == 0xF0 && second < 0x90) return false;  // overlong
  if (byte(0) == 0xF4 && second > 0x8F) return false;  // above U+10FFFF
  return true;
}

size_t LengthOf(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

std::string NaiveSanitize(const std::string& bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    size_t n = 0;
    while (n < 4 && at + n < bytes.size() && BeginsCharacter(bytes.substr(at, n + 1))) ++n;
    if (n > 0 && n == LengthOf(static_cast<unsigned char>(bytes[at]))) {
      out += bytes.substr(at, n);
    } else {
      out += "\xEF\xBF\xBD";
    }
    at += n > 0 ? n : 1;
  }
  return out;
}

std::string RandomBytes(std::mt19937* random) {
  static constexpr unsigned char kInteresting[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0,
                                                   0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED,
                                                   0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
  std::string bytes;
  const size_t n = (*random)() % 40;
  while (bytes.size() < n) {
    if ((*random)() % 3 == 0) {
      bytes += RandomText(random, 1);
    } else {
      bytes.push_back(static_cast<char>(kInteresting[(*random)() % sizeof kInteresting]));
    }
  }
  return bytes;
}

TEST(IncrementalDecoderTest, HoldsACharacterBackUntilItIsWhole) {
  IncrementalDecoder decoder;
  EXPECT_EQ(decoder.Add("a\xF0"), "a");
  EXPECT_EQ(decoder.Add("\x9F"), "");
  EXPECT_EQ(decoder.Add("\x98"), "");
  EXPECT_EQ(decoder.Add("\x80z"), "\xF0\x9F\x98\x80z");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(IncrementalDecoderTest, ReplacesWhatCanNeverBecomeACharacter) {
  IncrementalDecoder decoder;
  EXPECT_EQ(decoder.Add("\x80"), kReplacementCharacter);
  EXPECT_EQ(decoder.Add("\xE2\x82"), "");
  EXPECT_EQ(decoder.Add("x"), std::string(kReplacementCharacter) + "x");
  EXPECT_EQ(decoder.Add("\xC3"), "");
  EXPECT_EQ(decoder.Flush(), kReplacementCharacter);
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_EQ(decoder.Add("again"), "again");
}

TEST(IncrementalDecoderTest, AnyCutGivesTheSanitizedWhole) {
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    const std::string bytes = RandomBytes(&random);
    const std::string expected = NaiveSanitize(bytes);
    EXPECT_EQ(SanitizeUtf8(bytes), expected);
    IncrementalDecoder decoder;
    std::string shown;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = random() % 5;
      const std::string text = decoder.Add(absl::string_view(bytes).substr(at, n));
      EXPECT_EQ(FindInvalidUtf8(text), absl::string_view::npos);
      shown += text;
      // Never more than the beginning of one character is missing.
      ASSERT_LE(shown.size(), expected.size());
      at += n;
    }
    shown += decoder.Flush();
    ASSERT_EQ(shown, expected);
  }
}

TEST(Utf8Test, FindsTheFirstInvalidByteWhereverItLies) {
  for (size_t at = 0; at < 40; ++at) {
    std::string text(40, 'a');
    EXPECT_EQ(FindInvalidUtf8(text), absl::string_view::npos);
    text[at] = '\xFF';
    EXPECT_EQ(FindInvalidUtf8(text), at);
  }
  EXPECT_EQ(FindInvalidUtf8("abc\xE2\x82"), 3u);
  EXPECT_EQ(FindInvalidUtf8("\xED\xA0\x80"), 0u);  // a surrogate
  EXPECT_EQ(FindInvalidUtf8("\xC0\x80"), 0u);      // an overlong NUL
  EXPECT_EQ(FindInvalidUtf8(""), absl::string_view::npos);
}

TEST(Utf8Test, DecodesCharactersOfEveryLength) {
  for (const uint32_t c :
       {0x0u, 0x41u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    AppendCodePoint(c, &text);
    EXPECT_EQ(NextUtf8(text).kind, Utf8Step::kValid);
    EXPECT_EQ(NextUtf8(text).length, text.size());
    EXPECT_EQ(DecodeUtf8(text), c);
  }
}

}  // namespace
}  // namespace slim
