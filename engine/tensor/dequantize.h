// Expands stored weights to float: the plain definition of every element type, and the oracle for
// the fast kernels. Pure functions; not meant for inner loops.
#ifndef ENGINE_TENSOR_DEQUANTIZE_H_
#define ENGINE_TENSOR_DEQUANTIZE_H_

#include <cstdint>

#include "engine/tensor/dtype.h"
#include "engine/tensor/float_convert.h"
#include "engine/tensor/tensor_view.h"

namespace slim {

// Writes the `cols` floats of `row` to `out`. Each product and each sum is rounded to float once
// (no fused multiply-add). `row` must be in [0, tensor.rows). `out` must not overlap the tensor.
void DequantizeRow(const HostTensor& tensor, int64_t row, float* out);

// The same for `count` consecutive elements at `stored`, a multiple of BlockElements(dtype).
// `stored` needs no alignment.
void Dequantize(DType dtype, const void* stored, int64_t count, float* out);

}  // namespace slim

#endif  // ENGINE_TENSOR_DEQUANTIZE_H_
