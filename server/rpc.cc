#include "server/rpc.h"

#include <chrono>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/proto_buffer_writer.h"
#include "server/incident.h"
#include "server/status_reason.h"

namespace slim {
namespace {

constexpr size_t kMaxStatusMessageBytes = 1024;

// Names of the codes as gRPC's own documents spell them; absl's are the same.
std::string CodeName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

}  // namespace

absl::Status RpcGate::Enter(const grpc::CallbackServerContext& context) const {
  if (tokens_ == nullptr) return absl::OkStatus();
  const auto& metadata = context.client_metadata();
  const auto entry = metadata.find("authorization");
  if (entry == metadata.end()) return tokens_->Check("");
  return tokens_->Check(absl::string_view(entry->second.data(), entry->second.size()));
}

grpc::Status RpcGate::Leave(absl::string_view method, const absl::Status& status,
                            grpc::CallbackServerContext* context) const {
  const absl::Status shown = PublicStatus(method, status);
  metrics_->OnRpcDone(method, CodeName(shown.code()));
  if (shown.ok()) return grpc::Status::OK;
  const std::string why = ReasonOf(shown);
  if (!why.empty()) context->AddTrailingMetadata("x-reason", why);
  if (const auto delay = RetryAfterOf(shown)) {
    context->AddTrailingMetadata("retry-after-ms", absl::StrCat(absl::ToInt64Milliseconds(*delay)));
  }
  return grpc::Status(static_cast<grpc::StatusCode>(shown.code()),
                      std::string(shown.message().substr(0, kMaxStatusMessageBytes)));
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  // Deserialize empties the buffer it is given; the copy shares the slices.
  grpc::ByteBuffer copy(bytes);
  grpc::ProtoBufferReader reader(&copy);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return ErrorWithReason(absl::StatusCode::kInvalidArgument, "BAD_MESSAGE",
                         "the message does not parse, or a text field is not valid UTF-8");
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &bytes, &own);
  return bytes;
}

absl::Status CheckNotExpired(const grpc::CallbackServerContext& context) {
  if (context.deadline() > std::chrono::system_clock::now()) return absl::OkStatus();
  return ErrorWithReason(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                         "the deadline had passed when the request arrived");
}

absl::Time SteadyDeadline(const grpc::CallbackServerContext& context, const Clock& clock) {
  if (context.deadline() == std::chrono::system_clock::time_point::max()) {
    return absl::InfiniteFuture();
  }
  return clock.Now() + absl::FromChrono(context.deadline() - std::chrono::system_clock::now());
}

grpc::ServerUnaryReactor* RunUnary(const RpcGate& gate, absl::string_view method,
                                   grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer& request_bytes,
                                   google::protobuf::Message* request,
                                   google::protobuf::Message* response,
                                   grpc::ByteBuffer* response_bytes,
                                   const std::function<absl::Status()>& body) {
  const absl::Status status = Guarded(method, [&]() -> absl::Status {
    SLIM_RETURN_IF_ERROR(gate.Enter(*context));
    SLIM_RETURN_IF_ERROR(CheckNotExpired(*context));
    SLIM_RETURN_IF_ERROR(ParseMessage(request_bytes, request));
    SLIM_RETURN_IF_ERROR(body());
    *response_bytes = SerializeMessage(*response);
    return absl::OkStatus();
  });
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(gate.Leave(method, status, context));
  return reactor;
}

}  // namespace slim
