// Generate and GenerateUnary over a real connection: streams, errors, cancels, deadlines.
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "server/status_reason.h"
#include "tests/server/grpc_harness.h"

namespace slim {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace v1 = sliminfer::v1;

// Says "a", "b" and "c" and completes.
void SayAbc(ScriptedWorker* worker, const Request& request) {
  TokenStream* stream = request.stream.get();
  ScriptedWorker::Say(stream, "a", {97});
  ScriptedWorker::Say(stream, "b", {98});
  ScriptedWorker::Say(stream, "c", {99});
  worker->Complete(request.id, stream, 3);
}

class GenerateRpcTest : public ::testing::Test {
 protected:
  GenerateRpcTest() : harness_({}) {}

  static v1::GenerateRequest Text(const std::string& text, const std::string& id = "") {
    v1::GenerateRequest request;
    request.set_text(text);
    request.set_request_id(id);
    return request;
  }
  grpc::Status Unary(const v1::GenerateRequest& request, grpc::ClientContext* context,
                     v1::GenerateUnaryResponse* response) {
    return harness_.inference->GenerateUnary(context, request, response);
  }

  GrpcHarness harness_;
};

TEST_F(GenerateRpcTest, StreamsAcceptedDeltasAndFinished) {
  harness_.worker.set_on_submit([this](const Request& r) { SayAbc(&harness_.worker, r); });
  grpc::ClientContext context;
  const auto reader = harness_.inference->Generate(&context, Text("hello", "my-id"));
  const auto responses = ReadAll(reader.get());
  const grpc::Status status = reader->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(responses.size(), 5u);
  EXPECT_EQ(responses[0].accepted().request_id(), "my-id");
  EXPECT_EQ(responses[0].accepted().prompt_tokens(), 5);
  std::string text;
  for (int i = 1; i <= 3; ++i) text += responses[i].delta().text();
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(responses[4].finished().finish_reason(), v1::STOP);
  EXPECT_EQ(responses[4].finished().usage().completion_tokens(), 3);
  EXPECT_FALSE(responses[4].finished().has_pruning());  // not asked for
  EXPECT_EQ(harness_.registry.size(), 0);
}

TEST_F(GenerateRpcTest, UnaryCollectsTheWholeAnswer) {
  harness_.worker.set_on_submit([this](const Request& r) { SayAbc(&harness_.worker, r); });
  grpc::ClientContext context;
  v1::GenerateUnaryResponse response;
  const grpc::Status status = Unary(Text("hi"), &context, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.text(), "abc");
  EXPECT_EQ(response.token_ids_size(), 3);
  EXPECT_THAT(response.request_id(), HasSubstr("gen-"));
  EXPECT_EQ(response.finished().usage().completion_tokens(), 3);
}

TEST_F(GenerateRpcTest, OptionsReachTheWorker) {
  absl::Notification submitted;
  Request seen;
  harness_.worker.set_on_submit([&](const Request& request) {
    seen = request;
    SayAbc(&harness_.worker, request);
    submitted.Notify();
  });
  v1::GenerateRequest wire;
  auto* message = wire.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hey");
  wire.set_priority(7);
  wire.mutable_sampling()->set_temperature(0);
  wire.mutable_stopping()->add_stop_strings("END");
  wire.mutable_stopping()->set_max_tokens(9);
  wire.mutable_response()->set_progress(true);
  wire.set_cache_salt("tenant");
  wire.set_bypass_prefix_cache(true);
  grpc::ClientContext context;
  v1::GenerateUnaryResponse response;
  ASSERT_TRUE(Unary(wire, &context, &response).ok());
  submitted.WaitForNotification();
  EXPECT_EQ(seen.spec.prompt.size(), std::string("user: hey\n").size());
  EXPECT_EQ(seen.priority, 7);
  EXPECT_EQ(seen.spec.sampling.temperature, 0.0f);
  EXPECT_EQ(seen.spec.max_new_tokens, 9);
  EXPECT_EQ(seen.stop.strings[0], "END");
  EXPECT_TRUE(seen.response.progress);
  EXPECT_EQ(seen.spec.cache_salt, "tenant");
  EXPECT_TRUE(seen.spec.bypass_prefix_cache);
  EXPECT_EQ(seen.deadline, absl::InfiniteFuture());
}

TEST_F(GenerateRpcTest, LongPromptsAreTokenizedElsewhereAndArriveWhole) {
  harness_.worker.set_on_submit([this](const Request& r) { SayAbc(&harness_.worker, r); });
  v1::GenerateRequest wire = Text(std::string(100000, 'x'));
  wire.set_overflow(v1::TRUNCATE_LEFT);
  wire.mutable_stopping()->set_max_tokens(96);
  grpc::ClientContext context;
  const auto reader = harness_.inference->Generate(&context, wire);
  const auto responses = ReadAll(reader.get());
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(responses[0].accepted().prompt_tokens(), 4000);
}

TEST_F(GenerateRpcTest, ThousandDeltasArriveInOrder) {
  constexpr int kDeltas = 1000;
  harness_.worker.set_on_submit([this](const Request& request) {
    for (int i = 0; i < kDeltas; ++i) {
      ScriptedWorker::Say(request.stream.get(), absl::StrCat(i, ","));
    }
    harness_.worker.Complete(request.id, request.stream.get(), kDeltas);
  });
  grpc::ClientContext context;
  const auto reader = harness_.inference->Generate(&context, Text("x"));
  std::string text;
  for (const auto& response : ReadAll(reader.get())) text += response.delta().text();
  ASSERT_TRUE(reader->Finish().ok());
  std::string wanted;
  for (int i = 0; i < kDeltas; ++i) absl::StrAppend(&wanted, i, ",");
  EXPECT_EQ(text, wanted);
}

struct StatusRow {
  absl::Status status;  // what Submit, or the stream's end, says
  const char* reason;
  bool has_delay;
};

std::vector<StatusRow> StatusRows() {
  using Code = absl::StatusCode;
  const auto row = [](Code code, const char* why, bool delay = false) {
    return StatusRow{
        ErrorWithReason(
            code, why, "text",
            delay ? absl::optional<absl::Duration>(absl::Milliseconds(1500)) : absl::nullopt),
        why, delay};
  };
  return {
      row(Code::kInvalidArgument, "EXCEEDS_CAPACITY"),
      row(Code::kAlreadyExists, "DUPLICATE"),
      row(Code::kUnavailable, "LOADING", true),
      row(Code::kUnimplemented, "FEATURE"),
      row(Code::kResourceExhausted, "OVERLOAD", true),
      row(Code::kResourceExhausted, "SLOW_CONSUMER"),
      row(Code::kResourceExhausted, "QUEUE_TIMEOUT", true),
      row(Code::kDeadlineExceeded, "DEADLINE"),
      row(Code::kCancelled, "CANCELLED"),
      row(Code::kUnavailable, "SHUTTING_DOWN", true),
      row(Code::kAborted, "KV_TRANSFER", true),
      row(Code::kDataLoss, "KV_CORRUPT"),
      row(Code::kUnavailable, "BACKEND_FATAL"),
      row(Code::kInternal, "NUMERIC"),
  };
}

void ExpectRow(const StatusRow& row, const grpc::Status& status,
               const grpc::ClientContext& context) {
  EXPECT_EQ(static_cast<int>(status.error_code()), static_cast<int>(row.status.code()))
      << row.reason;
  EXPECT_EQ(status.error_message(), "text");
  EXPECT_EQ(TrailingReason(context), row.reason);
  const auto& metadata = context.GetServerTrailingMetadata();
  EXPECT_EQ(metadata.count("retry-after-ms"), row.has_delay ? 1u : 0u) << row.reason;
}

TEST_F(GenerateRpcTest, StatusTableAtSubmission) {
  for (const StatusRow& row : StatusRows()) {
    harness_.worker.set_submit_status(row.status);
    grpc::ClientContext context;
    v1::GenerateUnaryResponse response;
    ExpectRow(row, Unary(Text("x"), &context, &response), context);
  }
  EXPECT_EQ(harness_.registry.size(), 0);
}

TEST_F(GenerateRpcTest, StatusTableInMidStream) {
  for (const StatusRow& row : StatusRows()) {
    harness_.worker.set_on_submit([&](const Request& request) {
      ScriptedWorker::Say(request.stream.get(), "a");
      harness_.worker.Close(request.id, request.stream.get(), row.status);
    });
    grpc::ClientContext context;
    const auto reader = harness_.inference->Generate(&context, Text("x"));
    EXPECT_EQ(ReadAll(reader.get()).size(), 2u);
    ExpectRow(row, reader->Finish(), context);
  }
}

TEST_F(GenerateRpcTest, InternalDetailsNeverReachTheClient) {
  const absl::Status secrets[] = {absl::InternalError("/secret/path at 0xdeadbeef"),
                                  absl::UnknownError("/secret/path")};
  for (const absl::Status& secret : secrets) {
    harness_.worker.set_submit_status(secret);
    grpc::ClientContext context;
    v1::GenerateUnaryResponse response;
    const grpc::Status status = Unary(Text("x"), &context, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_EQ(TrailingReason(context), "BUG");
    EXPECT_THAT(status.error_message(), HasSubstr("incident"));
    EXPECT_THAT(status.error_message(), Not(HasSubstr("secret")));
  }
}

TEST_F(GenerateRpcTest, ExceptionsBecomeIncidents) {
  harness_.worker.set_on_submit([](const Request&) { throw std::runtime_error("secret"); });
  grpc::ClientContext context;
  v1::GenerateUnaryResponse response;
  const grpc::Status status = Unary(Text("x"), &context, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(TrailingReason(context), "BUG");
  EXPECT_THAT(status.error_message(), Not(HasSubstr("secret")));
}

TEST_F(GenerateRpcTest, BadFieldsAreRefusedWithoutTheWorker) {
  v1::GenerateRequest wire = Text("x");
  wire.mutable_sampling()->set_temperature(std::nanf(""));
  grpc::ClientContext context;
  v1::GenerateUnaryResponse response;
  const grpc::Status status = Unary(wire, &context, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(TrailingReason(context), "BAD_FIELD");
  EXPECT_THAT(status.error_message(), HasSubstr("sampling.temperature"));
  EXPECT_EQ(harness_.worker.submitted(), 0);
  EXPECT_THAT(harness_.metrics->Render(), HasSubstr("reason=\"BAD_FIELD\""));
}

// Sends raw bytes to a unary method.
grpc::Status SendRaw(GrpcHarness* harness, const std::string& method, const std::string& bytes,
                     grpc::ClientContext* context) {
  grpc::GenericStub stub(harness->Connect(grpc::InsecureChannelCredentials()));
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(context, method, {}, &request, &response, [&](grpc::Status result) {
    status = std::move(result);
    done.Notify();
  });
  done.WaitForNotification();
  return status;
}

TEST_F(GenerateRpcTest, GarbageIsInvalidArgumentOnEveryMethod) {
  // Field 1 with an endless length; field 3 (text) that is not UTF-8.
  for (const std::string& bytes :
       {std::string("\x0a\xff\xff\xff\x7f"), std::string("\x1a\x02\xff\xfe")}) {
    for (const char* method : {"Inference/Generate", "Inference/GenerateUnary"}) {
      grpc::ClientContext context;
      const grpc::Status status =
          SendRaw(&harness_, absl::StrCat("/sliminfer.v1.", method), bytes, &context);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
      EXPECT_EQ(TrailingReason(context), "BAD_MESSAGE");
    }
  }
  for (const char* method : {"Inference/Tokenize", "Inference/Detokenize", "Control/Abort",
                             "Control/GetServerInfo", "Control/GetModelInfo", "Control/GetLoad"}) {
    grpc::ClientContext context;
    const grpc::Status status = SendRaw(&harness_, absl::StrCat("/sliminfer.v1.", method),
                                        "\x0a\xff\xff\xff\x7f", &context);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
  }
  grpc::ClientContext context;
  EXPECT_EQ(SendRaw(&harness_, "/sliminfer.v1.Inference/NoSuch", "", &context).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(GenerateRpcTest, MessagesOverTheLimitAreRefused) {
  grpc::ClientContext context;
  v1::GenerateUnaryResponse response;
  const grpc::Status status = Unary(Text(std::string(1600000, 'x')), &context, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(harness_.worker.submitted(), 0);
}

TEST_F(GenerateRpcTest, CompressedRequestsAreRefused) {
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::GenerateUnaryResponse response;
  const grpc::Status status = Unary(Text(std::string(100000, 'x')), &context, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(harness_.worker.submitted(), 0);
}

TEST_F(GenerateRpcTest, ClientCancelReachesTheWorkerOnceAndFreesTheId) {
  grpc::ClientContext context;
  const auto reader = harness_.inference->Generate(&context, Text("x", "mine"));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));  // Accepted
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(harness_.worker.AwaitCancelled(1));
  EXPECT_EQ(harness_.worker.cancelled()[0].first, "mine");
  EXPECT_EQ(harness_.worker.cancelled()[0].second, CancelCause::kClient);
  // The id is free again, and what follows is not hurt by the old call's end.
  harness_.worker.set_on_submit([this](const Request& r) { SayAbc(&harness_.worker, r); });
  grpc::Status status;
  do {
    grpc::ClientContext again;
    v1::GenerateUnaryResponse answer;
    status = Unary(Text("x", "mine"), &again, &answer);
  } while (status.error_code() == grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(harness_.worker.cancelled().size(), 1u);
}

TEST_F(GenerateRpcTest, DeadlineCancelsWithItsOwnCause) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  v1::GenerateUnaryResponse response;
  EXPECT_EQ(Unary(Text("x"), &context, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(harness_.worker.AwaitCancelled(1));
  EXPECT_EQ(harness_.worker.cancelled()[0].second, CancelCause::kDeadline);
}

TEST_F(GenerateRpcTest, DeadlineReachesTheWorkerOnTheSteadyClock) {
  absl::Time deadline;
  harness_.worker.set_on_submit([&](const Request& request) {
    deadline = request.deadline;
    SayAbc(&harness_.worker, request);
  });
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(100));
  v1::GenerateUnaryResponse response;
  ASSERT_TRUE(Unary(Text("x"), &context, &response).ok());
  const absl::Duration left = deadline - harness_.clock.Now();
  EXPECT_GT(left, absl::Seconds(60));
  EXPECT_LE(left, absl::Seconds(101));
}

TEST_F(GenerateRpcTest, ExpiredDeadlineNeverReachesTheWorker) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  v1::GenerateUnaryResponse response;
  EXPECT_EQ(Unary(Text("x"), &context, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(harness_.worker.submitted(), 0);
}

TEST_F(GenerateRpcTest, DuplicateIdInFlightIsRefusedAndHurtsNobody) {
  grpc::ClientContext first_context;
  const auto first = harness_.inference->Generate(&first_context, Text("x", "same"));
  v1::GenerateResponse response;
  ASSERT_TRUE(first->Read(&response));
  grpc::ClientContext second_context;
  v1::GenerateUnaryResponse answer;
  const grpc::Status second = Unary(Text("x", "same"), &second_context, &answer);
  EXPECT_EQ(second.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(TrailingReason(second_context), "DUPLICATE");
  EXPECT_TRUE(harness_.worker.cancelled().empty());
  first_context.TryCancel();
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GenerateRpcTest, ManyCallsAtOnceEachEndOnce) {
  harness_.worker.set_on_submit([this](const Request& r) { SayAbc(&harness_.worker, r); });
  std::atomic<int> good{0};
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        grpc::ClientContext context;
        const auto reader = harness_.inference->Generate(&context, Text("x"));
        if (i % 3 == 0) context.TryCancel();
        const size_t count = ReadAll(reader.get()).size();
        const grpc::Status status = reader->Finish();
        good += (status.ok() && count == 5) || status.error_code() == grpc::StatusCode::CANCELLED;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 400);
}

TEST(GenerateQuotaTest, RequestsOfOnePeerAreBounded) {
  GrpcHarness::Options options;
  options.max_requests_per_peer = 1;
  GrpcHarness harness(options);
  v1::GenerateRequest request;
  request.set_text("x");
  grpc::ClientContext first_context;
  const auto first = harness.inference->Generate(&first_context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(first->Read(&response));
  grpc::ClientContext second_context;
  v1::GenerateUnaryResponse answer;
  const grpc::Status second = harness.inference->GenerateUnary(&second_context, request, &answer);
  EXPECT_EQ(second.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(TrailingReason(second_context), "QUOTA");
  first_context.TryCancel();
  first->Finish();
}

}  // namespace
}  // namespace slim
