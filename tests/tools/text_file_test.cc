#include "tools/common/text_file.h"

#include <cstdio>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/common/result_json.h"

namespace slim {
namespace {

TEST(ReadTextFileTest, NamesPathAndSizes) {
  EXPECT_EQ(ReadTextFile("/nowhere/x", 10).status().code(), absl::StatusCode::kNotFound);
  const std::string path = testing::TempDir() + "/text_file_test.txt";
  ASSERT_TRUE(WriteTextFile(path, "0123456789").ok());
  EXPECT_EQ(*ReadTextFile(path, 10), "0123456789");
  const auto longer = ReadTextFile(path, 9);
  EXPECT_EQ(longer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(longer.status().message()), testing::HasSubstr("9 bytes"));
  std::remove(path.c_str());
}

TEST(ReadTextFileTest, RefusesADirectory) { EXPECT_FALSE(ReadTextFile("/tmp", 10).ok()); }

TEST(CheckUtf8Test, AcceptsText) {
  EXPECT_TRUE(CheckUtf8("x", "").ok());
  EXPECT_TRUE(CheckUtf8("x", "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80").ok());
}

TEST(CheckUtf8Test, NamesTheOffsetOfTheFirstBadByte) {
  // Lone continuation, overlong, surrogate, beyond U+10FFFF, cut off.
  for (const char* bad : {"ab\x80", "ab\xc0\xaf", "ab\xe0\x80\x80", "ab\xed\xa0\x80",
                          "ab\xf4\x90\x80\x80", "ab\xf0\x9f\x98", "ab\xff", "ab\xc3"}) {
    const absl::Status status = CheckUtf8("the prompt", bad);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.message(), "the prompt is not valid UTF-8 at byte offset 2");
  }
}

TEST(TerminalSafeTest, TakesTheTeethOutOfControlCharacters) {
  EXPECT_EQ(TerminalSafe("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(TerminalSafe("\x1b[31m"), "\uFFFD[31m");
  EXPECT_EQ(TerminalSafe("a\rb\x7f"), "a\uFFFDb\uFFFD");
  EXPECT_EQ(TerminalSafe("\xc2\x9b"
                         "31m"),
            "\uFFFD"
            "31m");
  EXPECT_EQ(TerminalSafe("\xc3\xa9"), "\xc3\xa9");
}

}  // namespace
}  // namespace slim
