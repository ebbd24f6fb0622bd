#include "engine/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace slim {
namespace {

constexpr absl::string_view kTime = "2026-01-02T03:04:05.678Z";

std::string TextLine(absl::string_view value) {
  return FormatLogLine(LogFormat::kText, LogLevel::kInfo, kTime, "event", {{"key", value}});
}

std::string JsonLine(absl::string_view value) {
  return FormatLogLine(LogFormat::kJson, LogLevel::kInfo, kTime, "event", {{"key", value}});
}

// Valid UTF-8 (by the JSON library's judgement, not ours) without a control character, C1 included,
// but the line end at the end.
void ExpectOneSafeLine(const std::string& line) {
  ASSERT_FALSE(line.empty());
  EXPECT_EQ(line.back(), '\n');
  EXPECT_NO_THROW(nlohmann::json(line).dump());
  for (size_t i = 0; i + 1 < line.size(); ++i) {
    const auto byte = static_cast<unsigned char>(line[i]);
    EXPECT_TRUE(byte >= 0x20 && byte != 0x7f) << "byte " << int{byte} << " at " << i;
    const auto next = static_cast<unsigned char>(line[i + 1]);
    EXPECT_FALSE(byte == 0xc2 && next < 0xa0) << "U+00" << int{next} << " at " << i;
  }
}

// The value as a reader of the JSON line gets it.
std::string Read(absl::string_view value) {
  const std::string line = JsonLine(value);
  ExpectOneSafeLine(line);
  ExpectOneSafeLine(TextLine(value));
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  EXPECT_TRUE(json.is_object()) << line;
  return json.is_object() ? json["key"].get<std::string>() : "";
}

TEST(LogTest, TextLineHasTimeLevelEventAndFields) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kInfo, kTime, "loaded",
                          {{"path", "/m.gguf"}, {"seconds", 0.25}, {"layers", 30}}),
            "2026-01-02T03:04:05.678Z info loaded path=/m.gguf seconds=0.25 layers=30\n");
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kWarning, kTime, "slow", {}),
            "2026-01-02T03:04:05.678Z warning slow\n");
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kError, kTime, "failed", {}),
            "2026-01-02T03:04:05.678Z error failed\n");
}

TEST(LogTest, JsonLineIsOneObject) {
  const std::string line = FormatLogLine(LogFormat::kJson, LogLevel::kError, kTime, "failed",
                                         {{"reason", "say \"no\" \\ \n"}, {"count", 3}});
  ExpectOneSafeLine(line);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["time"], std::string(kTime));
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["event"], "failed");
  EXPECT_EQ(json["reason"], "say \"no\" \\ \n");
  EXPECT_EQ(json["count"], "3");
}

TEST(LogTest, TextValuesThatCouldBeMisreadAreQuoted) {
  EXPECT_EQ(TextLine(""), std::string(kTime) + " info event key=\"\"\n");
  EXPECT_EQ(TextLine("a b"), std::string(kTime) + " info event key=\"a b\"\n");
  EXPECT_EQ(TextLine("a=b"), std::string(kTime) + " info event key=\"a=b\"\n");
  EXPECT_EQ(TextLine("a\"b\\c"), std::string(kTime) + " info event key=\"a\\\"b\\\\c\"\n");
}

TEST(LogTest, ControlCharactersNeverLeaveTheLine) {
  for (int byte = 0; byte < 0x80; ++byte) {
    const std::string value = {'a', static_cast<char>(byte), 'b'};
    ExpectOneSafeLine(TextLine(value));
    ExpectOneSafeLine(JsonLine(value));
    EXPECT_EQ(nlohmann::json::parse(JsonLine(value))["key"], value) << byte;
  }
}

TEST(LogTest, InjectedLinesAndColoursAreVisibleAsText) {
  const std::string attack = "id\r\n2026-01-01 info login user=root \x1b[31m";
  EXPECT_THAT(TextLine(attack), testing::HasSubstr("id\\u000d\\u000a2026"));
  EXPECT_THAT(TextLine(attack), testing::HasSubstr("\\u001b[31m"));
  ExpectOneSafeLine(TextLine(attack));
  ExpectOneSafeLine(JsonLine(attack));
}

TEST(LogTest, EventsAndKeysAreEscapedToo) {
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    ExpectOneSafeLine(
        FormatLogLine(format, LogLevel::kInfo, kTime, "ev\nent", {{"k\ney", "value"}}));
  }
}

TEST(LogTest, Utf8StaysReadable) {
  EXPECT_THAT(TextLine("gr\xc3\xbc\xc3\x9f"), testing::HasSubstr("key=gr\xc3\xbc\xc3\x9f\n"));
  EXPECT_EQ(nlohmann::json::parse(JsonLine("gr\xc3\xbc\xc3\x9f"))["key"], "gr\xc3\xbc\xc3\x9f");
}

TEST(LogTest, EverySingleByteGivesAValidLine) {
  for (int byte = 0; byte < 0x100; ++byte) {
    const std::string value(1, static_cast<char>(byte));
    EXPECT_EQ(Read(value), byte < 0x80 ? value : "\xef\xbf\xbd") << byte;
  }
}

TEST(LogTest, EveryByteBeforeEveryKindOfByteGivesAValidLine) {
  for (int first = 0; first < 0x100; ++first) {
    for (const char second : std::string("\n\"\\z\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xff")) {
      Read(std::string{static_cast<char>(first), second});
    }
  }
}

TEST(LogTest, ControlsAboveAsciiAreEscapedAndStayReadable) {
  for (int low = 0x80; low < 0xa0; ++low) {
    const std::string value = {'a', '\xc2', static_cast<char>(low), 'b'};
    EXPECT_EQ(Read(value), value) << low;
  }
  EXPECT_THAT(JsonLine("\xc2\x9b[31m"), testing::HasSubstr("\\u009b[31m"));
  EXPECT_THAT(TextLine("a\xc2\x85z"), testing::HasSubstr("key=\"a\\u0085z\""));
  EXPECT_EQ(Read("\xc2\xa0"), "\xc2\xa0");  // the first one that is no control
}

TEST(LogTest, WhatIsNoUtf8BecomesTheReplacementCharacter) {
  const std::string r = "\xef\xbf\xbd";
  const std::vector<std::pair<std::string, std::string>> cases = {
      // Cut short, at the end and before another character: one for what could have been.
      {"a\xc3", "a" + r},
      {"a\xe2\x82", "a" + r},
      {"a\xf0\x9f\x98", "a" + r},
      {"\xc3z", r + "z"},
      {"\xe2\x82z", r + "z"},
      {"\xf0\x9f\x98\"", r + "\""},
      {"\xe2\x82\xc3\xbc", r + "\xc3\xbc"},
      // Overlong forms of '/', of a quote, of a line end and of U+0000.
      {"\xc0\xaf", r + r},
      {"\xc0\xa2", r + r},
      {"\xe0\x80\x8a", r + r + r},
      {"\xf0\x80\x80\x80", r + r + r + r},
      // Surrogates, above U+10FFFF, lonely continuations, bytes that are never used.
      {"\xed\xa0\x80", r + r + r},
      {"\xed\xbf\xbf", r + r + r},
      {"\xf4\x90\x80\x80", r + r + r + r},
      {"\x80\xbf", r + r},
      {"\xfe\xff", r + r},
      // Just inside of those limits.
      {"\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf", "\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf"},
  };
  for (const auto& [value, expected] : cases) EXPECT_EQ(Read(value), expected);
  // A cut character cannot swallow the quote that ends the value.
  EXPECT_EQ(TextLine("\xc3"), std::string(kTime) + " info event key=\"" + r + "\"\n");
}

TEST(LogTest, RandomBytesInEveryPlaceGiveAValidLine) {
  std::mt19937 random(20260102);
  const auto bytes = [&random] {
    std::string text(random() % 24, ' ');
    for (char& c : text) c = static_cast<char>(random());
    return text;
  };
  for (int i = 0; i < 2000; ++i) {
    const std::string event = bytes(), key = bytes(), value = bytes();
    const std::string line =
        FormatLogLine(LogFormat::kJson, LogLevel::kInfo, kTime, event, {{key, value}});
    ExpectOneSafeLine(line);
    EXPECT_TRUE(nlohmann::json::accept(line)) << line;
    ExpectOneSafeLine(
        FormatLogLine(LogFormat::kText, LogLevel::kInfo, kTime, event, {{key, value}}));
  }
}

TEST(LogTest, WritesOneLineToStderrInTheChosenFormat) {
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "first", {{"n", 1}});
  SetLogFormat(LogFormat::kJson);
  Log(LogLevel::kInfo, "second", {{"n", 2}});
  SetLogFormat(LogFormat::kText);
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_THAT(written, testing::MatchesRegex("[0-9TZ:.-]+ info first n=1\n\\{.*\"second\".*\\}\n"));
}

TEST(LogTest, LinesOfSeveralThreadsStayWhole) {
  constexpr int kThreads = 4;
  constexpr int kLines = 200;
  testing::internal::CaptureStderr();
  SetLogFormat(LogFormat::kJson);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < kLines; ++i) Log(LogLevel::kInfo, "line", {{"t", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  SetLogFormat(LogFormat::kText);
  const std::string written = testing::internal::GetCapturedStderr();
  const std::vector<std::string> lines = absl::StrSplit(written, '\n', absl::SkipEmpty());
  EXPECT_EQ(lines.size(), static_cast<size_t>(kThreads * kLines));
  for (const std::string& line : lines) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
}

}  // namespace
}  // namespace slim
