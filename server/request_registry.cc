#include "server/request_registry.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/status_reason.h"

namespace slim {

absl::Status RequestRegistry::Acquire(absl::string_view id, absl::string_view peer) {
  std::string host = HostOf(peer);
  absl::MutexLock lock(&mutex_);
  if (host_of_id_.contains(id)) {
    return ErrorWithReason(absl::StatusCode::kAlreadyExists, reason::kDuplicate,
                           absl::StrCat("request_id \"", id, "\" is in flight"));
  }
  int& count = count_of_host_[host];
  if (max_per_peer_ > 0 && count >= max_per_peer_) {
    return ErrorWithReason(
        absl::StatusCode::kResourceExhausted, reason::kQuota,
        absl::StrCat("this client has ", count, " requests in flight, allowed: ", max_per_peer_),
        absl::Seconds(1));
  }
  ++count;
  host_of_id_.emplace(id, std::move(host));
  return absl::OkStatus();
}

void RequestRegistry::Release(absl::string_view id) {
  absl::MutexLock lock(&mutex_);
  const auto entry = host_of_id_.find(id);
  if (entry == host_of_id_.end()) return;
  const auto count = count_of_host_.find(entry->second);
  if (count != count_of_host_.end() && --count->second == 0) count_of_host_.erase(count);
  host_of_id_.erase(entry);
}

int64_t RequestRegistry::size() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(host_of_id_.size());
}

std::string RequestRegistry::HostOf(absl::string_view peer) {
  const bool has_port = absl::StartsWith(peer, "ipv4:") || absl::StartsWith(peer, "ipv6:");
  const size_t colon = peer.rfind(':');
  if (!has_port || colon < 5) return std::string(peer);
  return std::string(peer.substr(0, colon));
}

}  // namespace slim
