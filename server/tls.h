// Certificates and keys, checked before gRPC sees them: the library's own messages do not say which
// file is wrong, and some bad files end the process. Thread-safe (pure functions).
#ifndef SERVER_TLS_H_
#define SERVER_TLS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

// PEM texts.
struct TlsMaterial {
  std::string certificate_chain;
  std::string private_key;
  std::string client_ca;  // empty: clients need no certificate
};

// Reads and checks the files; `client_ca_path` may be empty. NOT_FOUND for a file that cannot be
// read; INVALID_ARGUMENT naming the file for what does not parse, a key that does not belong to the
// certificate, or a certificate that is expired or not valid yet.
absl::StatusOr<TlsMaterial> LoadTlsMaterial(const std::string& certificate_path,
                                            const std::string& key_path,
                                            const std::string& client_ca_path);

// The check alone. The names are what messages call the texts.
absl::Status CheckTlsMaterial(const TlsMaterial& material, absl::string_view certificate_name,
                              absl::string_view key_name, absl::string_view client_ca_name);

}  // namespace slim

#endif  // SERVER_TLS_H_
