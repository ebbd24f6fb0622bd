#include "tools/client/connection.h"

#include <signal.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "tools/client/exit_codes.h"
#include "tools/common/text_file.h"

namespace slim {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;
constexpr int kMaxMessageBytes = 64 << 20;

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const ConnectionOptions& options) {
  const bool mutual = !options.tls_cert.empty() || !options.tls_key.empty();
  if (options.tls_ca.empty()) {
    if (mutual) {
      return absl::InvalidArgumentError("--tls_cert and --tls_key need --tls_ca");
    }
    if (!options.token.empty() && !IsLocalAddress(options.address)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a token would travel readable to ", options.address,
                       "; allowed are --tls_ca, or an address on this machine"));
    }
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions tls;
  SLIM_ASSIGN_OR_RETURN(tls.pem_root_certs, ReadTextFile(options.tls_ca, kMaxPemBytes));
  if (mutual) {
    if (options.tls_cert.empty() || options.tls_key.empty()) {
      return absl::InvalidArgumentError("--tls_cert and --tls_key go together");
    }
    SLIM_ASSIGN_OR_RETURN(tls.pem_cert_chain, ReadTextFile(options.tls_cert, kMaxPemBytes));
    SLIM_ASSIGN_OR_RETURN(tls.pem_private_key, ReadTextFile(options.tls_key, kMaxPemBytes));
  }
  return grpc::SslCredentials(tls);
}

RpcError MakeError(const grpc::Status& status, const grpc::ClientContext& context) {
  RpcError error;
  error.code = status.error_code();
  error.message = status.error_message();
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto text = [&](const char* key) -> absl::optional<std::string> {
    const auto found = metadata.find(key);
    if (found == metadata.end()) return absl::nullopt;
    return std::string(found->second.data(), found->second.size());
  };
  error.reason = text("x-reason").value_or("");
  int64_t delay = 0;
  if (const auto retry = text("retry-after-ms"); retry && absl::SimpleAtoi(*retry, &delay)) {
    error.retry_after_ms = delay;
  }
  return error;
}

// Nobody answered: the library's own status, without a reason from a server.
bool NobodyThere(const RpcError& error) {
  return error.code == grpc::StatusCode::UNAVAILABLE && error.reason.empty();
}

}  // namespace

std::string StatusCodeName(grpc::StatusCode code) {
  // gRPC and Abseil number and name the codes alike.
  const std::string name = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
  return name.empty() ? absl::StrCat("CODE_", static_cast<int>(code)) : name;
}

bool IsLocalAddress(absl::string_view address) {
  for (const absl::string_view scheme : {"unix:", "unix-abstract:"}) {
    if (absl::StartsWith(address, scheme)) return true;
  }
  for (const absl::string_view scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::StartsWith(address, scheme)) {
      address.remove_prefix(scheme.size());
      break;
    }
  }
  if (absl::StartsWith(address, "[::1]:")) return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost") return true;
  // 127.a.b.c, not a name like 127.example.org.
  return absl::StartsWith(host, "127.") &&
         host.find_first_not_of("0123456789.") == absl::string_view::npos;
}

std::string ErrorText(const RpcError& error, const std::string& address) {
  if (NobodyThere(error)) {
    return absl::StrCat("error: UNAVAILABLE: no server answers at ", address, "\n  ",
                        TerminalSafe(error.message),
                        "\n  Start one with: build/bin/sliminfer-server --model MODEL.gguf "
                        "(or ./deploy/quickstart.sh),\n  or name another with --address.\n");
  }
  std::string text =
      absl::StrCat("error: ", StatusCodeName(error.code), ": ", TerminalSafe(error.message), "\n");
  if (!error.reason.empty()) {
    absl::StrAppend(&text, "  reason: ", TerminalSafe(error.reason), "\n");
  }
  if (error.retry_after_ms.has_value()) {
    absl::StrAppend(&text, "  try again in ",
                    absl::StrFormat("%.1f", static_cast<double>(*error.retry_after_ms) / 1000),
                    " s\n");
  } else if (error.code == grpc::StatusCode::DEADLINE_EXCEEDED) {
    absl::StrAppend(&text, "  --timeout sets how long to wait\n");
  }
  return text;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Create(const ConnectionOptions& options,
                                                               Interrupts* interrupts) {
  std::unique_ptr<Connection> connection(new Connection(options, interrupts));
  SLIM_ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(options));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetUserAgentPrefix("sliminfer");
  connection->channel_ = grpc::CreateCustomChannel(options.address, credentials, arguments);
  return connection;
}

int Connection::Run(double default_timeout_seconds,
                    const std::function<grpc::Status(grpc::ClientContext*)>& call,
                    RpcError* error) {
  grpc::ClientContext context;
  const double timeout =
      options_.timeout_seconds > 0 ? options_.timeout_seconds : default_timeout_seconds;
  if (timeout > 0) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::microseconds(static_cast<int64_t>(timeout * 1e6)));
  }
  if (!options_.token.empty()) {
    context.AddMetadata("authorization", absl::StrCat("Bearer ", options_.token));
  }
  grpc::Status status;
  {
    const Interrupts::Scope scope(interrupts_, [&context] { context.TryCancel(); });
    status = call(&context);
    if (scope.signal() != 0 && status.error_code() == grpc::StatusCode::CANCELLED) {
      if (error != nullptr) error->code = grpc::StatusCode::CANCELLED;
      return kExitSignalBase + scope.signal();
    }
  }
  if (status.ok()) return kExitOk;
  const RpcError seen = MakeError(status, context);
  if (error != nullptr) *error = seen;
  Report(seen);
  return kExitRpcBase + static_cast<int>(seen.code);
}

void Connection::Report(const RpcError& error) const {
  if (!options_.json) {
    std::fflush(stdout);
    std::fputs(ErrorText(error, options_.address).c_str(), stderr);
    return;
  }
  nlohmann::json object = {
      {"code", StatusCodeName(error.code)}, {"message", error.message}, {"reason", error.reason}};
  if (error.retry_after_ms.has_value()) object["retry_after_ms"] = *error.retry_after_ms;
  const nlohmann::json line = {{"error", object}};
  std::fputs((line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n").c_str(),
             stdout);
  std::fflush(stdout);
}

}  // namespace slim
