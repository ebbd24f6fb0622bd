// Block scores with the same bits as every other backend: see score_arith.h. Compiled without fused
// multiply-add. Needs compute capability 8.0 or later.
#include <algorithm>

#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/score_arith.h"

namespace slim::cuda {
namespace {

constexpr float kMinusInfinity = -__builtin_huge_valf();

// The two keys of one word.
inline __device__ float LowKey(uint32_t word) { return __uint_as_float(word << 16); }
inline __device__ float HighKey(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

inline __device__ const uint32_t* HeadKeys(const ScoreArgs& args, int block, int kv_head) {
  return static_cast<const uint32_t*>(args.slabs[block]) +
         int64_t{kv_head} * (args.shape.head_dim / 2) * args.shape.block_tokens;
}

inline __device__ float Query(const ScoreArgs& args, int64_t index) {
  return args.query_type == Element::kF32 ? static_cast<const float*>(args.queries)[index]
                                          : ToFloat(static_cast<const Bf16*>(args.queries)[index]);
}

// Positions that query row `row` sees end here.
inline __device__ int64_t VisibleEnd(const ScoreArgs& args, int row) {
  const int64_t after = int64_t{args.positions[row]} + 1;
  return after < args.num_tokens ? after : args.num_tokens;
}

// ---------------------------------------------------------------- units

__global__ void MeanQueryKernel(ScoreArgs args, float* qbar) {
  const int cols = args.shape.num_heads * args.shape.head_dim;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= cols) return;
  float sum = Query(args, i);
  for (int w = 1; w < args.window; ++w) sum += Query(args, int64_t{w} * cols + i);
  qbar[i] = sum / static_cast<float>(args.window);
}

// The key that stands for tokens [begin, end): their mean, or their largest, per channel.
__device__ void RepresentUnit(const ScoreArgs& args, int block, int begin, int end, bool largest,
                              float* representatives) {
  const int dims = args.shape.head_dim;
  for (int i = threadIdx.x; i < args.shape.num_kv_heads * dims; i += blockDim.x) {
    const int channel = i % dims;
    const uint32_t* words = HeadKeys(args, block, i / dims) + channel / 2 * args.shape.block_tokens;
    float value = 0;
    for (int t = begin; t < end; ++t) {
      const float key = channel % 2 == 0 ? LowKey(words[t]) : HighKey(words[t]);
      value = t == begin ? key : largest ? MaxOrNan(value, key) : value + key;
    }
    representatives[i] = largest ? value : value / static_cast<float>(end - begin);
  }
}

// One thread block per block. Shared memory: representatives [kv_heads, dims], dots [heads].
__global__ void UnitsKernel(ScoreArgs args, UnitScore kind, const float* qbar) {
  extern __shared__ float memory[];
  const int dims = args.shape.head_dim, heads = args.shape.num_heads;
  const int group = heads / args.shape.num_kv_heads;
  float* representatives = memory;
  float* dots = memory + args.shape.num_kv_heads * dims;
  const int block = static_cast<int>(blockIdx.x);
  const int tokens = TokensBefore(args.num_tokens, args.block_ids[block], args.shape.block_tokens);
  const bool pool = kind == UnitScore::kMaxPool;
  const int step = pool ? args.shape.block_tokens : kScoreUnitTokens;
  float best = kMinusInfinity, sum = 0;
  int units = 0;
  for (int begin = 0; begin < tokens; begin += step, ++units) {
    RepresentUnit(args, block, begin, min(begin + step, tokens), pool, representatives);
    __syncthreads();
    for (int h = threadIdx.x; h < heads; h += blockDim.x) {
      const float* q = qbar + h * dims;
      const float* k = representatives + h / group * dims;
      float dot = 0;
      for (int d = 0; d < dims; d += 2) dot = AddPair(dot, q[d], k[d], q[d + 1], k[d + 1]);
      dots[h] = kind == UnitScore::kSignedMax ? dot : fabsf(dot);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      float total = 0;
      for (int h = 0; h < heads; ++h) total += dots[h];
      const float unit = total / static_cast<float>(heads);
      best = MaxOrNan(best, unit);
      sum += unit;
    }
  }
  if (threadIdx.x == 0) {
    args.scores[block] =
        kind == UnitScore::kMean && units > 0 ? sum / static_cast<float>(units) : best;
  }
}

// ---------------------------------------------------------------- window attention

// One thread block per block (x) and query (y); one thread per token. Query i is head i % heads of
// window row i / heads.
__global__ void DotsKernel(ScoreArgs args, int first_query, float scale, float* dots) {
  extern __shared__ float q[];
  const int dims = args.shape.head_dim, block_tokens = args.shape.block_tokens;
  const int query = first_query + static_cast<int>(blockIdx.y);
  const int head = query % args.shape.num_heads;
  const int kv_head = head / (args.shape.num_heads / args.shape.num_kv_heads);
  for (int d = threadIdx.x; d < dims; d += blockDim.x) {
    q[d] = Query(args, int64_t{query} * dims + d);
  }
  __syncthreads();
  const int block = static_cast<int>(blockIdx.x), token = static_cast<int>(threadIdx.x);
  const uint32_t* words = HeadKeys(args, block, kv_head) + token;
  float dot = 0;
  for (int d = 0; d < dims; d += 2) {
    const uint32_t word = words[d / 2 * block_tokens];
    dot = AddPair(dot, q[d], LowKey(word), q[d + 1], HighKey(word));
  }
  dots[(int64_t{blockIdx.y} * args.blocks + block) * block_tokens + token] = dot * scale;
}

inline __device__ float WarpMaxOrNan(float x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x = MaxOrNan(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

constexpr int kShareThreads = 512;

// One thread block per query: dots become exponentials, results[query][block] the block's largest
// share of their sum.
__global__ void __launch_bounds__(kShareThreads)
    SharesKernel(ScoreArgs args, int first_query, float* dots, float* results) {
  __shared__ float shared[kShareThreads / 32];
  __shared__ float total;
  const int block_tokens = args.shape.block_tokens;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kWarps = kShareThreads / 32;
  const int64_t end =
      VisibleEnd(args, (first_query + static_cast<int>(blockIdx.x)) / args.shape.num_heads);
  dots += int64_t{blockIdx.x} * args.blocks * block_tokens;
  results += int64_t{blockIdx.x} * args.blocks;

  float largest = kMinusInfinity;
  for (int b = warp; b < args.blocks; b += kWarps) {
    const int visible = TokensBefore(end, args.block_ids[b], block_tokens);
    for (int t = lane; t < visible; t += 32) {
      largest = MaxOrNan(largest, dots[int64_t{b} * block_tokens + t]);
    }
  }
  largest = WarpMaxOrNan(largest);
  if (lane == 0) shared[warp] = largest;
  __syncthreads();
  largest = shared[0];
  for (int w = 1; w < kWarps; ++w) largest = MaxOrNan(largest, shared[w]);

  for (int b = warp; b < args.blocks; b += kWarps) {
    const int visible = TokensBefore(end, args.block_ids[b], block_tokens);
    float most = 0;
    for (int t = lane; t < visible; t += 32) {
      float* dot = dots + int64_t{b} * block_tokens + t;
      const float e = ScoreExp(*dot - largest);
      *dot = e;
      most = MaxOrNan(most, e);
    }
    most = WarpMaxOrNan(most);
    if (lane == 0) results[b] = most;
  }
  __syncthreads();

  if (warp == 0) {
    // Sixteen sums in the order of the tokens; only lanes 0 to 15 have one.
    float sum = 0;
    if (lane < kScoreLanes) {
#pragma unroll 4
      for (int b = 0; b < args.blocks; ++b) {
        const int visible = TokensBefore(end, args.block_ids[b], block_tokens);
        const float* e = dots + int64_t{b} * block_tokens;
        for (int t = lane; t < visible; t += kScoreLanes) sum += e[t];
      }
    }
    float all = 0;
    for (int i = 0; i < kScoreLanes; ++i) all += __shfl_sync(0xffffffffu, sum, i);
    if (lane == 0) total = all;
  }
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < args.blocks; b += kShareThreads) {
    if (TokensBefore(end, args.block_ids[b], block_tokens) > 0) results[b] /= total;
  }
}

__global__ void LargestShareKernel(ScoreArgs args, int queries, bool first, const float* results) {
  const int b = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (b >= args.blocks) return;
  float score = first ? 0.0f : args.scores[b];
  for (int i = 0; i < queries; ++i) score = MaxOrNan(score, results[int64_t{i} * args.blocks + b]);
  args.scores[b] = score;
}

}  // namespace

cudaError_t ScoreUnits(const ScoreArgs& args, UnitScore kind, float* qbar, cudaStream_t stream) {
  const int cols = args.shape.num_heads * args.shape.head_dim;
  MeanQueryKernel<<<(cols + 255) / 256, 256, 0, stream>>>(args, qbar);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess || args.blocks == 0) return error;
  const size_t bytes =
      sizeof(float) * (args.shape.num_kv_heads * args.shape.head_dim + args.shape.num_heads);
  UnitsKernel<<<static_cast<unsigned>(args.blocks), 256, bytes, stream>>>(args, kind, qbar);
  return cudaGetLastError();
}

cudaError_t ScoreWindow(const ScoreArgs& args, int queries_at_once, float* dots, float* results,
                        cudaStream_t stream) {
  if (args.blocks == 0) return cudaSuccess;
  const int queries = args.window * args.shape.num_heads;
  const float scale = 1.0f / sqrtf(static_cast<float>(args.shape.head_dim));
  const size_t query_bytes = sizeof(float) * args.shape.head_dim;
  const auto blocks = static_cast<unsigned>(args.blocks);
  for (int first = 0; first < queries; first += queries_at_once) {
    const int count = std::min(queries_at_once, queries - first);
    const auto rows = static_cast<unsigned>(count);
    DotsKernel<<<dim3(blocks, rows), args.shape.block_tokens, query_bytes, stream>>>(args, first,
                                                                                     scale, dots);
    SharesKernel<<<rows, kShareThreads, 0, stream>>>(args, first, dots, results);
    LargestShareKernel<<<(blocks + 127) / 128, 128, 0, stream>>>(args, count, first == 0, results);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace slim::cuda
