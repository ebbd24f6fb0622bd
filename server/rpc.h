// What all gRPC methods share: token check, message parsing, status translation, deadlines, and a
// unary method as one function. The only header of the server, beside the services, with gRPC
// types. Thread-safe (functions; RpcGate is immutable).
//
// Methods take raw bytes: the token is checked before the message is parsed, and a message that
// does not parse gets INVALID_ARGUMENT (BAD_MESSAGE) instead of the library's UNIMPLEMENTED.
#ifndef SERVER_RPC_H_
#define SERVER_RPC_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "google/protobuf/message.h"
#include "grpcpp/grpcpp.h"
#include "server/auth.h"
#include "server/metrics.h"

namespace slim {

// The door of every method.
class RpcGate {
 public:
  // `tokens` may be null: no token is asked for. Both outlive the gate.
  RpcGate(const TokenStore* tokens, Metrics* metrics) : tokens_(tokens), metrics_(metrics) {}

  // UNAUTHENTICATED when a token is asked for and not shown.
  absl::Status Enter(const grpc::CallbackServerContext& context) const;
  // Translates the end of a call and counts it. Adds x-reason and retry-after-ms to the trailing
  // metadata, so it comes before Finish. `method` is "package.Service/Method".
  grpc::Status Leave(absl::string_view method, const absl::Status& status,
                     grpc::CallbackServerContext* context) const;

 private:
  const TokenStore* const tokens_;
  Metrics* const metrics_;
};

// INVALID_ARGUMENT (BAD_MESSAGE) when the bytes are not such a message.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

// DEADLINE_EXCEEDED when the call's deadline has passed.
absl::Status CheckNotExpired(const grpc::CallbackServerContext& context);
// The call's deadline on the steady clock; InfiniteFuture when it has none.
absl::Time SteadyDeadline(const grpc::CallbackServerContext& context, const Clock& clock);

// Runs a method that answers at once, on the calling thread: gate, deadline, parse, `body`,
// serialize. Exceptions become incidents.
grpc::ServerUnaryReactor* RunUnary(const RpcGate& gate, absl::string_view method,
                                   grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer& request_bytes,
                                   google::protobuf::Message* request,
                                   google::protobuf::Message* response,
                                   grpc::ByteBuffer* response_bytes,
                                   const std::function<absl::Status()>& body);

}  // namespace slim

#endif  // SERVER_RPC_H_
