#include "engine/backend/cpu/linear_op.h"

#include <algorithm>
#include <cstring>

#include "engine/base/check.h"

namespace slim {
namespace {

// Rows that one pass over a tile pair multiplies: their quantised form should stay in the L2 cache.
constexpr int64_t kRowBlock = 252;
// Rows prepared per task.
constexpr int64_t kPrepareRows = 8;

template <typename T>
void Grow(std::vector<T>& v, int64_t size) {
  if (static_cast<int64_t>(v.size()) < size) v.resize(size);
}

const PackedWeight& Packed(const LinearOutput& output) {
  return static_cast<const PackedWeight&>(*output.weight);
}

bool IsFloat(const LinearOutput& output) {
  return Packed(output).format() == PackedWeight::Format::kFloat;
}

}  // namespace

void LinearOp::Quantised::Grow(int64_t rows, int64_t cols) {
  const int64_t groups = cols / kGroup;
  slim::Grow(q, rows * cols);
  slim::Grow(scale, rows * groups);
  slim::Grow(scaled_sum, rows * groups);
  slim::Grow(sum, rows * groups);
}

void LinearOp::QuantiseRow(const float* values, int64_t row, int64_t cols, Quantised& out) const {
  kernels_.quantize_row(values, cols, &out.q[row * cols], &out.scale[row * groups_],
                        &out.scaled_sum[row * groups_], &out.sum[row * groups_]);
}

void LinearOp::PrepareRow(const LinearInput& input, int64_t row, const Needs& needs, float* scratch,
                          float* residual) {
  const int64_t cols = input.x.cols;
  const float* x = input.x.f32() + row * cols;
  const float* values = x;
  if (input.kind == LinearInput::Kind::kRmsNorm) {
    kernels_.rms_norm_row(x, static_cast<const float*>(input.norm_weight->data()), input.eps, cols,
                          scratch);
    values = scratch;
  } else if (input.kind == LinearInput::Kind::kSwiGlu) {
    kernels_.swiglu_row(x, input.up.f32() + row * cols, cols, scratch);
    values = scratch;
  }
  if (needs.quantised) QuantiseRow(values, row, cols, first_);
  if (needs.precise) {
    for (int64_t i = 0; i < cols; ++i) {
      residual[i] = values[i] - first_.scale[row * groups_ + i / kGroup] *
                                    static_cast<float>(first_.q[row * cols + i]);
    }
    QuantiseRow(residual, row, cols, second_);
  }
}

void LinearOp::PrepareRows(const LinearInput& input, const Needs& needs) {
  const int64_t rows = input.x.rows, cols = input.x.cols;
  if (needs.quantised) {
    SLIM_CHECK(cols % kGroup == 0);
    groups_ = cols / kGroup;
    first_.Grow(rows, cols);
    if (needs.precise) second_.Grow(rows, cols);
  }
  const int64_t threads = pool_->num_threads();
  const int64_t kept = needs.floats ? rows : threads;
  Grow(floats_, (kept + threads) * cols);
  const auto prepare = [&](int64_t task, int thread) {
    const int64_t end = std::min(rows, (task + 1) * kPrepareRows);
    for (int64_t row = task * kPrepareRows; row < end; ++row) {
      PrepareRow(input, row, needs, &floats_[(needs.floats ? row : thread) * cols],
                 &floats_[(kept + thread) * cols]);
    }
  };
  const int64_t tasks = (rows + kPrepareRows - 1) / kPrepareRows;
  if (tasks == 1) {
    prepare(0, 0);
  } else {
    pool_->ParallelFor(tasks, prepare);
  }
}

void LinearOp::MakeTasks(absl::Span<const LinearOutput> outputs, int64_t rows) {
  tasks_.clear();
  int64_t pairs = 0;
  for (const LinearOutput& output : outputs) pairs += (Packed(output).num_tiles() + 1) / 2;
  // With few rows a task is short, so it takes several pairs; with many, one pair is enough.
  const int64_t wanted = std::max<int64_t>(1, pairs / (pool_->num_threads() * int64_t{8}));
  const int64_t pairs_per_task = rows >= 64 ? std::min<int64_t>(wanted, 2) : wanted;
  for (int64_t row = 0; row < rows; row += kRowBlock) {
    for (size_t o = 0; o < outputs.size(); ++o) {
      const int64_t all = (Packed(outputs[o]).num_tiles() + 1) / 2;
      for (int64_t pair = 0; pair < all; pair += pairs_per_task) {
        tasks_.push_back({static_cast<int>(o), pair, std::min(all, pair + pairs_per_task), row,
                          std::min(kRowBlock, rows - row)});
      }
    }
  }
}

void LinearOp::RunTask(const Task& task, const LinearInput& input,
                       const LinearOutput& output) const {
  const PackedWeight& weight = Packed(output);
  const float* bias =
      output.bias != nullptr ? static_cast<const float*>(output.bias->data()) : nullptr;
  for (int64_t pair = task.first_pair; pair < task.end_pair; ++pair) {
    const int64_t tile = 2 * pair;
    const int64_t first = tile * kTileOutputs;
    const int num_tiles = tile + 1 < weight.num_tiles() ? 2 : 1;
    const auto num_outputs =
        static_cast<int>(std::min<int64_t>(num_tiles * kTileOutputs, weight.outputs() - first));
    float* out = output.out.f32() + task.first_row * output.out.cols + first;
    if (weight.format() == PackedWeight::Format::kFloat) {
      FloatGemmArgs args;
      args.tiles = reinterpret_cast<const float*>(weight.tile(tile));
      args.inputs = weight.inputs();
      args.num_tiles = num_tiles;
      const float* x = input.kind == LinearInput::Kind::kPlain ? input.x.f32() : floats_.data();
      args.x = x + task.first_row * weight.inputs();
      args.rows = task.rows;
      args.out = out;
      args.out_stride = output.out.cols;
      args.num_outputs = num_outputs;
      args.accumulate = output.accumulate;
      args.bias = bias != nullptr ? bias + first : nullptr;
      kernels_.gemm_f32(args);
      continue;
    }
    IntGemmArgs args;
    args.tiles = weight.tile(tile);
    args.tile_bytes = weight.tile_bytes();
    args.num_tiles = num_tiles;
    args.out = out;
    args.out_stride = output.out.cols;
    args.num_outputs = num_outputs;
    args.accumulate = output.accumulate;
    args.bias = bias != nullptr ? bias + first : nullptr;
    MultiplyInt(task, weight, first_, args);
    if (output.precise) {
      args.accumulate = true;
      args.bias = nullptr;
      MultiplyInt(task, weight, second_, args);
    }
  }
}

void LinearOp::MultiplyInt(const Task& task, const PackedWeight& weight, const Quantised& x,
                           IntGemmArgs args) const {
  args.groups = groups_;
  args.zero_point = weight.zero_point();
  args.has_min = weight.has_min();
  args.x = x.q.data() + task.first_row * weight.inputs();
  args.x_scale = x.scale.data() + task.first_row * groups_;
  args.x_scaled_sum = x.scaled_sum.data() + task.first_row * groups_;
  args.x_sum = x.sum.data() + task.first_row * groups_;
  args.rows = task.rows;
  if (weight.format() == PackedWeight::Format::kQ4) {
    kernels_.gemm_q4(args);
  } else {
    kernels_.gemm_q8(args);
  }
}

void LinearOp::Run(const LinearInput& input, absl::Span<const LinearOutput> outputs) {
  Needs needs;
  for (const LinearOutput& output : outputs) {
    SLIM_CHECK(output.out.rows == input.x.rows && output.weight->inputs() == input.x.cols &&
               output.weight->outputs() == output.out.cols);
    needs.quantised |= !IsFloat(output);
    needs.precise |= !IsFloat(output) && output.precise;
    needs.floats |= IsFloat(output) && input.kind != LinearInput::Kind::kPlain;
  }
  if (input.x.rows == 0) return;
  if (needs.quantised || needs.floats) PrepareRows(input, needs);
  MakeTasks(outputs, input.x.rows);
  pool_->ParallelFor(static_cast<int64_t>(tasks_.size()), [&](int64_t task, int) {
    RunTask(tasks_[task], input, outputs[tasks_[task].output]);
  });
}

}  // namespace slim
