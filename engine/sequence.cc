#include "engine/sequence.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace slim {

Sequence::Sequence(SequenceId sequence_id, SequenceSpec sequence_spec,
                   std::vector<SegmentPlan> segments, int block_size, int64_t vocab_size)
    : id(sequence_id),
      spec(std::move(sequence_spec)),
      plan(std::move(segments)),
      block_tokens(block_size),
      sampler(spec.sampling, spec.seed, spec.prompt, vocab_size),
      stages(plan.size() - 1) {
  std::vector<int32_t> all(plan[0].num_blocks);
  std::iota(all.begin(), all.end(), 0);
  blocks.push_back(std::move(all));
}

int64_t Sequence::DoneRowLayers() const {
  int64_t done = 0;
  for (int s = 0; s < segment; ++s) done += plan[s].num_tokens * plan[s].num_layers();
  return done + (prefill_done ? current().num_tokens : next_row) * current().num_layers();
}

int64_t Sequence::TotalRowLayers() const {
  int64_t total = 0;
  for (const SegmentPlan& s : plan) total += s.num_tokens * s.num_layers();
  return total;
}

PassItem Sequence::NextChunk(int64_t max_rows) const {
  const SegmentPlan& s = current();
  const int64_t rows = std::min(max_rows, s.num_tokens - next_row);
  PassItem item;
  item.kv = kv;
  item.finish_first = segment > 0;
  item.first_layer = segment > 0 ? s.first_layer - 1 : 0;
  item.last_layer = s.end_layer - 1;
  const bool has_last_token = next_row + rows == s.num_tokens;
  item.last = last_segment() && has_last_token ? PassItem::Last::kKvOnlyButLastRow
                                               : PassItem::Last::kKvOnly;
  item.first_row_in_segment = next_row;
  item.positions.reserve(rows);
  for (int64_t r = next_row; r < next_row + rows; ++r) {
    item.positions.push_back(PositionOf(segment, r));
    if (segment == 0) {
      item.tokens.push_back(spec.prompt[r]);
    } else {
      item.hidden_rows.push_back(SourceRow(r));
    }
  }
  if (segment > 0) item.hidden = boundary_view;
  return item;
}

PassItem Sequence::DecodeRow(int num_layers) const {
  PassItem item;
  item.kv = kv;
  item.first_layer = 0;
  item.last_layer = num_layers - 1;
  item.last = PassItem::Last::kFull;
  item.first_row_in_segment = -1;
  item.positions = {static_cast<int32_t>(prompt_tokens() + generated - 1)};
  item.tokens = {last_token};
  return item;
}

void Sequence::EnterNextSegment(std::vector<int32_t> retained) {
  const std::vector<int32_t>& before = blocks.back();
  source_block.clear();
  source_block.reserve(retained.size());
  size_t i = 0;
  for (const int32_t block : retained) {
    while (before[i] != block) ++i;
    source_block.push_back(static_cast<int32_t>(i));
  }
  blocks.push_back(std::move(retained));
  ++segment;
  next_row = 0;
}

SequenceReport Sequence::Report(int num_layers, int64_t kv_bytes_per_token_layer) const {
  SequenceReport report;
  report.prompt_tokens = prompt_tokens();
  report.cached_tokens = cached_tokens;
  report.pruned_tokens = prompt_tokens() - plan.back().num_tokens;
  report.stages = stages;
  report.digest = DigestText(digest);
  report.reselect_swaps = reselect_swaps;
  report.kv_stall = kv_stall;
  const int64_t full = prompt_tokens() * num_layers;
  report.kept_token_layers = TotalRowLayers();
  report.pruned_token_layers = full - report.kept_token_layers;
  report.stored_kv_bytes = report.kept_token_layers * kv_bytes_per_token_layer;
  report.full_kv_bytes = full * kv_bytes_per_token_layer;
  return report;
}

}  // namespace slim
