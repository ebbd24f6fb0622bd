#include "server/http_endpoint.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "civetweb.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "server/config_values.h"

namespace slim {
namespace {

// Enough that a few clients that send nothing keep nobody waiting; they are dropped after the
// request timeout.
constexpr char kThreads[] = "8";
constexpr char kRequestTimeoutMs[] = "5000";

class CivetEndpoint final : public HttpEndpoint {
 public:
  explicit CivetEndpoint(Handlers handlers) : handlers_(std::move(handlers)) {}
  ~CivetEndpoint() override {
    if (context_ == nullptr) return;
    // The library looks whether to stop only when a connection arrives, or every two seconds.
    absl::Notification stopped;
    std::thread waker([this, &stopped] {
      do {
        Connect();
      } while (!stopped.WaitForNotificationWithTimeout(absl::Milliseconds(20)));
    });
    mg_stop(context_);
    stopped.Notify();
    waker.join();
  }

  absl::Status Start(const ListenAddress& address) {
    address_ = address;
    // civetweb has no names in listening_ports, only numbers.
    ListenAddress numeric = address;
    if (numeric.host == "localhost") numeric.host = "127.0.0.1";
    const std::string ports = numeric.text();
    const char* options[] = {"listening_ports",
                             ports.c_str(),
                             "num_threads",
                             kThreads,
                             "request_timeout_ms",
                             kRequestTimeoutMs,
                             "enable_keep_alive",
                             "no",
                             "enable_directory_listing",
                             "no",
                             nullptr};
    mg_callbacks callbacks{};
    callbacks.log_message = &CivetEndpoint::OnLogMessage;
    context_ = mg_start(&callbacks, this, options);
    if (context_ == nullptr) {
      absl::MutexLock lock(&mutex_);
      return absl::UnavailableError(absl::StrCat("--http_listen ", ports, ": ",
                                                 messages_.empty() ? "cannot listen" : messages_));
    }
    started_ = true;
    mg_set_request_handler(context_, "/metrics$", &CivetEndpoint::OnMetrics, this);
    mg_set_request_handler(context_, "/healthz$", &CivetEndpoint::OnAlive, this);
    mg_set_request_handler(context_, "/readyz$", &CivetEndpoint::OnReady, this);
    mg_set_request_handler(context_, "/", &CivetEndpoint::OnOther, this);
    mg_server_port port{};
    if (mg_get_server_ports(context_, 1, &port) == 1) address_.port = port.port;
    return absl::OkStatus();
  }

  std::string address() const override { return address_.text(); }

 private:
  // Opens a connection to ourselves and drops it.
  void Connect() const {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    std::string host = address_.host;
    if (address_.is_wildcard()) host = host == "::" ? "::1" : "127.0.0.1";
    if (getaddrinfo(host.c_str(), absl::StrCat(address_.port).c_str(), &hints, &found) != 0) return;
    const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
      // Not waited for: the attempt alone wakes the listener, and a failure only costs time.
      (void)!connect(fd, found->ai_addr, found->ai_addrlen);
      close(fd);
    }
    freeaddrinfo(found);
  }

  static int OnLogMessage(const mg_connection* connection, const char* message) {
    const mg_context* context = mg_get_context(connection);
    auto* self = static_cast<CivetEndpoint*>(mg_get_user_data(context));
    if (self == nullptr || self->started_) {
      Log(LogLevel::kWarning, "http_message", {{"message", message}});
    } else {
      absl::MutexLock lock(&self->mutex_);
      absl::StrAppend(&self->messages_, self->messages_.empty() ? "" : "; ", message);
    }
    return 1;
  }

  // True when the method is one we answer; otherwise the answer has been sent.
  static bool CheckMethod(mg_connection* connection) {
    const absl::string_view method = mg_get_request_info(connection)->request_method;
    if (method == "GET" || method == "HEAD") return true;
    Send(connection, "405 Method Not Allowed", "text/plain", "only GET and HEAD\n");
    return false;
  }

  static void Send(mg_connection* connection, absl::string_view status, absl::string_view type,
                   const std::string& body) {
    const std::string head = absl::StrCat(
        "HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(),
        "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
    mg_write(connection, head.data(), head.size());
    if (absl::string_view(mg_get_request_info(connection)->request_method) != "HEAD") {
      mg_write(connection, body.data(), body.size());
    }
  }

  // A handler never lets an exception reach the C library below it.
  template <typename F>
  static int Answer(mg_connection* connection, F answer) {
    if (!CheckMethod(connection)) return 405;
    try {
      return answer();
    } catch (const std::exception& error) {
      Log(LogLevel::kError, "http_exception", {{"what", error.what()}});
      Send(connection, "500 Internal Server Error", "text/plain", "internal error\n");
      return 500;
    }
  }

  static int OnMetrics(mg_connection* connection, void* self) {
    return Answer(connection, [&] {
      Send(connection, "200 OK", "text/plain; version=0.0.4; charset=utf-8",
           static_cast<CivetEndpoint*>(self)->handlers_.metrics());
      return 200;
    });
  }
  static int OnAlive(mg_connection* connection, void* self) {
    return Answer(connection, [&] {
      return SendState(connection, static_cast<CivetEndpoint*>(self)->handlers_.alive());
    });
  }
  static int OnReady(mg_connection* connection, void* self) {
    return Answer(connection, [&] {
      return SendState(connection, static_cast<CivetEndpoint*>(self)->handlers_.ready());
    });
  }
  static int SendState(mg_connection* connection, bool good) {
    Send(connection, good ? "200 OK" : "503 Service Unavailable", "text/plain",
         good ? "ok\n" : "unavailable\n");
    return good ? 200 : 503;
  }
  static int OnOther(mg_connection* connection, void* self) {
    return Answer(connection, [&] {
      Send(connection, "404 Not Found", "text/plain", "/metrics, /healthz or /readyz\n");
      return 404;
    });
  }

  const Handlers handlers_;
  ListenAddress address_;
  absl::Mutex mutex_;
  std::string messages_ ABSL_GUARDED_BY(mutex_);  // why it does not start
  std::atomic<bool> started_{false};
  mg_context* context_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Create(const std::string& listen,
                                                                   Handlers handlers) {
  SLIM_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(listen));
  if (address.is_unix()) {
    return absl::InvalidArgumentError(absl::StrCat("--http_listen ", listen, ": not host:port"));
  }
  auto endpoint = std::make_unique<CivetEndpoint>(std::move(handlers));
  SLIM_RETURN_IF_ERROR(endpoint->Start(address));
  return std::unique_ptr<HttpEndpoint>(std::move(endpoint));
}

}  // namespace slim
