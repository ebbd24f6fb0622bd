#include "engine/prune/reselect.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/prune/block_scorer.h"

namespace slim {

Reselector::Reselector(const PruneSchedule& schedule, std::vector<int32_t> retained,
                       std::vector<int32_t> forced, int64_t active_blocks)
    : schedule_(schedule),
      dilation_(schedule.dilation && schedule.score_kind < ScoreKind::kRecency),
      retained_(std::move(retained)),
      forced_(std::move(forced)),
      active_blocks_(active_blocks) {
  schedule_.dilation = false;  // applied once, to the maximum over the window
}

absl::Status Reselector::AddQuery(const BlockScoreArgs& args, Backend* backend) {
  SLIM_ASSIGN_OR_RETURN(const std::vector<float> scores, ComputeScores(schedule_, args, backend));
  std::vector<float> mine(retained_.size(), -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (size_t r = 0; r < retained_.size(); ++r) {
    while (i < args.block_ids.size() && args.block_ids[i] < retained_[r]) ++i;
    if (i < args.block_ids.size() && args.block_ids[i] == retained_[r]) mine[r] = scores[i];
  }
  window_.push_back(std::move(mine));
  if (window_.size() > static_cast<size_t>(schedule_.window_tokens)) window_.pop_front();
  return absl::OkStatus();
}

absl::StatusOr<bool> Reselector::Update() {
  std::vector<float> best(retained_.size(), -std::numeric_limits<float>::infinity());
  for (const std::vector<float>& query : window_) {
    for (size_t r = 0; r < best.size(); ++r) {
      // Written so that a NaN stays: SelectBlocks refuses it.
      if (!(query[r] <= best[r])) best[r] = query[r];
    }
  }
  if (dilation_) Dilate(retained_, best);
  SLIM_ASSIGN_OR_RETURN(std::vector<int32_t> candidates,
                        SelectBlocks(retained_, best, forced_, active_blocks_));
  std::vector<int32_t> common;
  std::set_intersection(candidates.begin(), candidates.end(), active_.begin(), active_.end(),
                        std::back_inserter(common));
  const bool swap =
      static_cast<double>(common.size()) < schedule_.gamma * static_cast<double>(candidates.size());
  if (!swap && !active_.empty()) return false;
  active_ = std::move(candidates);
  return true;
}

}  // namespace slim
