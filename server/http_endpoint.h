// The small HTTP server beside gRPC: /metrics, /healthz (alive) and /readyz (accepting). GET and
// HEAD only, no request body is read, nothing of the request is echoed.
//
// Thread-safe. It owns its threads; the handlers are called on them.
#ifndef SERVER_HTTP_ENDPOINT_H_
#define SERVER_HTTP_ENDPOINT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace slim {

class HttpEndpoint {
 public:
  struct Handlers {
    std::function<std::string()> metrics;  // the page
    std::function<bool()> alive;           // false: 503 on /healthz
    std::function<bool()> ready;           // false: 503 on /readyz
  };

  // Listens on host:port (port 0: any free one). UNAVAILABLE when the port is taken,
  // INVALID_ARGUMENT for a bad address.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Create(const std::string& listen,
                                                              Handlers handlers);
  virtual ~HttpEndpoint() = default;  // stops and joins

  // The address in use, with the real port.
  virtual std::string address() const = 0;
};

}  // namespace slim

#endif  // SERVER_HTTP_ENDPOINT_H_
