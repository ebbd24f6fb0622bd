// Linear layers on the CPU: transforms and quantises the input rows once, then multiplies them with
// every weight of the call, split over threads by tiles of outputs. Private to the CPU backend.
#ifndef ENGINE_BACKEND_CPU_LINEAR_OP_H_
#define ENGINE_BACKEND_CPU_LINEAR_OP_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/packed_weight.h"
#include "engine/backend/cpu/thread_pool.h"

namespace slim {

class LinearOp {
 public:
  LinearOp(const CpuKernels& kernels, ThreadPool* pool) : kernels_(kernels), pool_(pool) {}

  void Run(const LinearInput& input, absl::Span<const LinearOutput> outputs);

 private:
  // A range of tile pairs of one output, for all rows of a block.
  struct Task {
    int output = 0;
    int64_t first_pair = 0, end_pair = 0;
    int64_t first_row = 0, rows = 0;
  };

  // Rows in 8 bits: x = scale * q, exact sums per group.
  struct Quantised {
    std::vector<int8_t> q;          // [rows, cols]
    std::vector<float> scale;       // [rows, groups]
    std::vector<float> scaled_sum;  // [rows, groups]
    std::vector<int32_t> sum;       // [rows, groups]
    void Grow(int64_t rows, int64_t cols);
  };

  // How the rows of a call are needed.
  struct Needs {
    bool quantised = false;
    bool precise = false;
    bool floats = false;  // transformed, for float weights
  };
  void PrepareRows(const LinearInput& input, const Needs& needs);
  void PrepareRow(const LinearInput& input, int64_t row, const Needs& needs, float* scratch,
                  float* residual);
  void QuantiseRow(const float* values, int64_t row, int64_t cols, Quantised& out) const;
  void MakeTasks(absl::Span<const LinearOutput> outputs, int64_t rows);
  void RunTask(const Task& task, const LinearInput& input, const LinearOutput& output) const;
  void MultiplyInt(const Task& task, const PackedWeight& weight, const Quantised& x,
                   IntGemmArgs args) const;

  const CpuKernels& kernels_;
  ThreadPool* const pool_;
  std::vector<Task> tasks_;
  // Workspaces, kept from call to call.
  Quantised first_, second_;   // second_: what the first rounding left, for precise products
  std::vector<float> floats_;  // [rows, cols], transformed, or two rows per thread
  int64_t groups_ = 0;
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_LINEAR_OP_H_
