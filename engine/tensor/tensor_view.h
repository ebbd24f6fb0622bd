// Views of two-dimensional, row-major, contiguous tensors. A view never owns its memory.
#ifndef ENGINE_TENSOR_TENSOR_VIEW_H_
#define ENGINE_TENSOR_TENSOR_VIEW_H_

#include <cstdint>
#include <string>

#include "engine/tensor/dtype.h"

namespace slim {

// Activations [rows, cols] in the backend's memory, of a plain element type: float32 or what
// BackendInfo::activation_type says. Heads are folded into cols: [tokens, heads * head_dim].
struct TensorView {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;

  float* f32() const { return static_cast<float*>(data); }
  int64_t row_bytes() const { return cols * BlockBytes(dtype); }
  int64_t bytes() const { return rows * row_bytes(); }
  // Rows [first, first + count) of this view.
  TensorView Rows(int64_t first, int64_t count) const {
    return {static_cast<char*>(data) + first * row_bytes(), count, cols, dtype};
  }
};

// A weight as it lies in a model file: [rows, cols] = [outputs, inputs], cols innermost and a
// multiple of BlockElements(dtype). Vectors have rows = 1. The bytes belong to the TensorSource.
struct HostTensor {
  std::string name;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* data = nullptr;
  // Above 0: any numbers of about this standard deviation will do (models for measuring speed). A
  // backend may draw its own instead of reading `data`.
  float random_deviation = 0;

  int64_t bytes() const { return rows * (cols / BlockElements(dtype)) * BlockBytes(dtype); }
};

}  // namespace slim

#endif  // ENGINE_TENSOR_TENSOR_VIEW_H_
