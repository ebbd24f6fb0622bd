// Rotary position embedding from a table, and the write of keys and values into their slots.
// Needs compute capability 8.0 or later.
#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/rope_arith.h"

namespace slim::cuda {
namespace {

constexpr int kThreads = 256;

// One thread block per row; a thread rotates pairs of channels.
template <typename T>
__global__ void RopeKernel(RopeTable table, int head_dim, int heads, T* x,
                           const int32_t* positions) {
  const int half = table.rotary_dims / 2;
  const float* angles = table.angles + int64_t{positions[blockIdx.x]} * table.rotary_dims;
  T* row = x + int64_t{blockIdx.x} * heads * head_dim;
  for (int i = threadIdx.x; i < heads * half; i += blockDim.x) {
    const int pair = i % half;
    const ChannelPair at = PairChannels(pair, table.rotary_dims, table.neighbouring_pairs);
    T* head = row + (i / half) * head_dim;
    const float u = ToFloat(head[at.first]), v = ToFloat(head[at.second]);
    const float cosine = angles[2 * pair], sine = angles[2 * pair + 1];
    Store(head + at.first, RotatedFirst(u, v, cosine, sine));
    Store(head + at.second, RotatedSecond(u, v, cosine, sine));
  }
}

inline __device__ float RotatedChannel(const RopeTable& table, const float* angles,
                                       const Bf16* head, int channel) {
  if (channel >= table.rotary_dims) return ToFloat(head[channel]);
  const int pair = PairOf(channel, table.rotary_dims, table.neighbouring_pairs);
  const ChannelPair at = PairChannels(pair, table.rotary_dims, table.neighbouring_pairs);
  const float u = ToFloat(head[at.first]), v = ToFloat(head[at.second]);
  const float cosine = angles[2 * pair], sine = angles[2 * pair + 1];
  return channel == at.first ? RotatedFirst(u, v, cosine, sine) : RotatedSecond(u, v, cosine, sine);
}

// Keys: 32 rows per thread block (x), so that rows in neighbouring slots write neighbouring words;
// pairs of channels over y and blockIdx.y.
__global__ void StoreKeysKernel(RopeTable table, HeadShape shape, const Bf16* k, int64_t rows,
                                const int32_t* positions, void* const* slabs,
                                const int32_t* slots) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const int words = shape.head_dim / 2;
  const int word = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (word >= shape.num_kv_heads * words) return;
  const int kv_head = word / words, pair = word % words;
  const Bf16* head = k + (row * shape.num_kv_heads + kv_head) * shape.head_dim;
  const float* angles = table.angles + int64_t{positions[row]} * table.rotary_dims;
  // keys [kv_heads][head_dim / 2][block_tokens][2]
  auto* slab = static_cast<uint32_t*>(slabs[row]);
  slab[(int64_t{kv_head} * words + pair) * shape.block_tokens + slots[row]] =
      PackBf16(RotatedChannel(table, angles, head, 2 * pair),
               RotatedChannel(table, angles, head, 2 * pair + 1));
}

// Values: one thread block per row.
__global__ void StoreValuesKernel(HeadShape shape, const Bf16* v, void* const* slabs,
                                  const int32_t* slots) {
  const int64_t row = blockIdx.x;
  const int cols = shape.num_kv_heads * shape.head_dim;
  const int slot = slots[row];
  // values [kv_heads][block_tokens / 2][head_dim][2], behind the keys
  auto* values = static_cast<Bf16*>(slabs[row]) + int64_t{cols} * shape.block_tokens;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) {
    const int kv_head = i / shape.head_dim, channel = i % shape.head_dim;
    const int64_t word =
        (int64_t{kv_head} * (shape.block_tokens / 2) + slot / 2) * shape.head_dim + channel;
    values[2 * word + slot % 2] = v[row * cols + i];
  }
}

}  // namespace

cudaError_t Rope(const RopeTable& table, int head_dim, int heads, void* x, Element type,
                 int64_t rows, const int32_t* positions, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(rows);
  if (type == Element::kF32) {
    RopeKernel<<<grid, kThreads, 0, stream>>>(table, head_dim, heads, static_cast<float*>(x),
                                              positions);
  } else {
    RopeKernel<<<grid, kThreads, 0, stream>>>(table, head_dim, heads, static_cast<Bf16*>(x),
                                              positions);
  }
  return cudaGetLastError();
}

cudaError_t RopeStoreKv(const RopeTable& table, const HeadShape& shape, const Bf16* k,
                        const Bf16* v, int64_t rows, const int32_t* positions, void* const* slabs,
                        const int32_t* slots, cudaStream_t stream) {
  const dim3 threads(32, 8);
  const int words = shape.num_kv_heads * shape.head_dim / 2;
  const dim3 grid(static_cast<unsigned>((rows + 31) / 32), static_cast<unsigned>((words + 7) / 8));
  StoreKeysKernel<<<grid, threads, 0, stream>>>(table, shape, k, rows, positions, slabs, slots);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  StoreValuesKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(shape, v, slabs, slots);
  return cudaGetLastError();
}

}  // namespace slim::cuda
