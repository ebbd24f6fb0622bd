// The ids of generations in flight, over all services, and how many each client host has.
// Thread-safe.
//
// The worker knows ids too, but only until its own part ends. An id stays registered here until its
// RPC is about to end, so that a late cancel of one client can never hit another client's request
// of the same name.
#ifndef SERVER_REQUEST_REGISTRY_H_
#define SERVER_REQUEST_REGISTRY_H_

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace slim {

class RequestRegistry {
 public:
  // `max_per_peer` 0: no limit.
  explicit RequestRegistry(int max_per_peer) : max_per_peer_(max_per_peer) {}

  // ALREADY_EXISTS (DUPLICATE) for an id in flight, RESOURCE_EXHAUSTED (QUOTA) when the peer has
  // too many. `peer` is gRPC's peer string; the port in it is not part of the host.
  absl::Status Acquire(absl::string_view id, absl::string_view peer) ABSL_LOCKS_EXCLUDED(mutex_);
  void Release(absl::string_view id) ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t size() const ABSL_LOCKS_EXCLUDED(mutex_);

  // "ipv4:10.0.0.1:4711" -> "ipv4:10.0.0.1".
  static std::string HostOf(absl::string_view peer);

 private:
  const int max_per_peer_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::string> host_of_id_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> count_of_host_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace slim

#endif  // SERVER_REQUEST_REGISTRY_H_
