// Views of two-dimensional, row-major, contiguous tensors. A view never owns its memory.
#ifndef ENGINE_TENSOR_TENSOR_VIEW_H_
#define ENGINE_TENSOR_TENSOR_VIEW_H_

#include <cstdint>
#include <string>

#include "engine/tensor/dtype.h"

namespace slim {

// Activations [rows, cols] in the backend's memory and activation type (CPU: float, host memory).
// Heads are folded into cols: [tokens, heads * head_dim].
struct TensorView {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  float* f32() const { return static_cast<float*>(data); }
};

// A weight as it lies in a model file: [rows, cols] = [outputs, inputs], cols innermost and a
// multiple of BlockElements(dtype). Vectors have rows = 1. The bytes belong to the TensorSource.
struct HostTensor {
  std::string name;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* data = nullptr;

  int64_t bytes() const { return rows * (cols / BlockElements(dtype)) * BlockBytes(dtype); }
};

}  // namespace slim

#endif  // ENGINE_TENSOR_TENSOR_VIEW_H_
