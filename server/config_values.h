// The words of the configuration: durations, sizes, switches, addresses. Thread-safe (pure
// functions). Each parser answers INVALID_ARGUMENT with the text seen and the form that is wanted.
#ifndef SERVER_CONFIG_VALUES_H_
#define SERVER_CONFIG_VALUES_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace slim {

// "10s", "500ms", "1h30m", "0s": finite and not negative.
absl::StatusOr<absl::Duration> ParseDurationText(absl::string_view text);
// "4GiB", "512MiB", "64KiB", "2GB", "1048576": bytes, not negative. Fractions are allowed before a
// unit ("1.5MiB").
absl::StatusOr<int64_t> ParseBytesText(absl::string_view text);
std::string FormatBytes(int64_t bytes);  // the largest binary unit that divides it
absl::StatusOr<bool> ParseSwitchText(absl::string_view text);
absl::StatusOr<int64_t> ParseIntegerText(absl::string_view text);

// Where to listen: "127.0.0.1:50051", "[::1]:50051", "localhost:0", "0.0.0.0:50051" or
// "unix:/path".
struct ListenAddress {
  std::string host;  // without brackets; empty for a unix socket
  int port = 0;      // 0: the system chooses
  std::string unix_path;

  bool is_unix() const { return !unix_path.empty(); }
  bool is_wildcard() const { return !is_unix() && (host == "0.0.0.0" || host == "::"); }
  bool is_loopback() const;
  std::string text() const;
};
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text);

}  // namespace slim

#endif  // SERVER_CONFIG_VALUES_H_
