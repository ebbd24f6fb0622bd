#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "tools/bench/serve_bench.h"
#include "tools/common/statistics.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

namespace v1 = sliminfer::v1;

constexpr int32_t kShortNewTokens = 4;
constexpr absl::Duration kUnloadedWindow = absl::Seconds(3);

// Time to first token of short requests, one after the other.
std::vector<double> UnloadedFirstTokens(const FairnessOptions& options, const ServeTarget& target,
                                        const Clock& clock) {
  const std::unique_ptr<LoadCalls> calls = target.NewCalls();
  std::vector<double> seconds;
  for (int64_t i = -1; i < options.unloaded_requests; ++i) {
    const auto handle = calls->Start(
        target.MakeRequest(options.short_tokens, kShortNewTokens, static_cast<uint64_t>(i + 2)),
        clock.Now());
    calls->WaitUntilDone(handle);
    const double first = calls->Record(handle).TimeToFirstToken();
    // The very first warms the server up.
    if (i >= 0 && std::isfinite(first)) seconds.push_back(first);
  }
  return seconds;
}

// Sends short requests at random until the long prompt's first token is there; their records.
std::vector<CallRecord> SendShortRequests(const FairnessOptions& options, const ServeTarget& target,
                                          const Clock& clock, LoadCalls* calls,
                                          LoadCalls::Handle long_call) {
  std::mt19937_64 generator(7);
  std::exponential_distribution<double> gap(options.short_rate);
  std::vector<LoadCalls::Handle> handles;
  absl::Time due = clock.Now();
  while (true) {
    due += absl::Seconds(gap(generator));
    if (calls->WaitForFirstToken(long_call, due - clock.Now())) break;
    handles.push_back(
        calls->Start(target.MakeRequest(options.short_tokens, kShortNewTokens, generator()), due));
  }
  std::vector<CallRecord> records;
  for (const LoadCalls::Handle handle : handles) {
    calls->WaitUntilDone(handle);
    records.push_back(calls->Record(handle));
  }
  return records;
}

std::vector<double> FirstTokens(const std::vector<CallRecord>& records) {
  std::vector<double> seconds;
  for (const CallRecord& record : records) {
    if (!record.delta_times.empty()) seconds.push_back(record.TimeToFirstToken());
  }
  return seconds;
}

}  // namespace

absl::StatusOr<FairnessRow> RunFairnessBench(const FairnessOptions& options,
                                             const ServeTarget& target) {
  const SteadyClock clock;
  FairnessRow row;
  row.long_prompt_tokens = options.long_tokens;
  row.short_prompt_tokens = options.short_tokens;
  row.streams = static_cast<int>(options.streams);
  const std::vector<double> unloaded = UnloadedFirstTokens(options, target, clock);
  if (unloaded.empty()) {
    return absl::UnavailableError("no short request was answered on the idle server");
  }
  row.short_ttft_seconds_unloaded_p50 = Percentile(unloaded, 50);
  row.short_ttft_seconds_unloaded_p99 = Percentile(unloaded, 99);

  const std::unique_ptr<LoadCalls> calls = target.NewCalls();
  std::vector<LoadCalls::Handle> streams;
  for (int64_t i = 0; i < options.streams; ++i) {
    // Long enough to outlive the long prompt; cancelled afterwards.
    streams.push_back(
        calls->Start(target.MakeRequest(64, 7000, 100 + static_cast<uint64_t>(i)), clock.Now()));
  }
  for (const LoadCalls::Handle stream : streams) {
    if (!calls->WaitForFirstToken(stream, absl::Minutes(1)) ||
        calls->Record(stream).delta_times.empty()) {
      return absl::UnavailableError("a background stream did not start");
    }
  }
  const absl::Time quiet_begin = clock.Now();
  calls->WaitUntil(quiet_begin + kUnloadedWindow);

  v1::GenerateRequest long_request = target.MakeRequest(options.long_tokens, 1, 99);
  long_request.mutable_response()->set_progress(true);
  const absl::Time loaded_begin = clock.Now();
  const LoadCalls::Handle long_call = calls->Start(long_request, loaded_begin);
  const std::vector<CallRecord> shorts =
      SendShortRequests(options, target, clock, calls.get(), long_call);
  calls->WaitUntilDone(long_call);
  const CallRecord record = calls->Record(long_call);
  for (const LoadCalls::Handle stream : streams) calls->Cancel(stream);
  calls->WaitUntilAllDone();
  if (record.delta_times.empty()) {
    return absl::UnavailableError(absl::StrCat(
        "the long request was not answered, gRPC status code ", static_cast<int>(record.code)));
  }
  const absl::Time loaded_end = record.delta_times.front();
  std::vector<double> quiet_gaps, loaded_gaps, units;
  for (const LoadCalls::Handle stream : streams) {
    const CallRecord one = calls->Record(stream);
    AppendGaps(one.delta_times, quiet_begin, loaded_begin, &quiet_gaps);
    AppendGaps(one.delta_times, loaded_begin, loaded_end, &loaded_gaps);
  }
  AppendGaps(record.progress_times, loaded_begin, loaded_end, &units);
  row.long_ttft_seconds = record.TimeToFirstToken();
  const std::vector<double> loaded = FirstTokens(shorts);
  row.short_requests_loaded = static_cast<int64_t>(loaded.size());
  row.short_ttft_seconds_loaded_p50 = Percentile(loaded, 50);
  row.short_ttft_seconds_loaded_p99 = Percentile(loaded, 99);
  row.inter_token_seconds_unloaded_p50 = Percentile(quiet_gaps, 50);
  row.inter_token_seconds_loaded_p50 = Percentile(loaded_gaps, 50);
  row.inter_token_seconds_loaded_p99 = Percentile(loaded_gaps, 99);
  row.inter_token_seconds_loaded_max = Percentile(loaded_gaps, 100);
  row.unit_seconds_median = Percentile(units, 50);
  row.unit_seconds_max = Percentile(units, 100);
  return row;
}

std::string FairnessText(const FairnessRow& row) {
  const auto ms = [](double seconds) { return absl::StrCat(Number(1000 * seconds, 1), " ms"); };
  return absl::StrCat(
      "while a prompt of ", Grouped(row.long_prompt_tokens), " tokens is computed (",
      Number(row.long_ttft_seconds, 2), " s), with ", row.streams, " running streams:\n",
      "  short requests (", row.short_prompt_tokens, " tokens), first token: unloaded p50 ",
      ms(row.short_ttft_seconds_unloaded_p50), ", p99 ", ms(row.short_ttft_seconds_unloaded_p99),
      "; loaded p50 ", ms(row.short_ttft_seconds_loaded_p50), ", p99 ",
      ms(row.short_ttft_seconds_loaded_p99), " (", row.short_requests_loaded, " requests, p99 is ",
      Number(row.short_ttft_seconds_loaded_p99 / row.short_ttft_seconds_unloaded_p99, 2),
      "x)\n  gaps between tokens of the streams: unloaded p50 ",
      ms(row.inter_token_seconds_unloaded_p50), "; loaded p50 ",
      ms(row.inter_token_seconds_loaded_p50), ", p99 ", ms(row.inter_token_seconds_loaded_p99),
      ", max ", ms(row.inter_token_seconds_loaded_max),
      "\n  one unit (between two progress messages): median ", ms(row.unit_seconds_median),
      ", max ", ms(row.unit_seconds_max), "\n");
}

}  // namespace slim
