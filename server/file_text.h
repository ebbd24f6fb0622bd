// Small text files of the configuration: certificates, tokens. Thread-safe.
#ifndef SERVER_FILE_TEXT_H_
#define SERVER_FILE_TEXT_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

// The whole of a regular file. NOT_FOUND when it cannot be opened, INVALID_ARGUMENT when it is no
// regular file, is empty, or has more than `max_bytes`; each names the path.
absl::StatusOr<std::string> ReadFileText(const std::string& path, size_t max_bytes);

// Replaces the file in one step (a new file, then a rename): a reader never sees half of it.
absl::Status WriteFileText(const std::string& path, absl::string_view text);

}  // namespace slim

#endif  // SERVER_FILE_TEXT_H_
