// The pruning modes that bench and eval compare, as named on the command line, and the schedule of
// each for a prompt of given length. Plain values.
#ifndef TOOLS_COMMON_PRUNING_CHOICE_H_
#define TOOLS_COMMON_PRUNING_CHOICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "engine/model/model_config.h"
#include "engine/prune/profile.h"
#include "engine/prune/prune_plan.h"

namespace slim {

struct PruningChoice {
  enum class Budget { kOff, kPaper, kRatio, kProfile };
  std::string name;  // as it was written
  Budget budget = Budget::kOff;
  double ratio = 0;                        // kRatio
  std::string profile_path;                // kProfile: a file, empty = the model's own
  absl::optional<ScoreKind> control;       // kRandom or kRecency in place of the score
  absl::optional<PruneProfile> from_file;  // read by LoadProfiles
};

// off | paper | ratio:R | profile | profile:FILE | random:R | recency:R | random:profile |
// recency:profile, separated by commas. The last two choose as many blocks as the profile at the
// same layers, by a score that knows nothing: the fair negative controls of a profile.
absl::StatusOr<std::vector<PruningChoice>> ParsePruningList(absl::string_view text);

// Reads the profile files that choices name. The errors of ReadProfile.
absl::Status LoadProfiles(std::vector<PruningChoice>& choices);

// FAILED_PRECONDITION when the choice wants a profile and there is none that fits the model.
absl::StatusOr<PruneSchedule> ScheduleOf(const PruningChoice& choice, int64_t num_tokens,
                                         int block_tokens, const ModelConfig& config,
                                         const absl::optional<PruneProfile>& profile);

}  // namespace slim

#endif  // TOOLS_COMMON_PRUNING_CHOICE_H_
