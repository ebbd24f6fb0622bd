#include "tools/bench/serve_bench.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "sliminfer/v1/control.grpc.pb.h"
#include "tools/client/client_options.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

absl::Status FromGrpc(const std::string& address, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      absl::StrCat(address, ": ", status.error_message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServeTarget>> ServeTarget::Connect(
    const ServeBenchOptions& options) {
  std::unique_ptr<ServeTarget> target(new ServeTarget(options));
  if (!options.pruning.empty()) {
    SLIM_RETURN_IF_ERROR(ParsePruning(options.pruning, &target->pruning_));
  }
  target->channel_ = grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials());
  target->stub_ = v1::Inference::NewStub(target->channel_);
  SLIM_RETURN_IF_ERROR(target->Introduce());
  return target;
}

absl::Status ServeTarget::Introduce() {
  const auto control = v1::Control::NewStub(channel_);
  const auto prepare = [this](grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    if (!options_.token.empty()) {
      context->AddMetadata("authorization", absl::StrCat("Bearer ", options_.token));
    }
  };
  grpc::ClientContext server_context, model_context;
  prepare(&server_context);
  prepare(&model_context);
  v1::GetServerInfoResponse server;
  v1::GetModelInfoResponse model;
  SLIM_RETURN_IF_ERROR(
      FromGrpc(options_.address,
               control->GetServerInfo(&server_context, v1::GetServerInfoRequest(), &server)));
  SLIM_RETURN_IF_ERROR(FromGrpc(
      options_.address, control->GetModelInfo(&model_context, v1::GetModelInfoRequest(), &model)));
  machine_.cpu = server.device();
  machine_.isa = server.isa();
  machine_.threads = server.threads();
  if (server.backend() == "cuda") machine_.gpu = server.device();
  machine_.commit = server.revision();
  vocabulary_size_ = static_cast<uint32_t>(model.vocabulary_size());
  if (vocabulary_size_ == 0) return absl::InternalError("the server reports no vocabulary");
  return absl::OkStatus();
}

v1::GenerateRequest ServeTarget::MakeRequest(int64_t prompt_tokens, int32_t max_new_tokens,
                                             uint64_t seed) const {
  std::mt19937_64 generator(seed);
  v1::GenerateRequest request;
  for (int64_t i = 0; i < prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<uint32_t>(generator() % vocabulary_size_));
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(max_new_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_response()->set_text(false);
  request.mutable_response()->set_token_ids(true);
  if (!options_.pruning.empty()) *request.mutable_pruning() = pruning_;
  request.set_bypass_prefix_cache(true);
  return request;
}

std::unique_ptr<LoadCalls> ServeTarget::NewCalls() const {
  return std::make_unique<LoadCalls>(
      stub_.get(), &clock_, options_.token.empty() ? "" : absl::StrCat("Bearer ", options_.token),
      options_.call_timeout);
}

ServeRow MakeServeRow(double rate, const std::vector<CallRecord>& records, absl::Duration elapsed) {
  ServeRow row;
  row.rate = rate;
  std::vector<double> first, gaps;
  int64_t tokens = 0;
  for (const CallRecord& record : records) {
    row.completed += record.completed() ? 1 : 0;
    row.rejected += record.rejected() ? 1 : 0;
    row.failed += !record.completed() && !record.rejected() ? 1 : 0;
    tokens += record.tokens;
    if (record.delta_times.empty()) continue;
    first.push_back(record.TimeToFirstToken());
    AppendGaps(record.delta_times, absl::InfinitePast(), absl::InfiniteFuture(), &gaps);
  }
  row.ttft_seconds_p50 = Percentile(first, 50);
  row.ttft_seconds_p99 = Percentile(first, 99);
  row.inter_token_seconds_p50 = Percentile(gaps, 50);
  row.inter_token_seconds_p99 = Percentile(gaps, 99);
  row.inter_token_seconds_max = Percentile(gaps, 100);
  row.tokens_per_second = static_cast<double>(tokens) / absl::ToDoubleSeconds(elapsed);
  return row;
}

absl::StatusOr<std::vector<ServeRow>> RunServeBench(const ServeBenchOptions& options,
                                                    const ServeTarget& target) {
  const SteadyClock clock;
  {
    // The first request of a server may be slow for reasons of its own.
    const std::unique_ptr<LoadCalls> warm_up = target.NewCalls();
    warm_up->WaitUntilDone(warm_up->Start(target.MakeRequest(16, 4, options.seed), clock.Now()));
  }
  std::vector<ServeRow> rows;
  for (const double rate : options.rates) {
    std::mt19937_64 generator(options.seed);
    std::exponential_distribution<double> gap(rate);
    std::uniform_real_distribution<double> point(0, 1);
    const std::unique_ptr<LoadCalls> calls = target.NewCalls();
    const absl::Time begin = clock.Now();
    absl::Time due = begin;
    while (true) {
      due += absl::Seconds(gap(generator));
      if (due > begin + options.duration) break;
      // Prepared before it is due, so that making it does not delay it.
      const v1::GenerateRequest request = target.MakeRequest(options.mix.Pick(point(generator)),
                                                             options.max_new_tokens, generator());
      calls->WaitUntil(due);
      calls->Start(request, due);
    }
    calls->WaitUntilAllDone();
    rows.push_back(MakeServeRow(rate, calls->Records(), clock.Now() - begin));
    if (rows.size() == 1 && rows[0].completed == 0 && rows[0].failed > 0) {
      return absl::UnavailableError(
          absl::StrCat("none of ", rows[0].failed, " requests to ", options.address,
                       " was completed; does the prompt mix fit the context?"));
    }
  }
  return rows;
}

std::string ServeTable(const std::vector<ServeRow>& rows) {
  TextTable table({"req/s", "completed", "rejected", "failed", "ttft p50 s", "ttft p99 s",
                   "gap p50 ms", "gap p99 ms", "gap max ms", "tok/s"});
  for (const ServeRow& row : rows) {
    table.AddRow({Number(row.rate, 2), Grouped(row.completed), Grouped(row.rejected),
                  Grouped(row.failed), Number(row.ttft_seconds_p50, 3),
                  Number(row.ttft_seconds_p99, 3), Number(1000 * row.inter_token_seconds_p50, 1),
                  Number(1000 * row.inter_token_seconds_p99, 1),
                  Number(1000 * row.inter_token_seconds_max, 1), Number(row.tokens_per_second, 1)});
  }
  return table.Render();
}

}  // namespace slim
