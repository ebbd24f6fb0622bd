// RESELECT: which retained blocks of one segment decode attends to, chosen again as generation
// moves on (SlimInfer, section on the asynchronous KV-cache manager).
//
// The last w queries at the decision layer score the segment's blocks R_s; the best of them, with
// the forced ones, are the candidates C of a fixed size; the active set A becomes C when
// |C and A| < gamma |C|. A block's score is the maximum over the window's queries of that query's
// own score, so a query is scored once, when it is made, and remembered for w tokens.
// Thread rule: only the worker thread.
#ifndef ENGINE_PRUNE_RESELECT_H_
#define ENGINE_PRUNE_RESELECT_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/prune/prune_plan.h"

namespace slim {

class Reselector {
 public:
  // `retained` is R_s and `forced` a subset of it, both ascending; `active_blocks` < |R_s| is |C|.
  Reselector(const PruneSchedule& schedule, std::vector<int32_t> retained,
             std::vector<int32_t> forced, int64_t active_blocks);

  // Scores one query [1, heads * head_dim] against the decision layer's pages and remembers it.
  // Blocks of R_s that are not among args.block_ids count as not scored by this query.
  absl::Status AddQuery(const BlockScoreArgs& args, Backend* backend);

  // Chooses again from the remembered queries. True when the active set changed; the first call
  // always sets it. INTERNAL for a NaN score.
  absl::StatusOr<bool> Update();

  const std::vector<int32_t>& active() const { return active_; }  // A_s, ascending

 private:
  PruneSchedule schedule_;
  bool dilation_;
  std::vector<int32_t> retained_;
  std::vector<int32_t> forced_;
  int64_t active_blocks_;
  std::deque<std::vector<float>> window_;  // per query: a score per block of retained_
  std::vector<int32_t> active_;
};

}  // namespace slim

#endif  // ENGINE_PRUNE_RESELECT_H_
