// Gather and scatter of whole rows, and the rows of the embedding. Needs compute capability 8.0 or
// later.
#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"

namespace slim::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void EmbedKernel(const Bf16* table, const int32_t* tokens, int64_t cols, float* out) {
  const Bf16* row = table + int64_t{tokens[blockIdx.x]} * cols;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    out[int64_t{blockIdx.x} * cols + i] = ToFloat(row[i]);
  }
}

// Rows as `words` elements of T.
template <typename T>
__global__ void CopyRowsKernel(const T* src, const int64_t* src_rows, T* dst,
                               const int64_t* dst_rows, int64_t words) {
  const T* from = src + src_rows[blockIdx.x] * words;
  T* to = dst + dst_rows[blockIdx.x] * words;
  for (int64_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

template <typename T>
cudaError_t Launch(const void* src, const int64_t* src_rows, void* dst, const int64_t* dst_rows,
                   int64_t rows, int64_t row_bytes, cudaStream_t stream) {
  CopyRowsKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      static_cast<const T*>(src), src_rows, static_cast<T*>(dst), dst_rows,
      row_bytes / static_cast<int64_t>(sizeof(T)));
  return cudaGetLastError();
}

}  // namespace

cudaError_t Embed(const Bf16* table, const int32_t* tokens, int64_t rows, int64_t cols, float* out,
                  cudaStream_t stream) {
  EmbedKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(table, tokens, cols, out);
  return cudaGetLastError();
}

cudaError_t CopyRows(const void* src, const int64_t* src_rows, void* dst, const int64_t* dst_rows,
                     int64_t rows, int64_t row_bytes, cudaStream_t stream) {
  const uintptr_t all = reinterpret_cast<uintptr_t>(src) | reinterpret_cast<uintptr_t>(dst) |
                        static_cast<uintptr_t>(row_bytes);
  if (all % 16 == 0) {
    return Launch<uint4>(src, src_rows, dst, dst_rows, rows, row_bytes, stream);
  }
  if (all % 4 == 0) {
    return Launch<uint32_t>(src, src_rows, dst, dst_rows, rows, row_bytes, stream);
  }
  return Launch<uint16_t>(src, src_rows, dst, dst_rows, rows, row_bytes, stream);
}

}  // namespace slim::cuda
