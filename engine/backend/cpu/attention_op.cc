#include "engine/backend/cpu/attention_op.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/base/check.h"

namespace slim {
namespace {

constexpr int64_t kSpanTokens = 512;
constexpr int kRowsPerJob = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void AttentionOp::Configure(const KvLayout& layout, int num_heads) {
  layout_ = layout;
  num_heads_ = num_heads;
  group_ = num_heads / layout.num_kv_heads;
  span_tokens_ = kSpanTokens / layout.block_tokens * layout.block_tokens;
  scale_log2e_ =
      static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(layout.head_dim)));
  const int64_t queries = int64_t{kRowsPerJob} * group_;
  // Converted queries, running state, one tile's result, and the kernel's scratch.
  const int64_t floats = queries * layout.head_dim + queries * (layout.head_dim + 2) +
                         kMaxQueries * (layout.head_dim + 2) + SpanScratchFloats(span_tokens_);
  workspace_.assign(pool_->num_threads(), std::vector<float>(floats + 64));
}

int64_t AttentionOp::PartialFloats() const { return int64_t{group_} * (layout_.head_dim + 2); }

void AttentionOp::FindLimits(absl::Span<const int32_t> positions,
                             absl::Span<const AttentionSequence> sequences) {
  const int block_tokens = layout_.block_tokens;
  limits_.resize(positions.size());
  for (const AttentionSequence& sequence : sequences) {
    size_t page = 0;  // pages before it lie wholly before the row's own block
    for (int64_t r = sequence.first_row; r < sequence.first_row + sequence.num_rows; ++r) {
      const int32_t block = positions[r] / block_tokens;
      while (page < sequence.block_ids.size() && sequence.block_ids[page] < block) ++page;
      const bool own = page < sequence.block_ids.size() && sequence.block_ids[page] == block;
      limits_[r] =
          static_cast<int32_t>(page) * block_tokens + (own ? positions[r] % block_tokens + 1 : 0);
      SLIM_CHECK(limits_[r] > 0);
    }
  }
}

void AttentionOp::MakeJobs(absl::Span<const AttentionSequence> sequences) {
  jobs_.clear();
  int64_t partials = 0;
  for (int s = 0; s < static_cast<int>(sequences.size()); ++s) {
    const AttentionSequence& sequence = sequences[s];
    for (int kv = 0; kv < layout_.num_kv_heads; ++kv) {
      if (sequence.num_rows == 1) {
        const int64_t spans = CeilDiv(limits_[sequence.first_row], span_tokens_);
        for (int64_t span = 0; span < spans; ++span) {
          jobs_.push_back({s, kv, sequence.first_row, 1, span, partials, span_tokens_});
          partials += PartialFloats();
        }
        continue;
      }
      for (int64_t row = 0; row < sequence.num_rows; row += kRowsPerJob) {
        const int64_t first = sequence.first_row + row;
        const auto rows = static_cast<int>(std::min<int64_t>(kRowsPerJob, sequence.num_rows - row));
        jobs_.push_back({s, kv, first, rows, -1, -1, int64_t{limits_[first + rows - 1]} * rows});
      }
    }
  }
  if (static_cast<int64_t>(partials_.size()) < partials) partials_.resize(partials);
  // Long jobs first, so that no thread is left with one at the end.
  std::stable_sort(jobs_.begin(), jobs_.end(),
                   [](const Job& a, const Job& b) { return a.cost > b.cost; });
}

void AttentionOp::Merge(int head_dim, float max, float sum, const float* out, float* total_max,
                        float* total_sum, float* total_out) {
  if (max == -std::numeric_limits<float>::infinity()) return;  // nothing visible in this span
  // A NaN maximum must spread: it is what tells that the sequence's numbers are broken.
  const float largest = *total_max >= max ? *total_max : max;
  const float keep = std::exp2(*total_max - largest);
  const float add = std::exp2(max - largest);
  for (int d = 0; d < head_dim; ++d) total_out[d] = total_out[d] * keep + out[d] * add;
  *total_sum = *total_sum * keep + sum * add;
  *total_max = largest;
}

void AttentionOp::RunSpan(const Job& job, const AttentionSequence& sequence, int64_t span,
                          const uint8_t* queries, float* scratch, const State& state) const {
  const int head_dim = layout_.head_dim;
  const int num_queries = job.rows * group_;
  const auto first_page = static_cast<size_t>(span * span_tokens_ / layout_.block_tokens);
  SpanArgs args;
  args.slabs = sequence.slabs.data() + first_page;
  args.key_offset = layout_.key_head_offset(job.kv_head);
  args.value_offset = layout_.value_head_offset(job.kv_head);
  args.block_tokens = layout_.block_tokens;
  args.head_dim = head_dim;
  args.scale_log2e = scale_log2e_;
  args.max = scratch;
  args.sum = scratch + kMaxQueries;
  args.out = scratch + 2 * kMaxQueries;
  args.scratch = scratch + kMaxQueries * (head_dim + 2);
  int32_t limits[kMaxQueries];
  args.limits = limits;
  for (int q = 0; q < num_queries; q += kernels_.query_tile) {
    args.num_queries = std::min(kernels_.query_tile, num_queries - q);
    args.queries = queries + int64_t{q} * head_dim * kernels_.element_bytes;
    int32_t most = 0;
    for (int i = 0; i < args.num_queries; ++i) {
      const int64_t visible = limits_[job.first_row + (q + i) / group_] - span * span_tokens_;
      limits[i] = static_cast<int32_t>(std::clamp<int64_t>(visible, 0, span_tokens_));
      most = std::max(most, limits[i]);
    }
    if (most == 0) continue;
    kernels_.attend_span(args);
    for (int i = 0; i < args.num_queries; ++i) {
      Merge(head_dim, args.max[i], args.sum[i], args.out + int64_t{i} * head_dim, &state.max[q + i],
            &state.sum[q + i], &state.out[int64_t{q + i} * head_dim]);
    }
  }
}

void AttentionOp::WriteRow(const State& state, int query, float* out) const {
  const float inverse = 1.0f / state.sum[query];
  for (int d = 0; d < layout_.head_dim; ++d) {
    out[d] = state.out[int64_t{query} * layout_.head_dim + d] * inverse;
  }
}

void AttentionOp::RunJob(const Job& job, TensorView q, const AttentionSequence& sequence,
                         TensorView out, int thread) {
  const int head_dim = layout_.head_dim;
  const int num_queries = job.rows * group_;
  float* memory = workspace_[thread].data();
  auto* queries = reinterpret_cast<uint8_t*>(memory);
  memory += int64_t{kRowsPerJob} * group_ * head_dim;
  const auto column = [&](int query) {
    return (job.first_row + query / group_) * q.cols +
           (int64_t{job.kv_head} * group_ + query % group_) * head_dim;
  };
  for (int i = 0; i < num_queries; ++i) {
    kernels_.convert_query(q.f32() + column(i), head_dim,
                           queries + int64_t{i} * head_dim * kernels_.element_bytes);
  }
  const bool partial = job.span >= 0;
  float* results = partial ? &partials_[job.partial] : memory;
  memory += int64_t{kRowsPerJob} * group_ * (head_dim + 2);
  const State state{results, results + num_queries, results + 2 * int64_t{num_queries}};
  std::fill_n(state.max, num_queries, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sum, int64_t{num_queries} * (head_dim + 1), 0.0f);
  if (partial) {
    RunSpan(job, sequence, job.span, queries, memory, state);
    return;
  }
  const int64_t spans = CeilDiv(limits_[job.first_row + job.rows - 1], span_tokens_);
  for (int64_t span = 0; span < spans; ++span) {
    RunSpan(job, sequence, span, queries, memory, state);
  }
  for (int i = 0; i < num_queries; ++i) WriteRow(state, i, out.f32() + column(i));
}

void AttentionOp::MergePartials(absl::Span<const AttentionSequence> sequences, TensorView out) {
  const int head_dim = layout_.head_dim;
  int64_t at = 0;
  std::vector<float> total(PartialFloats());
  for (const AttentionSequence& sequence : sequences) {
    if (sequence.num_rows != 1) continue;
    const int64_t spans = CeilDiv(limits_[sequence.first_row], span_tokens_);
    for (int kv = 0; kv < layout_.num_kv_heads; ++kv) {
      const State state{total.data(), total.data() + group_, total.data() + 2 * group_};
      std::fill_n(state.max, group_, -std::numeric_limits<float>::infinity());
      std::fill_n(state.sum, group_ * (head_dim + 1), 0.0f);
      for (int64_t span = 0; span < spans; ++span, at += PartialFloats()) {
        const float* part = &partials_[at];
        for (int i = 0; i < group_; ++i) {
          Merge(head_dim, part[i], part[group_ + i], part + 2 * group_ + i * head_dim,
                &state.max[i], &state.sum[i], &state.out[int64_t{i} * head_dim]);
        }
      }
      for (int i = 0; i < group_; ++i) {
        WriteRow(state, i,
                 out.f32() + sequence.first_row * out.cols + (int64_t{kv} * group_ + i) * head_dim);
      }
    }
  }
}

void AttentionOp::Run(TensorView q, absl::Span<const int32_t> positions,
                      absl::Span<const AttentionSequence> sequences, TensorView out) {
  FindLimits(positions, sequences);
  MakeJobs(sequences);
  pool_->ParallelFor(static_cast<int64_t>(jobs_.size()), [&](int64_t j, int thread) {
    RunJob(jobs_[j], q, sequences[jobs_[j].sequence], out, thread);
  });
  MergePartials(sequences, out);
}

}  // namespace slim
