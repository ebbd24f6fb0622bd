#include "tools/common/result_json.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

using nlohmann::json;

// JSON has no NaN: what does not apply is null.
json Value(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json Values(const std::vector<double>& values) {
  json list = json::array();
  for (const double value : values) list.push_back(Value(value));
  return list;
}

json RooflineJson(const absl::optional<PrefillRoofline>& roofline) {
  if (!roofline.has_value()) return nullptr;
  return json{{"linear_operations", Value(roofline->linear_operations)},
              {"attention_operations", Value(roofline->attention_operations)},
              {"operations_per_second", Value(roofline->operations_per_second)},
              {"peak_arithmetic", roofline->peak_arithmetic},
              {"peak_operations_per_second", Value(roofline->peak_operations_per_second)},
              {"share_of_peak", Value(roofline->share_of_peak)}};
}

json RooflineJson(const absl::optional<DecodeRoofline>& roofline) {
  if (!roofline.has_value()) return nullptr;
  return json{{"weight_bytes", Value(roofline->weight_bytes)},
              {"kv_bytes", Value(roofline->kv_bytes)},
              {"bytes_per_second", Value(roofline->bytes_per_second)},
              {"read_bytes_per_second_before", Value(roofline->read_bytes_per_second_before)},
              {"read_bytes_per_second_after", Value(roofline->read_bytes_per_second_after)},
              {"share_of_read", Value(roofline->share_of_read)}};
}

}  // namespace

json ToJson(const MachineInfo& machine) {
  return json{{"cpu", machine.cpu},
              {"isa", machine.isa},
              {"threads", machine.threads},
              {"gpu", machine.gpu.empty() ? json(nullptr) : json(machine.gpu)},
              {"commit", machine.commit},
              {"load_seconds", Value(machine.load_seconds)}};
}

json ToJson(const PrefillRow& row) {
  json ops = json::object();
  for (const auto& [op, seconds] : row.op_seconds) ops[op] = Value(seconds);
  return json{{"length", row.length},
              {"pruning", row.pruning},
              {"runs", row.runs},
              {"ttft_seconds_median", Value(row.ttft_seconds_median)},
              {"ttft_seconds_p95", Value(row.ttft_seconds_p95)},
              {"tokens_per_second", Value(row.tokens_per_second)},
              {"retained_tokens", row.retained_tokens},
              {"bound_speedup", Value(row.bound_speedup)},
              {"speedup_vs_off", Value(row.speedup_vs_off)},
              {"tflops_per_second", Value(row.tflops_per_second)},
              {"bound_speedup_full_dense", Value(row.bound_speedup_full_dense)},
              {"kv_bytes_ratio", Value(row.kv_bytes_ratio)},
              {"kv_bytes_ratio_bound", Value(row.kv_bytes_ratio_bound)},
              {"cached_tokens", row.cached_tokens},
              {"speedup_vs_cold", Value(row.speedup_vs_cold)},
              {"op_seconds", row.op_seconds.empty() ? json(nullptr) : ops},
              {"roofline", RooflineJson(row.roofline)}};
}

json ToJson(const DecodeRow& row) {
  return json{{"context", row.context},
              {"streams", row.streams},
              {"tokens_per_second", Value(row.tokens_per_second)},
              {"seconds_per_token_median", Value(row.seconds_per_token_median)},
              {"pruning", row.pruning},
              {"decode_mode", row.decode_mode},
              {"kv_tier", row.kv_tier},
              {"prefetch", row.prefetch},
              {"kv_stall_share", Value(row.kv_stall_share)},
              {"prefetch_on_time_share", Value(row.prefetch_on_time_share)},
              {"prefill_seconds_median", Value(row.prefill_seconds_median)},
              {"roofline", RooflineJson(row.roofline)}};
}

json ToJson(const ServeRow& row) {
  return json{{"rate", Value(row.rate)},
              {"completed", row.completed},
              {"rejected", row.rejected},
              {"ttft_seconds_p50", Value(row.ttft_seconds_p50)},
              {"ttft_seconds_p99", Value(row.ttft_seconds_p99)},
              {"inter_token_seconds_p50", Value(row.inter_token_seconds_p50)},
              {"inter_token_seconds_p99", Value(row.inter_token_seconds_p99)},
              {"tokens_per_second", Value(row.tokens_per_second)},
              {"failed", row.failed},
              {"inter_token_seconds_max", Value(row.inter_token_seconds_max)}};
}

json ToJson(const FairnessRow& row) {
  return json{{"scenario", "fairness"},
              {"long_prompt_tokens", row.long_prompt_tokens},
              {"short_prompt_tokens", row.short_prompt_tokens},
              {"streams", row.streams},
              {"long_ttft_seconds", Value(row.long_ttft_seconds)},
              {"short_requests_loaded", row.short_requests_loaded},
              {"short_ttft_seconds_unloaded_p50", Value(row.short_ttft_seconds_unloaded_p50)},
              {"short_ttft_seconds_unloaded_p99", Value(row.short_ttft_seconds_unloaded_p99)},
              {"short_ttft_seconds_loaded_p50", Value(row.short_ttft_seconds_loaded_p50)},
              {"short_ttft_seconds_loaded_p99", Value(row.short_ttft_seconds_loaded_p99)},
              {"inter_token_seconds_unloaded_p50", Value(row.inter_token_seconds_unloaded_p50)},
              {"inter_token_seconds_loaded_p50", Value(row.inter_token_seconds_loaded_p50)},
              {"inter_token_seconds_loaded_p99", Value(row.inter_token_seconds_loaded_p99)},
              {"inter_token_seconds_loaded_max", Value(row.inter_token_seconds_loaded_max)},
              {"unit_seconds_median", Value(row.unit_seconds_median)},
              {"unit_seconds_max", Value(row.unit_seconds_max)}};
}

json ToJson(const EvalRow& row) {
  return json{{"task", row.task},
              {"length", row.length > 0 ? json(row.length) : json(nullptr)},
              {"pruning", row.pruning},
              {"n", row.n},
              {"accuracy", Value(row.accuracy)},
              {"ci95_low", Value(row.ci95_low)},
              {"ci95_high", Value(row.ci95_high)},
              {"kl_mean", Value(row.kl_mean)},
              {"answer_nll", Value(row.answer_nll)},
              {"block_recall", Value(row.block_recall)},
              {"dense_correct", row.dense_correct},
              {"kept", row.kept},
              {"kept_ci95_low", Value(row.kept_ci95_low)},
              {"kept_ci95_high", Value(row.kept_ci95_high)},
              {"recall_by_stage", Values(row.recall_by_stage)},
              {"recall_by_depth", Values(row.recall_by_depth)}};
}

std::string MachineLine(const MachineInfo& machine) {
  return absl::StrCat("machine: ", machine.cpu, ", kernels ", machine.isa, ", threads ",
                      machine.threads, machine.gpu.empty() ? "" : ", gpu ", machine.gpu,
                      ", commit ", machine.commit);
}

std::string BuildCommit() { return SLIM_REVISION; }

absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path, " for writing"));
  }
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const int error = errno;
  if (std::fclose(file) != 0 || !written) {
    return absl::ErrnoToStatus(written ? errno : error, absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

absl::Status WriteJsonFile(const std::string& path, const json& value) {
  return WriteTextFile(path, value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace slim
