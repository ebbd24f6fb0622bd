#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/auth.h"
#include "server/file_text.h"
#include "server/status_reason.h"
#include "server/tls.h"
#include "tests/server/test_certificates.h"

namespace slim {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kToken[] = "correct-horse-battery-staple";
// printf %s correct-horse-battery-staple | sha256sum
constexpr char kTokenDigest[] =
    "sha256:87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590";

TEST(TokenStoreTest, AcceptsPlainTokensAndDigests) {
  for (const char* line : {kToken, kTokenDigest}) {
    const auto store = TokenStore::Parse(std::string("# ours\n\n  ") + line + "\r\n", "tokens");
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->size(), 1u);
    EXPECT_TRUE((*store)->Check(std::string("Bearer ") + kToken).ok());
    EXPECT_TRUE((*store)->Check(std::string("bearer ") + kToken).ok());
  }
}

TEST(TokenStoreTest, RefusesEverythingElse) {
  const auto store = TokenStore::Parse(kToken, "tokens");
  ASSERT_TRUE(store.ok()) << store.status();
  for (const std::string& header :
       {std::string(), std::string("Bearer"), std::string("Bearer "), std::string(kToken),
        std::string("Basic ") + kToken, std::string("Bearer ") + kToken + "x",
        std::string("Bearer  ") + kToken, "Bearer " + std::string(8192, 'a'),
        std::string("Bearer ") + kTokenDigest}) {
    const absl::Status status = (*store)->Check(header);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << header.substr(0, 40);
    EXPECT_EQ(ReasonOf(status), "AUTH");
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("staple")));
  }
}

TEST(TokenStoreTest, BadFilesNameTheLineAndNeverTheToken) {
  for (const char* text :
       {"short", "sha256:1234", "good-token-0123456789\nwith space in it here",
        "# only a comment\n", "",
        "sha256:zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"}) {
    const auto store = TokenStore::Parse(text, "tokens");
    ASSERT_FALSE(store.ok()) << text;
    EXPECT_THAT(std::string(store.status().message()), HasSubstr("tokens"));
    EXPECT_THAT(std::string(store.status().message()), Not(HasSubstr("in it")));
  }
  EXPECT_EQ(TokenStore::Load("/no/such/file").status().code(), absl::StatusCode::kNotFound);
}

class TlsTest : public ::testing::Test {
 protected:
  static std::string Write(const std::string& name, const std::string& text) {
    const std::string path = ::testing::TempDir() + "/" + name;
    EXPECT_TRUE(WriteFileText(path, text).ok());
    return path;
  }
  static void ExpectRefused(const std::string& certificate, const std::string& key,
                            const std::string& authority, const std::string& message) {
    const auto material = LoadTlsMaterial(certificate, key, authority);
    ASSERT_FALSE(material.ok());
    EXPECT_THAT(std::string(material.status().message()), HasSubstr(message));
  }
};

TEST_F(TlsTest, GoodPairLoads) {
  const TestCertificate good = MakeTestCertificate();
  const std::string certificate = Write("good.pem", good.certificate_pem);
  const std::string key = Write("good.key", good.key_pem);
  const auto material = LoadTlsMaterial(certificate, key, certificate);
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_EQ(material->certificate_chain, good.certificate_pem);
  EXPECT_EQ(material->client_ca, good.certificate_pem);
}

TEST_F(TlsTest, EachBadFileIsNamed) {
  const TestCertificate good = MakeTestCertificate();
  const TestCertificate other = MakeTestCertificate();
  const TestCertificate expired = MakeTestCertificate(-7200, -3600);
  const TestCertificate future = MakeTestCertificate(3600, 7200);
  const std::string certificate = Write("c.pem", good.certificate_pem);
  const std::string key = Write("k.key", good.key_pem);
  const std::string empty = Write("empty.pem", "");
  const std::string garbage = Write("garbage.pem", "-----BEGIN CERTIFICATE-----\n!!\n");
  const std::string half =
      Write("half.pem", good.certificate_pem.substr(0, good.certificate_pem.size() / 2));
  ExpectRefused("/no/such.pem", key, "", "/no/such.pem");
  ExpectRefused(certificate, "/no/such.key", "", "/no/such.key");
  ExpectRefused(::testing::TempDir(), key, "", "not a regular file");
  ExpectRefused(empty, key, "", "empty.pem");
  ExpectRefused(garbage, key, "", "garbage.pem");
  ExpectRefused(half, key, "", "half.pem");
  ExpectRefused(certificate, empty, "", "empty.pem");
  ExpectRefused(certificate, certificate, "", "private key");
  ExpectRefused(certificate, Write("other.key", other.key_pem), "", "is not the key");
  ExpectRefused(Write("old.pem", expired.certificate_pem), Write("old.key", expired.key_pem), "",
                "expired");
  ExpectRefused(Write("new.pem", future.certificate_pem), Write("new.key", future.key_pem), "",
                "not valid yet");
  ExpectRefused(certificate, key, garbage, "garbage.pem");
  ExpectRefused(Write("chain.pem", good.certificate_pem + "-----BEGIN CERTIFICATE-----\nAAAA\n"
                                                          "-----END CERTIFICATE-----\n"),
                key, "", "does not parse");
}

}  // namespace
}  // namespace slim
