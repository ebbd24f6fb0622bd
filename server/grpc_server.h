// The gRPC server itself: address, credentials, limits, keepalive, health and reflection.
//
// Thread-safe after Start. Services are borrowed and outlive it.
#ifndef SERVER_GRPC_SERVER_H_
#define SERVER_GRPC_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "server/tls.h"

namespace grpc {
class Service;
}

namespace slim {

class GrpcServer {
 public:
  struct Options {
    std::string listen = "127.0.0.1:0";
    absl::optional<TlsMaterial> tls;  // checked by LoadTlsMaterial
    bool reflection = false;
    int64_t max_message_bytes = 3 << 19;
    int64_t max_metadata_bytes = 8 << 10;
    int max_streams_per_connection = 64;
    absl::Duration max_connection_age_grace = absl::Minutes(10);
    std::vector<std::string> health_names;  // beside ""
  };

  // Listens and serves, health SERVING. UNAVAILABLE when the address cannot be had.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const Options& options, const std::vector<grpc::Service*>& services);
  virtual ~GrpcServer() = default;  // as Shutdown(now)

  // The address in use, with the real port.
  virtual std::string address() const = 0;
  virtual int port() const = 0;  // 0 for a unix socket

  // What grpc.health.v1.Health answers, for every name.
  virtual void SetServing(bool serving) = 0;
  // Accepts no more; waits for the calls in flight, cancels them at the deadline. Idempotent.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace slim

#endif  // SERVER_GRPC_SERVER_H_
