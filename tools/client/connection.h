// The channel to a server and what every call has in common: deadline, token, Ctrl-C, and an error
// that says what to do. Thread rule: one thread (Ctrl-C is taken by Interrupts' own).
#ifndef TOOLS_CLIENT_CONNECTION_H_
#define TOOLS_CLIENT_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "grpcpp/grpcpp.h"
#include "tools/client/client_options.h"
#include "tools/client/interrupts.h"

namespace slim {

// What is shown of a failed call.
struct RpcError {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  std::string reason;  // x-reason, may be empty
  absl::optional<int64_t> retry_after_ms;
};

// "INVALID_ARGUMENT" and so on.
std::string StatusCodeName(grpc::StatusCode code);

// Whether the address stays on this machine: a token may travel there without TLS.
bool IsLocalAddress(absl::string_view address);

// A few lines for a person: code, message, reason, when to try again; for a server that is not
// there: the address and how to start one.
std::string ErrorText(const RpcError& error, const std::string& address);

class Connection {
 public:
  // INVALID_ARGUMENT for a token that would travel unprotected, the errors of reading PEM files.
  static absl::StatusOr<std::unique_ptr<Connection>> Create(const ConnectionOptions& options,
                                                            Interrupts* interrupts);

  const ConnectionOptions& options() const { return options_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Runs a call with a prepared context: deadline (`default_timeout_seconds` where the user gave
  // none, 0 = none) and token are set, Ctrl-C cancels it. Returns the exit code; an error has been
  // printed, a cancelled call has been noted. `error` (may be null) gets what was shown.
  int Run(double default_timeout_seconds,
          const std::function<grpc::Status(grpc::ClientContext*)>& call, RpcError* error = nullptr);

  // Unary calls of the control kind: 10 s where the user gave no --timeout.
  int RunShort(const std::function<grpc::Status(grpc::ClientContext*)>& call) {
    return Run(10, call);
  }

 private:
  Connection(ConnectionOptions options, Interrupts* interrupts)
      : options_(std::move(options)), interrupts_(interrupts) {}
  void Report(const RpcError& error) const;

  const ConnectionOptions options_;
  Interrupts* const interrupts_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace slim

#endif  // TOOLS_CLIENT_CONNECTION_H_
