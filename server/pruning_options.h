// Which pruning a request gets: its own options, or the server's default, resolved into a
// PruneSchedule that the engine can run. Thread-safe (pure functions).
#ifndef SERVER_PRUNING_OPTIONS_H_
#define SERVER_PRUNING_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/model_config.h"
#include "engine/prune/profile.h"
#include "engine/prune/prune_plan.h"

namespace sliminfer::v1 {
class PruningOptions;
}

namespace slim {

// The value of --pruning: what a request that says nothing gets.
struct PruningDefault {
  enum class Mode { kAuto, kOff, kProfile, kPaper, kRatio };  // kAuto: the profile if there is one
  Mode mode = Mode::kAuto;
  double ratio = 0.25;  // kRatio only
};

// "auto", "off", "profile", "paper" or "ratio:R" with R in (0, 1]; INVALID_ARGUMENT naming the
// value seen.
absl::StatusOr<PruningDefault> ParsePruningDefault(absl::string_view text);
std::string PruningDefaultText(const PruningDefault& pruning);

// What options are checked and resolved against: facts of the model and the server's defaults. The
// pointers are borrowed; `profile` is null when the model has none.
struct PruningContext {
  const ModelConfig* model = nullptr;
  const PruneProfile* profile = nullptr;
  int block_tokens = 0;
  PruningDefault server_default;
  DecodeMode server_decode = DecodeMode::kFrozen;
};

// Checks every field, also those that the mode does not read. INVALID_ARGUMENT names field, value
// and range; UNIMPLEMENTED with reason FEATURE when the mode needs a profile and there is none.
absl::Status ValidatePruningOptions(const sliminfer::v1::PruningOptions& options,
                                    const PruningContext& context);

// Resolves mode and defaults of validated options for a prompt of `num_tokens` tokens.
absl::StatusOr<PruneSchedule> BuildPruneSchedule(const sliminfer::v1::PruningOptions& options,
                                                 const PruningContext& context, int64_t num_tokens);

}  // namespace slim

#endif  // SERVER_PRUNING_OPTIONS_H_
