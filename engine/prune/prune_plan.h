// Which blocks of prompt tokens survive which layer: the schedule a request asks for, resolved
// against its length into segments. Pure arithmetic, no model, no backend.
//
// A *stage* (layer l, budget b) says: from layer l on at most b prompt tokens are computed and
// cached. Stages cut the layers into *segments*: segment 0 is [0, l_1) with all tokens, segment s
// is [l_s, l_{s+1}) with the blocks R_s, a subset of R_{s-1}. The last layer of a segment, l_{s+1}
// - 1, is the *decision layer*: it caches K and V of all incoming tokens and computes the rest for
// retained tokens only. Thread rule: plain values.
#ifndef ENGINE_PRUNE_PRUNE_PLAN_H_
#define ENGINE_PRUNE_PRUNE_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace slim {

struct PruneStage {
  int layer = 0;              // first layer that sees the smaller set, in (0, num_layers)
  int64_t budget_tokens = 0;  // a multiple of the block size
};

enum class DecodeMode : uint8_t {
  kFrozen,    // decode attends to what prefill retained
  kReselect,  // decode selects again among the retained blocks
};

// What a request asks for, after profile and defaults were applied. No stages: dense.
struct PruneSchedule {
  std::vector<PruneStage> stages;
  ScoreKind score_kind = ScoreKind::kWindowAttention;
  int window_tokens = 24;         // queries that decide: the last so many prompt tokens
  bool dilation = true;           // a neighbour's score times 0.5 raises a block
  int sink_blocks = 1;            // leading blocks that always stay
  int64_t local_tokens = 128;     // trailing tokens whose blocks always stay
  int64_t min_prompt_tokens = 0;  // shorter prompts are not pruned
  uint64_t random_seed = 0;       // kRandom only
  DecodeMode decode_mode = DecodeMode::kFrozen;
  double gamma = 0.9;                // RESELECT: swap when the overlap falls below it
  int64_t decode_budget_tokens = 0;  // RESELECT: active prompt tokens per segment; 0 = all retained
  std::string profile;               // name, for the report
};

// One segment of a resolved plan.
struct SegmentPlan {
  int first_layer = 0;
  int end_layer = 0;          // one past the segment's last layer
  int64_t num_blocks = 0;     // |R_s|
  int64_t num_tokens = 0;     // m_s: tokens in R_s (the last block may be partial)
  int64_t forced_blocks = 0;  // of these, sink and local blocks
  int num_layers() const { return end_layer - first_layer; }
};

// Resolves a schedule for a prompt of `num_tokens`. A stage that would drop nothing is left out; a
// budget that leaves fewer than 256 tokens to be chosen beyond the forced blocks is raised until it
// does. No stage left (or a short prompt): one dense segment. Never fails on a validated schedule.
std::vector<SegmentPlan> ResolvePlan(const PruneSchedule& schedule, int num_layers,
                                     int block_tokens, int64_t num_tokens);

// INVALID_ARGUMENT naming field, value and range: layers strictly increasing in (0, num_layers);
// budgets positive, non-increasing, multiples of block_tokens; window >= 1; gamma in [0, 1]; ...
absl::Status ValidateSchedule(const PruneSchedule& schedule, int num_layers, int block_tokens,
                              int64_t max_tokens);

// Ascending block ids that are always retained: sink blocks and those of the last
// max(local_tokens, window_tokens) tokens.
std::vector<int32_t> ForcedBlocks(const PruneSchedule& schedule, int block_tokens,
                                  int64_t num_tokens);

}  // namespace slim

#endif  // ENGINE_PRUNE_PRUNE_PLAN_H_
