// Bearer tokens: which ones are accepted, and the check of one. Only SHA-256 digests are kept, all
// of them are compared in constant time, and no token is ever logged.
// Immutable after Load, hence thread-safe.
#ifndef SERVER_AUTH_H_
#define SERVER_AUTH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

class TokenStore {
 public:
  // Reads a file: one token a line, plain (16 to 4096 printable characters) or as "sha256:" and 64
  // hex digits; empty lines and lines that begin with '#' are skipped. NOT_FOUND when it cannot be
  // read; INVALID_ARGUMENT with path and line, never with the line's text.
  static absl::StatusOr<std::unique_ptr<const TokenStore>> Load(const std::string& path);

  // As Load, from text; `source` is what messages call it.
  static absl::StatusOr<std::unique_ptr<const TokenStore>> Parse(absl::string_view text,
                                                                 absl::string_view source);

  // Checks the value of the `authorization` header. UNAUTHENTICATED with reason AUTH when it is
  // missing, not "Bearer TOKEN", or not a known token.
  absl::Status Check(absl::string_view authorization) const;

  size_t size() const { return digests_.size(); }

 private:
  using Digest = std::array<uint8_t, 32>;
  std::vector<Digest> digests_;
};

}  // namespace slim

#endif  // SERVER_AUTH_H_
