#include "engine/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

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

// No control character but the line end at the end.
void ExpectOneSafeLine(const std::string& line) {
  ASSERT_FALSE(line.empty());
  EXPECT_EQ(line.back(), '\n');
  for (size_t i = 0; i + 1 < line.size(); ++i) {
    const auto byte = static_cast<unsigned char>(line[i]);
    EXPECT_TRUE(byte >= 0x20 && byte != 0x7f) << "byte " << int{byte} << " at " << i;
  }
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

TEST(LogTest, WritesOneLineToStderrInTheChosenFormat) {
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "first", {{"n", 1}});
  SetLogFormat(LogFormat::kJson);
  Log(LogLevel::kInfo, "second", {{"n", 2}});
  SetLogFormat(LogFormat::kText);
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_THAT(written, testing::MatchesRegex("[0-9TZ:.-]+ info first n=1\n\\{.*\"second\".*\\}\n"));
}

}  // namespace
}  // namespace slim
