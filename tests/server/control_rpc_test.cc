// Everything beside generation: control, tokens, health, reflection, TLS, bearer tokens, limits.
#include <string>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/server/grpc_harness.h"
#include "tests/server/test_certificates.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace v1 = sliminfer::v1;

// A call of a method whose messages this test does not have, as raw bytes; answers the bytes.
grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& bytes, std::string* answer) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, method, {}, &request, &response, [&](grpc::Status result) {
    status = std::move(result);
    done.Notify();
  });
  done.WaitForNotification();
  grpc::Slice single;
  if (status.ok() && response.TrySingleSlice(&single).ok()) {
    answer->assign(reinterpret_cast<const char*>(single.begin()), single.size());
  }
  return status;
}

constexpr char kHealthCheck[] = "/grpc.health.v1.Health/Check";
// HealthCheckRequest { service = name }; HealthCheckResponse { status } is "\x08" and the status.
std::string HealthRequest(const std::string& name) {
  return name.empty() ? "" : std::string("\x0a") + static_cast<char>(name.size()) + name;
}
const std::string kServing("\x08\x01");
const std::string kNotServing("\x08\x02");

TEST(ControlRpcTest, InfoAndLoadComeFromTheEngineAndTheWorker) {
  GrpcHarness harness({});
  WorkerStats stats;
  stats.running_requests = 2;
  stats.accepting = true;
  stats.healthy = true;
  stats.engine.kv.device.total_slabs = 10;
  stats.engine.kv.device.used_slabs = 5;
  harness.worker.set_stats(stats);
  v1::GetServerInfoResponse server;
  v1::GetModelInfoResponse model;
  v1::GetLoadResponse load;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(harness.controls->GetServerInfo(&context, {}, &server).ok());
  }
  EXPECT_EQ(server.backend(), "cpu");
  EXPECT_EQ(server.version(), "0.1.0");
  {
    grpc::ClientContext context;
    ASSERT_TRUE(harness.controls->GetModelInfo(&context, {}, &model).ok());
  }
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.context_tokens(), 4096);
  EXPECT_EQ(model.kv_bytes_per_token(), 1536);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(harness.controls->GetLoad(&context, {}, &load).ok());
  }
  EXPECT_EQ(load.running_requests(), 2);
  EXPECT_EQ(load.kv_cache_usage_ratio(), 0.5);
  EXPECT_TRUE(load.accepting());
  grpc::ClientContext context;
  v1::GetModelInfoRequest other;
  other.set_model("gpt");
  const grpc::Status status = harness.controls->GetModelInfo(&context, other, &model);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(TrailingReason(context), "MODEL");
}

TEST(ControlRpcTest, AbortStopsWhatRunsAndNamesIt) {
  GrpcHarness harness({});
  v1::GenerateRequest request;
  request.set_text("x");
  request.set_request_id("victim");
  grpc::ClientContext stream_context;
  const auto reader = harness.inference->Generate(&stream_context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  grpc::ClientContext context;
  v1::AbortRequest abort;
  abort.add_request_ids("nobody");
  abort.add_request_ids("victim");
  v1::AbortResponse aborted;
  ASSERT_TRUE(harness.controls->Abort(&context, abort, &aborted).ok());
  EXPECT_THAT(aborted.aborted_request_ids(), ElementsAre("victim"));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(harness.worker.cancelled()[0].second, CancelCause::kAbort);
}

TEST(ControlRpcTest, AbortBoundsItsList) {
  GrpcHarness harness({});
  v1::AbortRequest abort;
  for (int i = 0; i < 1025; ++i) abort.add_request_ids("a");
  grpc::ClientContext context;
  v1::AbortResponse aborted;
  EXPECT_EQ(harness.controls->Abort(&context, abort, &aborted).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TrailingReason(context), "LIMIT_REQUEST_IDS");
}

TEST(TokenRpcTest, TokenizeAndDetokenizeAreInverse) {
  GrpcHarness harness({});
  v1::TokenizeRequest request;
  request.set_add_bos(true);
  for (const std::string& text : {std::string("hi"), std::string(200000, 'z')}) {
    request.set_text(text);
    grpc::ClientContext context;
    v1::TokenizeResponse tokens;
    ASSERT_TRUE(harness.inference->Tokenize(&context, request, &tokens).ok());
    EXPECT_EQ(tokens.token_ids_size(), static_cast<int>(text.size()) + 1);
    EXPECT_EQ(tokens.token_ids(0), 256u);
    v1::DetokenizeRequest back;
    *back.mutable_token_ids() = tokens.token_ids();
    grpc::ClientContext back_context;
    v1::DetokenizeResponse response;
    ASSERT_TRUE(harness.inference->Detokenize(&back_context, back, &response).ok());
    EXPECT_EQ(response.text(), text);
  }
}

TEST(TokenRpcTest, BadInputIsRefused) {
  GrpcHarness harness({});
  {
    v1::TokenizeRequest request;
    request.set_text(std::string((1 << 20) + 1, 'a'));
    grpc::ClientContext context;
    v1::TokenizeResponse tokens;
    EXPECT_EQ(harness.inference->Tokenize(&context, request, &tokens).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(TrailingReason(context), "LIMIT_PROMPT");
  }
  {
    v1::TokenizeRequest request;
    request.set_model("other");
    grpc::ClientContext context;
    v1::TokenizeResponse tokens;
    EXPECT_EQ(harness.inference->Tokenize(&context, request, &tokens).error_code(),
              grpc::StatusCode::NOT_FOUND);
  }
  v1::DetokenizeRequest request;
  request.add_token_ids(300);
  grpc::ClientContext context;
  v1::DetokenizeResponse response;
  const grpc::Status status = harness.inference->Detokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("300"));
}

TEST(HealthTest, EveryNameFollowsTheServer) {
  GrpcHarness harness({});
  const auto channel = harness.Connect(grpc::InsecureChannelCredentials());
  const std::string names[] = {"", "sliminfer.v1.Inference", "sliminfer.v1.Control"};
  for (const bool serving : {true, false, true}) {
    harness.server->SetServing(serving);
    for (const std::string& name : names) {
      std::string answer;
      ASSERT_TRUE(CallRaw(channel, kHealthCheck, HealthRequest(name), &answer).ok());
      EXPECT_EQ(answer, serving ? kServing : kNotServing) << name;
    }
  }
  std::string answer;
  EXPECT_EQ(CallRaw(channel, kHealthCheck, HealthRequest("no.such"), &answer).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

// ServerReflectionRequest { list_services = "" }.
grpc::Status Reflect(const GrpcHarness& harness, std::string* answer) {
  grpc::GenericStub stub(harness.Connect(grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(&tag);
  queue.Next(&tag, &ok);
  const grpc::Slice slice(std::string("\x3a\x00", 2));
  call->Write(grpc::ByteBuffer(&slice, 1), &tag);
  queue.Next(&tag, &ok);
  grpc::ByteBuffer response;
  call->Read(&response, &tag);
  queue.Next(&tag, &ok);
  grpc::Slice single;
  if (ok && response.TrySingleSlice(&single).ok()) {
    answer->assign(reinterpret_cast<const char*>(single.begin()), single.size());
    call->WritesDone(&tag);
    queue.Next(&tag, &ok);
  }
  grpc::Status status;
  call->Finish(&status, &tag);
  queue.Next(&tag, &ok);
  return status;
}

TEST(ReflectionTest, IsThereOnlyWhenAskedFor) {
  GrpcHarness::Options options;
  std::string answer;
  {
    GrpcHarness without(options);
    EXPECT_EQ(Reflect(without, &answer).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  options.server.reflection = true;
  GrpcHarness with(options);
  EXPECT_TRUE(Reflect(with, &answer).ok());
  EXPECT_THAT(answer, HasSubstr("sliminfer.v1.Inference"));
  EXPECT_THAT(answer, HasSubstr("sliminfer.v1.Control"));
}

TEST(GrpcServerTest, TakenPortIsAnErrorNotACrash) {
  GrpcHarness harness({});
  GrpcServer::Options options;
  v1::Control::CallbackService service;
  ASSERT_TRUE(GrpcServer::Start(options, {&service}).ok());  // port 0
  options.listen = harness.server->address();
  v1::Control::CallbackService other;
  const auto second = GrpcServer::Start(options, {&other});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST(GrpcServerTest, ListensOnAUnixSocket) {
  GrpcHarness::Options options;
  const std::string path = "unix:" + ::testing::TempDir() + "/sliminfer_test.sock";
  options.server.listen = path;
  GrpcHarness harness(options);
  ASSERT_NE(harness.server, nullptr);
  std::string answer;
  EXPECT_TRUE(CallRaw(grpc::CreateChannel(path, grpc::InsecureChannelCredentials()), kHealthCheck,
                      "", &answer)
                  .ok());
}

TEST(GrpcServerTest, LargeMetadataIsRefused) {
  GrpcHarness harness({});
  grpc::ClientContext context;
  context.AddMetadata("x-large", std::string(20000, 'm'));
  v1::GetLoadResponse load;
  EXPECT_EQ(harness.controls->GetLoad(&context, {}, &load).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(GrpcServerTest, ShutdownEndsWithinItsGraceThoughAStreamIsOpen) {
  GrpcHarness harness({});
  v1::GenerateRequest request;
  request.set_text("x");
  grpc::ClientContext context;
  const auto reader = harness.inference->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const absl::Time begin = absl::Now();
  harness.server->Shutdown(absl::Milliseconds(100));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(AuthRpcTest, EveryMethodButHealthNeedsAToken) {
  const auto tokens = TokenStore::Parse("a-token-of-sufficient-length", "test");
  ASSERT_TRUE(tokens.ok());
  GrpcHarness::Options options;
  options.tokens = tokens->get();
  GrpcHarness harness(options);
  const auto channel = harness.Connect(grpc::InsecureChannelCredentials());
  for (const char* method : {"Inference/Generate", "Inference/GenerateUnary", "Inference/Tokenize",
                             "Inference/Detokenize", "Control/GetServerInfo",
                             "Control/GetModelInfo", "Control/GetLoad", "Control/Abort"}) {
    std::string answer;
    // A body that does not parse: the token is asked for before anybody looks at it.
    EXPECT_EQ(
        CallRaw(channel, std::string("/sliminfer.v1.") + method, "\x0a\xff\xff\xff\x7f", &answer)
            .error_code(),
        grpc::StatusCode::UNAUTHENTICATED)
        << method;
  }
  std::string answer;
  EXPECT_TRUE(CallRaw(channel, kHealthCheck, "", &answer).ok());
  const std::pair<const char*, grpc::StatusCode> cases[] = {
      {"Bearer a-token-of-sufficient-length", grpc::StatusCode::OK},
      {"Bearer a-token-of-sufficient-lengtH", grpc::StatusCode::UNAUTHENTICATED},
      {"a-token-of-sufficient-length", grpc::StatusCode::UNAUTHENTICATED},
  };
  for (const auto& [header, code] : cases) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", header);
    v1::GetLoadResponse load;
    EXPECT_EQ(harness.controls->GetLoad(&context, {}, &load).error_code(), code);
    EXPECT_EQ(TrailingReason(context), code == grpc::StatusCode::OK ? "" : "AUTH");
  }
}

TEST(TlsRpcTest, TlsServesAndRefusesPlaintext) {
  const TestCertificate certificate = MakeTestCertificate();
  GrpcHarness::Options options;
  options.server.tls = TlsMaterial{certificate.certificate_pem, certificate.key_pem, ""};
  GrpcHarness harness(options);
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = certificate.certificate_pem;
  std::string answer;
  EXPECT_TRUE(CallRaw(harness.Connect(grpc::SslCredentials(ssl)), kHealthCheck, "", &answer).ok());
  EXPECT_FALSE(
      CallRaw(harness.Connect(grpc::InsecureChannelCredentials()), kHealthCheck, "", &answer).ok());
}

TEST(TlsRpcTest, ClientCertificateIsRequiredWhenAnAuthorityIsGiven) {
  const TestCertificate server = MakeTestCertificate();
  const TestCertificate client = MakeTestCertificate();
  GrpcHarness::Options options;
  options.server.tls = TlsMaterial{server.certificate_pem, server.key_pem, client.certificate_pem};
  GrpcHarness harness(options);
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = server.certificate_pem;
  std::string answer;
  EXPECT_FALSE(CallRaw(harness.Connect(grpc::SslCredentials(ssl)), kHealthCheck, "", &answer).ok());
  ssl.pem_cert_chain = client.certificate_pem;
  ssl.pem_private_key = client.key_pem;
  EXPECT_TRUE(CallRaw(harness.Connect(grpc::SslCredentials(ssl)), kHealthCheck, "", &answer).ok());
}

}  // namespace
}  // namespace slim
