#include "server/monitor.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/log.h"

namespace slim {
namespace {

// The client's connection preface and an empty SETTINGS frame.
constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
constexpr size_t kPrefaceBytes = sizeof kPreface;  // the final zero is the frame's last byte

bool Await(int fd, short events, absl::Time until) {
  const int64_t left = std::max<int64_t>(0, absl::ToInt64Milliseconds(until - absl::Now()));
  pollfd entry{fd, events, 0};
  return poll(&entry, 1, static_cast<int>(left)) == 1;
}

bool Exchange(int fd, const addrinfo& to, absl::Time until) {
  if (connect(fd, to.ai_addr, to.ai_addrlen) != 0 && errno != EINPROGRESS) return false;
  if (!Await(fd, POLLOUT, until)) return false;
  if (send(fd, kPreface, kPrefaceBytes, MSG_NOSIGNAL) < 0) return errno != ECONNREFUSED;
  return Await(fd, POLLIN, until);
}

}  // namespace

bool ReactsToConnection(const ListenAddress& address, absl::Duration timeout) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  std::string host = address.host;
  if (address.is_wildcard()) host = host == "::" ? "::1" : "127.0.0.1";
  if (getaddrinfo(host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found) != 0) {
    return true;
  }
  bool reacts = true;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    reacts = Exchange(fd, *found, absl::Now() + timeout);
    close(fd);
  }
  freeaddrinfo(found);
  return reacts;
}

Monitor::Monitor(Options options) : options_(std::move(options)) {
  thread_ = std::thread([this] { Run(); });
}

Monitor::~Monitor() {
  stop_.Notify();
  thread_.join();
}

void Monitor::Run() {
  bool shown = true;
  absl::Duration since_probe = absl::ZeroDuration();
  while (!stop_.WaitForNotificationWithTimeout(options_.period)) {
    const bool serving = options_.serving();
    if (serving != shown) {
      Log(serving ? LogLevel::kInfo : LogLevel::kWarning, serving ? "serving" : "not_serving");
      options_.set_serving(serving);
      shown = serving;
    }
    since_probe += options_.period;
    if (since_probe < options_.probe_period || options_.probe.is_unix()) continue;
    since_probe = absl::ZeroDuration();
    Probe();
  }
}

void Monitor::Probe() {
  reachable_ = ReactsToConnection(options_.probe, options_.probe_timeout);
  failures_ = reachable_ ? 0 : failures_ + 1;
  if (reachable_) return;
  Log(LogLevel::kError, "own_port_does_not_react", {{"failures", failures_}});
  if (failures_ == options_.probe_failures) {
    options_.give_up("connections are not accepted any more");
  }
}

}  // namespace slim
