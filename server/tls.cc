#include "server/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/file_text.h"

namespace slim {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

Bio OpenText(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free);
}

// An encrypted key must not ask on the terminal.
int NoPassword(char*, int, int, void*) { return 0; }

absl::Status CheckDates(const X509& certificate, absl::string_view name) {
  if (X509_cmp_current_time(X509_get0_notAfter(&certificate)) < 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the certificate is expired"));
  }
  if (X509_cmp_current_time(X509_get0_notBefore(&certificate)) > 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the certificate is not valid yet"));
  }
  return absl::OkStatus();
}

// The first certificate of a PEM text; checks that the others parse too.
absl::StatusOr<Certificate> ReadCertificates(const std::string& pem, absl::string_view name) {
  const Bio bio = OpenText(pem);
  Certificate first(PEM_read_bio_X509(bio.get(), nullptr, &NoPassword, nullptr), &X509_free);
  if (first == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds no PEM certificate"));
  }
  ERR_clear_error();
  for (;;) {
    const Certificate next(PEM_read_bio_X509(bio.get(), nullptr, &NoPassword, nullptr), &X509_free);
    if (next != nullptr) continue;
    const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    if (at_end) return first;
    return absl::InvalidArgumentError(absl::StrCat(name, ": a certificate does not parse"));
  }
}

}  // namespace

absl::Status CheckTlsMaterial(const TlsMaterial& material, absl::string_view certificate_name,
                              absl::string_view key_name, absl::string_view client_ca_name) {
  SLIM_ASSIGN_OR_RETURN(const Certificate certificate,
                        ReadCertificates(material.certificate_chain, certificate_name));
  SLIM_RETURN_IF_ERROR(CheckDates(*certificate, certificate_name));
  const Bio bio = OpenText(material.private_key);
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassword, nullptr), &EVP_PKEY_free);
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_name, ": holds no PEM private key without password"));
  }
  const bool belongs = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!belongs) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_name, ": is not the key of the certificate in ", certificate_name));
  }
  if (material.client_ca.empty()) return absl::OkStatus();
  SLIM_ASSIGN_OR_RETURN(const Certificate authority,
                        ReadCertificates(material.client_ca, client_ca_name));
  return CheckDates(*authority, client_ca_name);
}

absl::StatusOr<TlsMaterial> LoadTlsMaterial(const std::string& certificate_path,
                                            const std::string& key_path,
                                            const std::string& client_ca_path) {
  TlsMaterial material;
  SLIM_ASSIGN_OR_RETURN(material.certificate_chain, ReadFileText(certificate_path, kMaxPemBytes));
  SLIM_ASSIGN_OR_RETURN(material.private_key, ReadFileText(key_path, kMaxPemBytes));
  if (!client_ca_path.empty()) {
    SLIM_ASSIGN_OR_RETURN(material.client_ca, ReadFileText(client_ca_path, kMaxPemBytes));
  }
  SLIM_RETURN_IF_ERROR(CheckTlsMaterial(material, certificate_path, key_path, client_ca_path));
  return material;
}

}  // namespace slim
