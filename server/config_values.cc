#include "server/config_values.h"

#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace slim {
namespace {

struct ByteUnit {
  const char* name;
  int64_t bytes;
};
// Longest suffix first, so that "GiB" is not read as "B".
constexpr ByteUnit kByteUnits[] = {
    {"TiB", int64_t{1} << 40},
    {"GiB", int64_t{1} << 30},
    {"MiB", int64_t{1} << 20},
    {"KiB", int64_t{1} << 10},
    {"TB", 1000000000000},
    {"GB", 1000000000},
    {"MB", 1000000},
    {"kB", 1000},
    {"B", 1},
};

}  // namespace

absl::StatusOr<absl::Duration> ParseDurationText(absl::string_view text) {
  absl::Duration duration;
  const bool bare_number = !text.empty() && absl::ascii_isdigit(text.back()) && text != "0";
  if (bare_number || !absl::ParseDuration(std::string(text), &duration) ||
      duration < absl::ZeroDuration() || duration == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a duration such as 10s, 500ms or 1h30m"));
  }
  return duration;
}

absl::StatusOr<int64_t> ParseBytesText(absl::string_view text) {
  const absl::Status error = absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a size such as 4GiB, 512MiB or 1048576"));
  int64_t unit = 1;
  absl::string_view number = absl::StripAsciiWhitespace(text);
  for (const ByteUnit& candidate : kByteUnits) {
    if (absl::ConsumeSuffix(&number, candidate.name)) {
      unit = candidate.bytes;
      break;
    }
  }
  number = absl::StripAsciiWhitespace(number);
  if (number.empty() || !absl::ascii_isdigit(number.front())) return error;
  int64_t whole = 0;
  if (absl::SimpleAtoi(number, &whole)) {
    if (whole > std::numeric_limits<int64_t>::max() / unit) return error;
    return whole * unit;
  }
  double fraction = 0;
  if (unit == 1 || !absl::SimpleAtod(number, &fraction)) return error;
  const double bytes = fraction * static_cast<double>(unit);
  if (!(bytes >= 0 && bytes <= 9e18)) return error;
  return static_cast<int64_t>(std::llround(bytes));
}

std::string FormatBytes(int64_t bytes) {
  for (int i = 0; i < 4; ++i) {
    if (bytes != 0 && bytes % kByteUnits[i].bytes == 0) {
      return absl::StrCat(bytes / kByteUnits[i].bytes, kByteUnits[i].name);
    }
  }
  return absl::StrCat(bytes);
}

absl::StatusOr<bool> ParseSwitchText(absl::string_view text) {
  if (text == "true" || text == "on" || text == "yes" || text == "1") return true;
  if (text == "false" || text == "off" || text == "no" || text == "0") return false;
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is neither true nor false"));
}

absl::StatusOr<int64_t> ParseIntegerText(absl::string_view text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not an integer"));
  }
  return value;
}

bool ListenAddress::is_loopback() const {
  return is_unix() || host == "localhost" || host == "::1" || absl::StartsWith(host, "127.");
}

std::string ListenAddress::text() const {
  if (is_unix()) return absl::StrCat("unix:", unix_path);
  if (absl::StrContains(host, ":")) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text) {
  const absl::Status error = absl::InvalidArgumentError(absl::StrCat(
      "\"", text, "\" is not an address such as 127.0.0.1:50051, [::1]:50051 or unix:/path"));
  ListenAddress address;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    // sockaddr_un holds 107 bytes and the final zero.
    if (rest.empty() || rest.size() > 107) return error;
    address.unix_path = std::string(rest);
    return address;
  }
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return error;
  absl::string_view host = rest.substr(0, colon);
  const absl::string_view port = rest.substr(colon + 1);
  if (absl::ConsumePrefix(&host, "[")) {
    if (!absl::ConsumeSuffix(&host, "]")) return error;
  } else if (absl::StrContains(host, ":")) {
    return error;  // IPv6 needs brackets, or the port would be ambiguous
  }
  if (host.empty() || port.empty() || port.size() > 5) return error;
  for (const char c : host) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '-' && c != ':' && c != '%') return error;
  }
  if (!absl::ascii_isdigit(port.front()) || !absl::SimpleAtoi(port, &address.port) ||
      address.port > 65535) {
    return error;
  }
  address.host = std::string(host);
  return address;
}

}  // namespace slim
