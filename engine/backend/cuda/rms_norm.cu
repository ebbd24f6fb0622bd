// Root mean square norm: one thread block per row. Needs compute capability 8.0 or later.
#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"

namespace slim::cuda {
namespace {

__global__ void RmsNormKernel(const float* x, const float* weight, float eps, int64_t cols,
                              Bf16* out) {
  const float* row = x + blockIdx.x * cols;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) squares += row[i] * row[i];
  const float mean = BlockSum(squares) / static_cast<float>(cols);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    out[blockIdx.x * cols + i] = ToBf16(row[i] * scale * weight[i]);
  }
}

// Four columns at a time, for rows whose length is a multiple of four.
__global__ void RmsNormKernel4(const float4* x, const float4* weight, float eps, int64_t quads,
                               uint2* out) {
  const float4* row = x + blockIdx.x * quads;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < quads; i += blockDim.x) {
    const float4 v = row[i];
    squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  const float mean = BlockSum(squares) / static_cast<float>(4 * quads);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (int64_t i = threadIdx.x; i < quads; i += blockDim.x) {
    const float4 v = row[i], w = weight[i];
    out[blockIdx.x * quads + i] = make_uint2(PackBf16(v.x * scale * w.x, v.y * scale * w.y),
                                             PackBf16(v.z * scale * w.z, v.w * scale * w.w));
  }
}

}  // namespace

cudaError_t RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t cols,
                    Bf16* out, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(rows);
  const int threads = cols >= 2048 ? 256 : 128;
  if (cols % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0 &&
      reinterpret_cast<uintptr_t>(weight) % 16 == 0) {
    RmsNormKernel4<<<grid, threads, 0, stream>>>(reinterpret_cast<const float4*>(x),
                                                 reinterpret_cast<const float4*>(weight), eps,
                                                 cols / 4, reinterpret_cast<uint2*>(out));
  } else {
    RmsNormKernel<<<grid, threads, 0, stream>>>(x, weight, eps, cols, out);
  }
  return cudaGetLastError();
}

}  // namespace slim::cuda
