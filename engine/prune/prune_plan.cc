#include "engine/prune/prune_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

// Fewer tokens than this left to choose from and the method silently becomes sink-and-local.
constexpr int64_t kMinChosenTokens = 256;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

absl::Status FieldError(absl::string_view field, const absl::AlphaNum& value,
                        absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("pruning.", field, " is ", value.Piece(), ", allowed is ", allowed));
}

SegmentPlan DenseSegment(int num_layers, int64_t blocks, int64_t tokens, int64_t forced) {
  return SegmentPlan{0, num_layers, blocks, tokens, forced};
}

}  // namespace

std::vector<int32_t> ForcedBlocks(const PruneSchedule& schedule, int block_tokens,
                                  int64_t num_tokens) {
  const int64_t blocks = CeilDiv(num_tokens, block_tokens);
  const int64_t sink = std::min<int64_t>(schedule.sink_blocks, blocks);
  const int64_t local =
      std::min(num_tokens, std::max<int64_t>(schedule.local_tokens, schedule.window_tokens));
  const int64_t first_local = std::max(sink, (num_tokens - local) / block_tokens);
  std::vector<int32_t> forced;
  forced.reserve(sink + blocks - first_local);
  for (int64_t block = 0; block < sink; ++block) forced.push_back(static_cast<int32_t>(block));
  for (int64_t block = first_local; block < blocks; ++block) {
    forced.push_back(static_cast<int32_t>(block));
  }
  return forced;
}

std::vector<SegmentPlan> ResolvePlan(const PruneSchedule& schedule, int num_layers,
                                     int block_tokens, int64_t num_tokens) {
  const int64_t all_blocks = CeilDiv(num_tokens, block_tokens);
  const int64_t missing = all_blocks * block_tokens - num_tokens;  // of the last, forced block
  const int64_t forced =
      static_cast<int64_t>(ForcedBlocks(schedule, block_tokens, num_tokens).size());
  const int64_t floor_blocks = forced + CeilDiv(kMinChosenTokens, block_tokens);
  std::vector<SegmentPlan> plan = {DenseSegment(num_layers, all_blocks, num_tokens, forced)};
  if (num_tokens < schedule.min_prompt_tokens) return plan;
  for (const PruneStage& stage : schedule.stages) {
    const int64_t blocks = std::max(stage.budget_tokens / block_tokens, floor_blocks);
    if (blocks >= plan.back().num_blocks) continue;  // drops nothing
    plan.back().end_layer = stage.layer;
    plan.push_back(
        SegmentPlan{stage.layer, num_layers, blocks, blocks * block_tokens - missing, forced});
  }
  return plan;
}

absl::Status ValidateSchedule(const PruneSchedule& schedule, int num_layers, int block_tokens,
                              int64_t max_tokens) {
  int last_layer = 0;
  int64_t last_budget = INT64_MAX;
  for (const PruneStage& stage : schedule.stages) {
    if (!(stage.layer > last_layer && stage.layer < num_layers)) {
      return FieldError("stages.layer", stage.layer,
                        absl::StrCat("strictly increasing within 1 to ", num_layers - 1));
    }
    if (!(stage.budget_tokens > 0 && stage.budget_tokens <= last_budget &&
          stage.budget_tokens % block_tokens == 0)) {
      return FieldError("stages.budget_tokens", stage.budget_tokens,
                        absl::StrCat("positive, non-increasing, a multiple of ", block_tokens));
    }
    last_layer = stage.layer;
    last_budget = stage.budget_tokens;
  }
  if (!(schedule.window_tokens >= 1 && schedule.window_tokens <= 256)) {
    return FieldError("window_tokens", schedule.window_tokens, "1 to 256");
  }
  if (!(schedule.sink_blocks >= 0 && schedule.sink_blocks <= 64)) {
    return FieldError("sink_blocks", schedule.sink_blocks, "0 to 64");
  }
  if (!(schedule.local_tokens >= 0 && schedule.local_tokens <= max_tokens)) {
    return FieldError("local_tokens", schedule.local_tokens, absl::StrCat("0 to ", max_tokens));
  }
  if (!(schedule.min_prompt_tokens >= 0 && schedule.min_prompt_tokens <= max_tokens)) {
    return FieldError("min_prompt_tokens", schedule.min_prompt_tokens,
                      absl::StrCat("0 to ", max_tokens));
  }
  if (!(schedule.gamma >= 0 && schedule.gamma <= 1)) {
    return FieldError("gamma", schedule.gamma, "0 to 1");
  }
  if (!(schedule.decode_budget_tokens >= 0 && schedule.decode_budget_tokens <= max_tokens)) {
    return FieldError("decode_budget_tokens", schedule.decode_budget_tokens,
                      absl::StrCat("0 to ", max_tokens));
  }
  return absl::OkStatus();
}

}  // namespace slim
