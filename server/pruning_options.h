// Which pruning a request gets: its own options, or the server's default, resolved into a
// PruneSchedule that the engine can run. Thread-safe (pure functions).
#ifndef SERVER_PRUNING_OPTIONS_H_
#define SERVER_PRUNING_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/prune/prune_plan.h"

namespace sliminfer::v1 {
class PruningOptions;
}

namespace slim {

// The value of --pruning: what a request that says nothing gets.
struct PruningDefault {
  enum class Mode { kOff, kProfile, kPaper, kRatio };
  Mode mode = Mode::kOff;
  double ratio = 0.25;  // kRatio only
};

// "off", "profile", "paper" or "ratio:R" with R in (0, 1]; INVALID_ARGUMENT naming the value seen.
absl::StatusOr<PruningDefault> ParsePruningDefault(absl::string_view text);
std::string PruningDefaultText(const PruningDefault& pruning);

// What a schedule is checked against: facts of the model and the server's defaults.
struct PruningContext {
  int num_layers = 0;
  int block_tokens = 0;
  int64_t context_tokens = 0;
  PruningDefault server_default;
  DecodeMode server_decode = DecodeMode::kFrozen;
};

// Checks every field, then resolves mode and defaults. INVALID_ARGUMENT names field, value and
// range (all of them are checked, also those that the mode does not read); UNIMPLEMENTED with
// reason FEATURE for what this build cannot run.
absl::StatusOr<PruneSchedule> BuildPruneSchedule(const sliminfer::v1::PruningOptions& options,
                                                 const PruningContext& context);

}  // namespace slim

#endif  // SERVER_PRUNING_OPTIONS_H_
