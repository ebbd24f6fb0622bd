#include "server/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "server/file_text.h"
#include "server/status_reason.h"

namespace slim {
namespace {

constexpr size_t kMinTokenBytes = 16;  // 128 bits
constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxFileBytes = 1 << 20;

bool IsHex(absl::string_view text) {
  for (const char c : text) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

bool IsPrintableToken(absl::string_view text) {
  for (const char c : text) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

absl::Status Denied(absl::string_view message) {
  return ErrorWithReason(absl::StatusCode::kUnauthenticated, reason::kAuth, message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<const TokenStore>> TokenStore::Load(const std::string& path) {
  SLIM_ASSIGN_OR_RETURN(const std::string text, ReadFileText(path, kMaxFileBytes));
  return Parse(text, path);
}

absl::StatusOr<std::unique_ptr<const TokenStore>> TokenStore::Parse(absl::string_view text,
                                                                    absl::string_view source) {
  auto store = std::make_unique<TokenStore>();
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    Digest digest;
    if (absl::ConsumePrefix(&line, "sha256:")) {
      if (line.size() != 2 * digest.size() || !IsHex(line)) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, " line ", line_number, ": allowed after sha256: 64 hex digits"));
      }
      const std::string bytes = absl::HexStringToBytes(line);
      std::copy(bytes.begin(), bytes.end(), digest.begin());
    } else {
      if (line.size() < kMinTokenBytes || line.size() > kMaxTokenBytes || !IsPrintableToken(line)) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, " line ", line_number, ": allowed: ", kMinTokenBytes, " to ",
                         kMaxTokenBytes, " printable characters, or sha256: and 64 hex digits"));
      }
      SHA256(reinterpret_cast<const uint8_t*>(line.data()), line.size(), digest.data());
    }
    store->digests_.push_back(digest);
  }
  if (store->digests_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": holds no token"));
  }
  return std::unique_ptr<const TokenStore>(std::move(store));
}

absl::Status TokenStore::Check(absl::string_view authorization) const {
  constexpr size_t kScheme = 7;  // "Bearer "
  if (authorization.empty()) return Denied("metadata authorization is missing");
  if (!absl::StartsWithIgnoreCase(authorization, "bearer ")) {
    return Denied("metadata authorization is not of the form: Bearer TOKEN");
  }
  const absl::string_view token = authorization.substr(kScheme);
  Digest digest;
  SHA256(reinterpret_cast<const uint8_t*>(token.data()), token.size(), digest.data());
  int found = 0;
  for (const Digest& known : digests_) {
    found |= CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0 ? 1 : 0;
  }
  return found != 0 ? absl::OkStatus() : Denied("the token is not known");
}

}  // namespace slim
