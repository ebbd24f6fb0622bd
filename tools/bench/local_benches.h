// Prefill and decode speed of a model in this process. Pruning modes take turns within every run,
// so that their ratios come from the same minutes of the machine. Thread rule: one thread.
#ifndef TOOLS_BENCH_LOCAL_BENCHES_H_
#define TOOLS_BENCH_LOCAL_BENCHES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tools/common/local_engine.h"
#include "tools/common/pruning_choice.h"
#include "tools/common/result_json.h"

namespace slim {

struct PrefillBenchOptions {
  std::vector<int64_t> lengths;  // prompt tokens
  std::vector<PruningChoice> pruning;
  int runs = 5;
  int64_t max_new_tokens = 1;
  int64_t chunk_tokens = 512;
  // Above 0: one more row per length and mode for a question of so many tokens behind a text that
  // the prefix cache holds.
  int64_t question_tokens = 0;
  // One more run of each, not counted, with every op timed on the device.
  bool op_times = false;
  bool roofline = true;  // CPU: probe the machine's peak before and after each length
  uint64_t seed = 1;
};

// One row per length and mode, in that order; one warm-up each, not counted. UNIMPLEMENTED when op
// times are asked of a backend that has none.
absl::StatusOr<std::vector<PrefillRow>> RunPrefillBench(const PrefillBenchOptions& options,
                                                        LocalModel* model);

// Where cached keys and values lie.
struct KvChoice {
  KvTier tier = KvTier::kUnified;
  bool prefetch = true;  // discrete: false fetches pages only when they are asked for
};

struct DecodeBenchOptions {
  std::vector<int64_t> contexts;  // prompt tokens of each stream
  std::vector<int64_t> streams;
  std::vector<PruningChoice> pruning;
  DecodeMode decode_mode = DecodeMode::kFrozen;
  int64_t decode_budget_tokens = 0;  // RESELECT only
  int64_t max_new_tokens = 32;       // measured steps, after two that are not
  int64_t chunk_tokens = 512;
  uint64_t seed = 1;
  std::vector<KvChoice> kv = {KvChoice()};
  // CPU: probe the machine's bandwidth before and after each measurement. Needs 256 MiB or more.
  bool roofline = true;
};

// One row per context, mode, stream count and KV memory; models[i] was opened with options.kv[i].
// Streams are added one after the other, each with a prompt of its own, and measured at every count
// asked for, the memories by turns.
absl::StatusOr<std::vector<DecodeRow>> RunDecodeBench(const DecodeBenchOptions& options,
                                                      absl::Span<LocalModel* const> models);

// With the rooflines below, and the share of each kind of op where ops were timed.
std::string PrefillTable(const std::vector<PrefillRow>& rows);
std::string DecodeTable(const std::vector<DecodeRow>& rows);

}  // namespace slim

#endif  // TOOLS_BENCH_LOCAL_BENCHES_H_
