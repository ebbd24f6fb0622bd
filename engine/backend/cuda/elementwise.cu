// Element-wise operations: SwiGLU, conversion to bf16, bias. Needs compute capability 8.0 or later.
#include <algorithm>

#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/random_arith.h"

namespace slim::cuda {
namespace {

constexpr int kThreads = 256;

unsigned GridFor(int64_t items) {
  return static_cast<unsigned>(std::min<int64_t>((items + kThreads - 1) / kThreads, 1 << 16));
}

inline __device__ float Activate(float gate, float up) {
  return gate / (1.0f + __expf(-gate)) * up;
}

// Two elements at a time; an odd last one is the caller's.
__global__ void SwiGluKernel(const uint32_t* gate, const uint32_t* up, int64_t pairs,
                             uint32_t* out) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < pairs; i += stride) {
    const uint32_t g = gate[i], u = up[i];
    out[i] = PackBf16(Activate(__uint_as_float(g << 16), __uint_as_float(u << 16)),
                      Activate(__uint_as_float(g & 0xffff0000u), __uint_as_float(u & 0xffff0000u)));
  }
}

__global__ void SwiGluLastKernel(const Bf16* gate, const Bf16* up, Bf16* out) {
  *out = ToBf16(Activate(ToFloat(*gate), ToFloat(*up)));
}

__global__ void ConvertKernel(const float* x, int64_t count, Bf16* out) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    out[i] = ToBf16(x[i]);
  }
}

__global__ void RandomKernel(float largest, uint64_t seed, int64_t count, Bf16* out) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    out[i] = ToBf16(largest * RandomFraction(seed, static_cast<uint64_t>(i)));
  }
}

template <typename T>
__global__ void BiasKernel(const float* bias, bool accumulate, int64_t cols, T* out) {
  T* row = out + int64_t{blockIdx.x} * cols;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    Store(row + i, accumulate ? ToFloat(row[i]) + bias[i] : bias[i]);
  }
}

}  // namespace

cudaError_t SwiGlu(const Bf16* gate, const Bf16* up, int64_t count, Bf16* out,
                   cudaStream_t stream) {
  const int64_t pairs = count / 2;
  if (pairs > 0) {
    SwiGluKernel<<<GridFor(pairs), kThreads, 0, stream>>>(reinterpret_cast<const uint32_t*>(gate),
                                                          reinterpret_cast<const uint32_t*>(up),
                                                          pairs, reinterpret_cast<uint32_t*>(out));
  }
  if (count % 2 != 0) {
    SwiGluLastKernel<<<1, 1, 0, stream>>>(gate + count - 1, up + count - 1, out + count - 1);
  }
  return cudaGetLastError();
}

cudaError_t FillRandom(float deviation, uint64_t seed, int64_t count, Bf16* out,
                       cudaStream_t stream) {
  RandomKernel<<<GridFor(count), kThreads, 0, stream>>>(kLargestOfDeviation * deviation, seed,
                                                        count, out);
  return cudaGetLastError();
}

cudaError_t ConvertToBf16(const float* x, int64_t count, Bf16* out, cudaStream_t stream) {
  ConvertKernel<<<GridFor(count), kThreads, 0, stream>>>(x, count, out);
  return cudaGetLastError();
}

cudaError_t FillBias(const float* bias, bool accumulate, int64_t rows, int64_t cols, void* out,
                     Element type, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(rows);
  if (type == Element::kF32) {
    BiasKernel<<<grid, kThreads, 0, stream>>>(bias, accumulate, cols, static_cast<float*>(out));
  } else {
    BiasKernel<<<grid, kThreads, 0, stream>>>(bias, accumulate, cols, static_cast<Bf16*>(out));
  }
  return cudaGetLastError();
}

}  // namespace slim::cuda
