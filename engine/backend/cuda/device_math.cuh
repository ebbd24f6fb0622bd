// Small device functions that several kernels share. Needs compute capability 8.0 or later.
#ifndef ENGINE_BACKEND_CUDA_DEVICE_MATH_CUH_
#define ENGINE_BACKEND_CUDA_DEVICE_MATH_CUH_

#include <cuda_bf16.h>

#include <cstdint>

namespace slim::cuda {

inline __device__ float ToFloat(float x) { return x; }
inline __device__ float ToFloat(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
inline __device__ uint16_t ToBf16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
inline __device__ void Store(float* out, float x) { *out = x; }
inline __device__ void Store(uint16_t* out, float x) { *out = ToBf16(x); }

// Two floats as one register of two bf16, `low` in the lower half.
inline __device__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);  // one instruction
  return static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) |
         (static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16);
}

// d += a b for one 16 x 16 tile of a (row-major) and one 16 x 8 tile of b (column-major). Which
// element lies in which register of which lane: mma_layout.h.
inline __device__ void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes from global to shared memory behind the thread's back, or writes 16 zero bytes.
inline __device__ void CopyAsync16(void* shared, const void* global, bool zeros) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = zeros ? 0 : 16;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
}
inline __device__ void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
inline __device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// 2^x by the special function unit.
inline __device__ float FastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Component i of four registers; i is a constant after unrolling.
inline __device__ uint32_t Component(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

inline __device__ float WarpSum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Sum over a thread block of at most 1024 threads, whole warps; every thread gets it.
inline __device__ float BlockSum(float x) {
  __shared__ float sums[32];
  const int warps = static_cast<int>(blockDim.x) / 32;
  x = WarpSum(x);
  __syncthreads();  // a call before may still be reading
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  x = static_cast<int>(threadIdx.x % 32) < warps ? sums[threadIdx.x % 32] : 0.0f;
  return WarpSum(x);
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_DEVICE_MATH_CUH_
