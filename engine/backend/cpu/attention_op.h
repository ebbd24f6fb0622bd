// Attention on the CPU. Each query looks at its sequence's pages in *spans* of 512 tokens, counted
// from the start of the page list: within a span scores, their maximum, probabilities and the
// weighted sum of values; spans are then joined in ascending order. What is computed for a query
// depends on nothing but its pages and position, so chunks, batches and threads change no bit.
// Private to the CPU backend.
#ifndef ENGINE_BACKEND_CPU_ATTENTION_OP_H_
#define ENGINE_BACKEND_CPU_ATTENTION_OP_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/thread_pool.h"

namespace slim {

class AttentionOp {
 public:
  AttentionOp(const CpuKernels& kernels, ThreadPool* pool) : kernels_(kernels), pool_(pool) {}

  void Configure(const KvLayout& layout, int num_heads);
  void Run(TensorView q, absl::Span<const int32_t> positions,
           absl::Span<const AttentionSequence> sequences, TensorView out);

 private:
  // Neighbouring rows of one sequence by one key/value head; all spans, or one of them.
  struct Job {
    int sequence = 0;
    int kv_head = 0;
    int64_t first_row = 0;
    int rows = 0;
    int64_t span = -1;     // -1: all
    int64_t partial = -1;  // where a single span's result goes
    int64_t cost = 0;
  };
  // Running result of some queries: maximum, sum, weighted values.
  struct State {
    float* max;
    float* sum;
    float* out;  // [queries, head_dim]
  };

  void FindLimits(absl::Span<const int32_t> positions,
                  absl::Span<const AttentionSequence> sequences);
  void MakeJobs(absl::Span<const AttentionSequence> sequences);
  void RunJob(const Job& job, TensorView q, const AttentionSequence& sequence, TensorView out,
              int thread);
  void RunSpan(const Job& job, const AttentionSequence& sequence, int64_t span,
               const uint8_t* queries, float* scratch, const State& state) const;
  void MergePartials(absl::Span<const AttentionSequence> sequences, TensorView out);
  static void Merge(int head_dim, float max, float sum, const float* out, float* total_max,
                    float* total_sum, float* total_out);
  void WriteRow(const State& state, int query, float* out) const;
  int64_t PartialFloats() const;

  const CpuKernels& kernels_;
  ThreadPool* const pool_;
  KvLayout layout_;
  int num_heads_ = 0;
  int group_ = 1;              // query heads per key/value head
  int64_t span_tokens_ = 512;  // a multiple of the block size
  float scale_log2e_ = 0;
  std::vector<int32_t> limits_;  // per row: visible keys, a prefix of its sequence's page list
  std::vector<Job> jobs_;
  std::vector<float> partials_;                // results of single spans
  std::vector<std::vector<float>> workspace_;  // per thread
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_ATTENTION_OP_H_
