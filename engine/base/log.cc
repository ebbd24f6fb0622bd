#include "engine/base/log.h"

#include <unistd.h>

#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

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

// Escapes control characters, quotes and backslashes; leaves UTF-8 as it is.
std::string Escape(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", byte);
    } else {
      out.push_back(c);
    }
  }
  return out;
}

bool NeedsQuotes(absl::string_view text) {
  if (text.empty()) return true;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte == 0x7f || c == '"' || c == '\\' || c == '=') return true;
  }
  return false;
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
    absl::StrAppend(&line, " ", Escape(field.key), "=");
    if (NeedsQuotes(field.value)) {
      absl::StrAppend(&line, "\"", Escape(field.value), "\"");
    } else {
      absl::StrAppend(&line, field.value);
    }
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
