// The state of one sequence inside the engine: its plan, how far its prefill has come, the hidden
// states between two segments, and what it has generated. Private to the engine; plain data with
// the arithmetic of rows and blocks. Thread rule: only the worker thread.
#ifndef ENGINE_SEQUENCE_H_
#define ENGINE_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/engine.h"
#include "engine/packed_pass.h"
#include "engine/prune/block_scorer.h"
#include "engine/prune/reselect.h"
#include "engine/sample/sampler.h"

namespace slim {

struct Sequence {
  Sequence(SequenceId sequence_id, SequenceSpec sequence_spec, std::vector<SegmentPlan> segments,
           int block_size, int64_t vocab_size);

  const SequenceId id;
  const SequenceSpec spec;
  const std::vector<SegmentPlan> plan;
  const int block_tokens;
  KvSequenceId kv{};

  // Prefill cursor. R_s of the current segment and where each block lies in R_{s-1}.
  int segment = 0;
  int64_t next_row = 0;                      // rows of the segment that are done
  std::vector<std::vector<int32_t>> blocks;  // R_0, R_1, ... as far as decided
  std::vector<int32_t> source_block;  // index in R_{s-1} of each block of R_s; empty for s = 0
  bool prefill_done = false;
  Buffer boundary;           // X: hidden states at the input of the decision layer
  TensorView boundary_view;  // [rows of the segment before or n, d]

  // Generation.
  Sampler sampler;
  int32_t last_token = -1;           // sampled, not yet fed
  int64_t generated = 0;             // sampled tokens
  std::vector<Reselector> reselect;  // one per stage; empty when frozen

  // Account.
  std::vector<StageReport> stages;
  uint64_t digest = kDigestSeed;
  int64_t cached_tokens = 0;
  int64_t reselect_swaps = 0;
  absl::Duration kv_stall;

  int64_t prompt_tokens() const { return static_cast<int64_t>(spec.prompt.size()); }
  const SegmentPlan& current() const { return plan[segment]; }
  bool last_segment() const { return segment + 1 == static_cast<int>(plan.size()); }
  // Position of row `row` of segment `s`.
  int32_t PositionOf(int s, int64_t row) const {
    return blocks[s][row / block_tokens] * block_tokens + static_cast<int32_t>(row % block_tokens);
  }
  // Row of the segment before that row `row` of the current segment was.
  int64_t SourceRow(int64_t row) const {
    return int64_t{source_block[row / block_tokens]} * block_tokens + row % block_tokens;
  }
  // Work done and in all, in row-layers.
  int64_t DoneRowLayers() const;
  int64_t TotalRowLayers() const;

  // The chunk of at most `max_rows` rows that comes next, as a pass item.
  PassItem NextChunk(int64_t max_rows) const;
  // One decode row: the last sampled token at the next position, through all layers.
  PassItem DecodeRow(int num_layers) const;
  // Moves on to the next segment, whose blocks are `retained`.
  void EnterNextSegment(std::vector<int32_t> retained);
  SequenceReport Report(int num_layers, int64_t kv_bytes_per_token_layer) const;
};

}  // namespace slim

#endif  // ENGINE_SEQUENCE_H_
