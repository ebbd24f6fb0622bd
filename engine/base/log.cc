#include "engine/base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/utf8.h"

namespace slim {
namespace {

std::atomic<LogFormat> g_format{LogFormat::kText};

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "unknown";
}

// C0, DEL and C1: what a terminal could take for a command.
bool IsControl(uint32_t code_point) {
  return code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0);
}

// Valid UTF-8 whatever the bytes: escapes control characters, quotes and backslashes, replaces what
// does not decode by U+FFFD and leaves the rest as it is.
std::string Escape(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const absl::string_view character = text.substr(0, step.length);
    text.remove_prefix(step.length);
    if (step.kind != Utf8Step::kValid) {
      out += kReplacementCharacter;
    } else if (const uint32_t code_point = DecodeUtf8(character); IsControl(code_point)) {
      absl::StrAppendFormat(&out, "\\u%04x", code_point);
    } else {
      if (character == "\"" || character == "\\") out.push_back('\\');
      absl::StrAppend(&out, character);
    }
  }
  return out;
}

// As in JSON between quotes, or bare where nothing could be misread.
std::string QuotedIfNeeded(absl::string_view text) {
  std::string escaped = Escape(text);
  const bool bare = !text.empty() && escaped == text && !absl::StrContains(text, ' ') &&
                    !absl::StrContains(text, '=');
  return bare ? escaped : absl::StrCat("\"", escaped, "\"");
}

}  // namespace

void SetLogFormat(LogFormat format) { g_format.store(format); }

std::string FormatLogLine(LogFormat format, LogLevel level, absl::string_view timestamp,
                          absl::string_view event, std::initializer_list<LogField> fields) {
  std::string line;
  if (format == LogFormat::kJson) {
    absl::StrAppend(&line, "{\"time\":\"", timestamp, "\",\"level\":\"");
    absl::StrAppend(&line, LevelName(level), "\",\"event\":\"", Escape(event));
    line += '"';
    for (const LogField& field : fields) {
      line += absl::StrCat(",\"", Escape(field.key), "\":\"", Escape(field.value)) + "\"";
    }
    absl::StrAppend(&line, "}\n");
    return line;
  }
  absl::StrAppend(&line, timestamp, " ", LevelName(level), " ", Escape(event));
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", Escape(field.key), "=", QuotedIfNeeded(field.value));
  }
  absl::StrAppend(&line, "\n");
  return line;
}

void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  const std::string now =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const std::string line = FormatLogLine(g_format.load(), level, now, event, fields);
  // One write call per line: lines of different threads never interleave. A full disk loses the
  // line, never the service.
  const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  (void)written;
}

}  // namespace slim
