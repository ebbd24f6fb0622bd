// A model's pruning profile: which layers decide, by which score, and how much stays. What the
// calibration tool writes and the server reads; profiles of known models are built into the binary.
//
// File format, JSON:
//   {
//     "name": "smollm2-135m",          shown in reports
//     "model": {"architecture": "llama", "layers": 30, "width": 576, "heads": 9, "vocabulary":
//     49152}, "block_tokens": 32,               32 or 64: size of a block, and of a KV page
//     "stages": [                       in order; a stage keeps tokens + ratio * n prompt tokens,
//       {"layer": 8, "tokens": 768, "ratio": 0.05}, ...    rounded up to whole blocks
//     ],
//     "score": "window_attention",      unit_max, unit_signed, mean_pool, max_pool,
//     window_attention "window_tokens": 24, "dilation": true, "sink_blocks": 1, "local_tokens":
//     128, "min_prompt_tokens": 1024         shorter prompts are not pruned
//   }
// "layer" is the first layer that sees the smaller set; the layer before it decides. A key that is
// not listed here is an error, so is a missing one of name, model, stages. Plain values.
#ifndef ENGINE_PRUNE_PROFILE_H_
#define ENGINE_PRUNE_PROFILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "engine/model/model_config.h"
#include "engine/prune/prune_plan.h"

namespace slim {

struct ProfileStage {
  int layer = 0;
  int64_t tokens = 0;  // kept whatever the length
  double ratio = 0;    // plus this share of the prompt
};

struct PruneProfile {
  std::string name;
  std::string architecture;
  int num_layers = 0;
  int width = 0;
  int num_heads = 0;
  int64_t vocab_size = 0;
  int block_tokens = 64;
  std::vector<ProfileStage> stages;
  PruneSchedule defaults;  // everything but the stages

  bool Matches(const ModelConfig& config) const;
  // The schedule for a prompt of `num_tokens`.
  PruneSchedule ScheduleFor(int64_t num_tokens) const;
};

// INVALID_ARGUMENT names key, value and range.
absl::StatusOr<PruneProfile> ParseProfile(absl::string_view json);
std::string FormatProfile(const PruneProfile& profile);

// Reads a profile file. NOT_FOUND or INVALID_ARGUMENT with the path.
absl::StatusOr<PruneProfile> ReadProfile(const std::string& path);

// The built-in profile of this model, if there is one.
absl::optional<PruneProfile> BuiltInProfile(const ModelConfig& config);

// The published schedule for a model of this depth: layers floor(L/3), twice that, L - 2; budgets
// 8192, 4096, 2048 tokens (Qwen2.5-7B: 12288, 6144, 4096), unit_max over a window of 4 queries.
PruneSchedule PaperSchedule(const ModelConfig& config);

// Budgets ratio n, ratio n / 2, ratio n / 4, rounded up to whole blocks, at the profile's layers
// and by its score where the model has a profile, else as PaperSchedule.
PruneSchedule RatioSchedule(double ratio, int64_t num_tokens, int block_tokens,
                            const ModelConfig& config, const PruneProfile* profile);

// "unit_max" <-> ScoreKind::kUnitMax, and so on.
absl::optional<ScoreKind> ParseScoreKind(absl::string_view name);
absl::string_view ScoreKindName(ScoreKind kind);

}  // namespace slim

#endif  // ENGINE_PRUNE_PROFILE_H_
