// Reads text that a user names on the command line. Thread-safe.
#ifndef TOOLS_COMMON_TEXT_FILE_H_
#define TOOLS_COMMON_TEXT_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

// The whole file; "-" is the standard input. NOT_FOUND and so on with the path, INVALID_ARGUMENT
// with both sizes when it is longer than `max_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

// INVALID_ARGUMENT with the byte offset of the first byte that is not part of valid UTF-8.
absl::Status CheckUtf8(absl::string_view what, absl::string_view text);

// Text from elsewhere for a terminal: control characters other than newline and tab become
// U+FFFD, so that it cannot move the cursor or change colours.
std::string TerminalSafe(absl::string_view text);

}  // namespace slim

#endif  // TOOLS_COMMON_TEXT_FILE_H_
