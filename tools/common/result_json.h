// The JSON that bench and eval write: {"machine": {...}, "rows": [...]}. The names of the keys are
// fixed: dashboards and scripts read them. Values that do not apply are null. Plain values.
#ifndef TOOLS_COMMON_RESULT_JSON_H_
#define TOOLS_COMMON_RESULT_JSON_H_

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "nlohmann/json.hpp"

namespace slim {

inline constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();

struct MachineInfo {
  std::string cpu;
  std::string isa;
  int threads = 0;
  std::string gpu;  // empty: none
  std::string commit;
  // Beyond the fixed keys.
  double load_seconds = kNoValue;  // from opening the file to a model ready to compute
};

// What a prefill achieved beside the machine's peak (tools/bench/roofline.h says what is counted).
// A multiply and an add are two operations.
struct PrefillRoofline {
  double linear_operations = kNoValue;  // of one prompt
  double attention_operations = kNoValue;
  double operations_per_second = kNoValue;       // of both together
  std::string peak_arithmetic;                   // "int8"; "fp32" where weights are floats
  double peak_operations_per_second = kNoValue;  // NaN: no probe for these kernels
  double share_of_peak = kNoValue;               // 1: at the peak
};

// What a decode step read at least, beside what the machine's memory gave right before and right
// after (a GPU: what its memory can give at most, twice); the share is of the larger of the two.
struct DecodeRoofline {
  double weight_bytes = kNoValue;  // of one step of all streams
  double kv_bytes = kNoValue;
  double bytes_per_second = kNoValue;              // of both together
  double read_bytes_per_second_before = kNoValue;  // NaN: no probe for these kernels
  double read_bytes_per_second_after = kNoValue;
  double share_of_read = kNoValue;  // 1: at the memory's bandwidth
};

struct PrefillRow {
  int64_t length = 0;  // prompt tokens
  std::string pruning;
  int runs = 0;
  double ttft_seconds_median = kNoValue;
  double ttft_seconds_p95 = kNoValue;
  double tokens_per_second = kNoValue;
  int64_t retained_tokens = 0;       // in the deepest segment
  double bound_speedup = kNoValue;   // by formula, over this engine's own dense pass
  double speedup_vs_off = kNoValue;  // measured; NaN when `off` was not run
  // Beyond the fixed keys.
  double tflops_per_second = kNoValue;  // of the operations that the cost model counts
  double bound_speedup_full_dense =
      kNoValue;                            // over a dense pass that computes the whole last layer
  double kv_bytes_ratio = kNoValue;        // prompt KV kept, of what dense keeps
  double kv_bytes_ratio_bound = kNoValue;  // the same by formula
  int64_t cached_tokens = 0;               // that came from the prefix cache
  double speedup_vs_cold = kNoValue;       // over the same mode without the prefix cache
  std::vector<std::pair<std::string, double>> op_seconds;  // on the device, longest first
  // "roofline", null: not the CPU, not wanted, or a part came from the prefix cache.
  absl::optional<PrefillRoofline> roofline;
};

struct DecodeRow {
  int64_t context = 0;  // prompt tokens of each stream
  int streams = 0;
  double tokens_per_second = kNoValue;  // of all streams together
  double seconds_per_token_median = kNoValue;
  // Beyond the fixed keys.
  std::string pruning;
  std::string decode_mode;
  std::string kv_tier;
  bool prefetch = true;
  double kv_stall_share = kNoValue;          // of decode time
  double prefetch_on_time_share = kNoValue;  // of slabs; NaN in the unified tier
  double prefill_seconds_median = kNoValue;  // of the streams' prompts, to their first tokens
  absl::optional<DecodeRoofline> roofline;   // "roofline", null: not wanted, or nothing is known
};

struct ServeRow {
  double rate = kNoValue;  // requests per second offered
  int64_t completed = 0;
  int64_t rejected = 0;
  double ttft_seconds_p50 = kNoValue;
  double ttft_seconds_p99 = kNoValue;
  double inter_token_seconds_p50 = kNoValue;
  double inter_token_seconds_p99 = kNoValue;
  double tokens_per_second = kNoValue;
  // Beyond the fixed keys.
  int64_t failed = 0;
  double inter_token_seconds_max = kNoValue;
};

// What short requests and running streams feel while one long prompt is computed.
struct FairnessRow {
  int64_t long_prompt_tokens = 0;
  int64_t short_prompt_tokens = 0;
  int streams = 0;
  double long_ttft_seconds = kNoValue;
  int64_t short_requests_loaded = 0;
  double short_ttft_seconds_unloaded_p50 = kNoValue;
  double short_ttft_seconds_unloaded_p99 = kNoValue;
  double short_ttft_seconds_loaded_p50 = kNoValue;
  double short_ttft_seconds_loaded_p99 = kNoValue;
  double inter_token_seconds_unloaded_p50 = kNoValue;
  double inter_token_seconds_loaded_p50 = kNoValue;
  double inter_token_seconds_loaded_p99 = kNoValue;
  double inter_token_seconds_loaded_max = kNoValue;
  double unit_seconds_median = kNoValue;  // between two progress messages of the long prompt
  double unit_seconds_max = kNoValue;
};

struct EvalRow {
  std::string task;    // "all": over all tasks
  int64_t length = 0;  // bucket in tokens; 0 (null in JSON): over all lengths
  std::string pruning;
  int64_t n = 0;
  double accuracy = kNoValue;
  double ci95_low = kNoValue;
  double ci95_high = kNoValue;
  double kl_mean = kNoValue;       // of the first tokens, dense against pruned, nats
  double answer_nll = kNoValue;    // mean over items of nats per answer token
  double block_recall = kNoValue;  // answer's blocks in the deepest set R_S
  // Beyond the fixed keys.
  int64_t dense_correct = 0;  // of the items that dense answers right ...
  int64_t kept = 0;           // ... this mode answers so many right too
  double kept_ci95_low = kNoValue;
  double kept_ci95_high = kNoValue;
  std::vector<double> recall_by_stage;  // R_1 .. R_S
  std::vector<double> recall_by_depth;  // R_S, for answers in the 1st .. 5th fifth of the prompt
};

nlohmann::json ToJson(const MachineInfo& machine);
nlohmann::json ToJson(const PrefillRow& row);
nlohmann::json ToJson(const DecodeRow& row);
nlohmann::json ToJson(const ServeRow& row);
nlohmann::json ToJson(const FairnessRow& row);
nlohmann::json ToJson(const EvalRow& row);

template <typename Row>
nlohmann::json ResultJson(const MachineInfo& machine, const std::vector<Row>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& row : rows) list.push_back(ToJson(row));
  return nlohmann::json{{"machine", ToJson(machine)}, {"rows", std::move(list)}};
}

// One line for people: processor, kernels, threads, commit.
std::string MachineLine(const MachineInfo& machine);

// The commit that this program was built from ("unknown" outside of a git checkout).
std::string BuildCommit();

// Writes `json` to a file. UNAVAILABLE or PERMISSION_DENIED with path and cause.
absl::Status WriteJsonFile(const std::string& path, const nlohmann::json& json);
absl::Status WriteTextFile(const std::string& path, const std::string& text);

}  // namespace slim

#endif  // TOOLS_COMMON_RESULT_JSON_H_
