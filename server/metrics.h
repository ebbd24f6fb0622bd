// Every Prometheus family of the server, in one place: counters and histograms fed as things
// happen, gauges read from a snapshot when somebody scrapes. Prometheus types stay behind it.
//
// Thread-safe. The worker reports through WorkerObserver, the RPC handlers through OnRpcDone.
// Labels stay few: no request id, no client.
#ifndef SERVER_METRICS_H_
#define SERVER_METRICS_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/worker.h"

namespace slim {

class Metrics : public WorkerObserver {
 public:
  // Facts that never change, exported as *_info gauges.
  struct Facts {
    std::string model_name;
    std::string version;
    std::string revision;
    std::string backend;
    std::string architecture;
    std::string dtype;
    int64_t max_model_len = 0;
    int block_tokens = 0;
    int64_t capacity_slabs = 0;
    std::string kv_tier;
    std::string kv_dtype;
    int64_t prefix_cache_bytes = 0;
    int64_t host_kv_pool_bytes = 0;
    int num_layers = 0;
  };

  static std::unique_ptr<Metrics> Create(const Facts& facts);

  // Where the gauges come from; called at each scrape, from any thread. nullptr detaches, after
  // which the source is not called any more.
  virtual void SetStatsSource(std::function<WorkerStats()> source) = 0;

  // One RPC ended: "sliminfer.v1.Inference/Generate", "OK".
  virtual void OnRpcDone(absl::string_view grpc_method, absl::string_view grpc_code) = 0;

  // The page in Prometheus' text format.
  virtual std::string Render() = 0;
};

}  // namespace slim

#endif  // SERVER_METRICS_H_
