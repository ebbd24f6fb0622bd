// Structured one-line logging to stderr, as text or as JSON. Thread-safe.
// Values are escaped, so a client-supplied string can never start a new line or colour a terminal,
// and a line is valid UTF-8 whatever bytes are in them: what does not decode becomes U+FFFD.
// Prompt and output text are never logged; that is the caller's duty.
#ifndef ENGINE_BASE_LOG_H_
#define ENGINE_BASE_LOG_H_

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace slim {

enum class LogFormat { kText, kJson };
enum class LogLevel { kInfo, kWarning, kError };

// Sets the process-wide format; called once by main before any thread starts.
void SetLogFormat(LogFormat format);

// A key and a value, the value rendered once at the call.
struct LogField {
  LogField(absl::string_view k, const absl::AlphaNum& v) : key(k), value(v.Piece()) {}
  std::string key;
  std::string value;
};

// Writes one line: time (UTC), level, event name, fields.
// Example: Log(LogLevel::kInfo, "model_loaded", {{"path", path}, {"seconds", seconds}});
void Log(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields = {});

// Renders the line without writing it (used by Log, visible for tests).
std::string FormatLogLine(LogFormat format, LogLevel level, absl::string_view timestamp,
                          absl::string_view event, std::initializer_list<LogField> fields);

}  // namespace slim

#endif  // ENGINE_BASE_LOG_H_
