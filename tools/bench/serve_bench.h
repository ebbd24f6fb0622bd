// Load on a running server: open-loop Poisson arrivals at given rates, and what short requests and
// running streams feel while one long prompt is computed. Thread rule: one thread calls; requests
// run on gRPC's threads.
#ifndef TOOLS_BENCH_SERVE_BENCH_H_
#define TOOLS_BENCH_SERVE_BENCH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "tools/bench/load_call.h"
#include "tools/common/lists.h"
#include "tools/common/result_json.h"

namespace slim {

struct ServeBenchOptions {
  std::string address = "127.0.0.1:50051";
  std::string token;
  std::string pruning;        // as the client's --pruning; empty: the server's default
  std::vector<double> rates;  // requests per second
  absl::Duration duration = absl::Seconds(30);
  LengthMix mix;  // prompt tokens
  int32_t max_new_tokens = 32;
  uint64_t seed = 1;
  absl::Duration call_timeout = absl::Minutes(10);
};

struct FairnessOptions {
  int64_t long_tokens = 8000;
  int64_t short_tokens = 32;
  int64_t streams = 2;
  int64_t unloaded_requests = 10;  // short ones, one after the other, on an idle server
  double short_rate = 1;           // short requests per second while the long prompt is computed
};

// A server to put load on: stub, prompts, machine line.
class ServeTarget {
 public:
  // UNAVAILABLE and so on when the server does not answer within 10 s.
  static absl::StatusOr<std::unique_ptr<ServeTarget>> Connect(const ServeBenchOptions& options);

  const MachineInfo& machine() const { return machine_; }
  // A request for `max_new_tokens` tokens after a prompt of random token ids; the end-of-generation
  // token does not end it, the prefix cache is left alone.
  sliminfer::v1::GenerateRequest MakeRequest(int64_t prompt_tokens, int32_t max_new_tokens,
                                             uint64_t seed) const;
  std::unique_ptr<LoadCalls> NewCalls() const;

 private:
  explicit ServeTarget(const ServeBenchOptions& options) : options_(options) {}
  absl::Status Introduce();

  const ServeBenchOptions options_;
  SteadyClock clock_;
  std::unique_ptr<sliminfer::v1::Inference::Stub> stub_;
  std::shared_ptr<grpc::Channel> channel_;
  MachineInfo machine_;
  uint32_t vocabulary_size_ = 0;
  sliminfer::v1::PruningOptions pruning_;
};

// One row per rate. UNAVAILABLE when not a single request could be completed at the first rate.
absl::StatusOr<std::vector<ServeRow>> RunServeBench(const ServeBenchOptions& options,
                                                    const ServeTarget& target);
absl::StatusOr<FairnessRow> RunFairnessBench(const FairnessOptions& options,
                                             const ServeTarget& target);

// A row from the records of one rate. `elapsed`: first arrival to last completion.
ServeRow MakeServeRow(double rate, const std::vector<CallRecord>& records, absl::Duration elapsed);

std::string ServeTable(const std::vector<ServeRow>& rows);
std::string FairnessText(const FairnessRow& row);

}  // namespace slim

#endif  // TOOLS_BENCH_SERVE_BENCH_H_
