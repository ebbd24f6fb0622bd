// Attention of single query rows over long paged keys: the keys of a row are split into runs of
// kDecodeSplitTokens, a thread block reduces one run for one kv head, a second kernel joins the
// runs in order. Keys and values go from global memory straight into the registers of the tensor
// core instruction, 16 bytes per load. Needs compute capability 8.0 or later.
#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/mma_layout.h"

namespace slim::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileHeads = 16;  // heads of one kv head that a thread block takes
constexpr float kMinusInfinity = -__builtin_huge_valf();

template <int kHeadDim>
struct WarpState {
  float out[kHeadDim / 32][4][4];
  float max[2];  // of the heads LaneRow and LaneRow + 8, in units of powers of two
  float sum[2];  // over this lane's columns
};

// Adds 32 tokens of one slab. keys, values: words of this kv head and these tokens.
template <int kHeadDim>
__device__ void AddGroup(const uint32_t (&q)[kHeadDim / 16][4], const uint32_t* keys,
                         const uint32_t* values, int block_tokens, int visible, float scale,
                         int lane, WarpState<kHeadDim>* state) {
  float scores[4][4] = {};
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const int column = FirstColumn(lane);
    const uint4 b0 =
        *reinterpret_cast<const uint4*>(keys + KeyRow(step, lane, 0) * block_tokens + column);
    const uint4 b1 =
        *reinterpret_cast<const uint4*>(keys + KeyRow(step, lane, 1) * block_tokens + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) MmaBf16(scores[i], q[step], Component(b0, i), Component(b1, i));
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = kMinusInfinity;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[i][2 * half + e];
        score = ScoreToken(i, lane, e) < visible ? score * scale : kMinusInfinity;
        largest = fmaxf(largest, score);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    largest = fmaxf(largest, state->max[half]);
    const float shift = largest == kMinusInfinity ? 0.0f : largest;
    const float keep = FastExp2(state->max[half] - shift);
    state->max[half] = largest;
    state->sum[half] *= keep;
#pragma unroll
    for (int d = 0; d < kHeadDim / 32; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        state->out[d][i][2 * half] *= keep;
        state->out[d][i][2 * half + 1] *= keep;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[i][2 * half + e];
        score = FastExp2(score - shift);
        state->sum[half] += score;
      }
    }
  }
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      a[j] = PackBf16(scores[WeightTile(j)][WeightRegister(step, j)],
                      scores[WeightTile(j) + 1][WeightRegister(step, j)]);
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 32; ++d) {
      const int column = d * 32 + FirstColumn(lane);
      const uint4 b0 =
          *reinterpret_cast<const uint4*>(values + ValueRow(step, lane, 0) * kHeadDim + column);
      const uint4 b1 =
          *reinterpret_cast<const uint4*>(values + ValueRow(step, lane, 1) * kHeadDim + column);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        MmaBf16(state->out[d][i], a, Component(b0, i), Component(b1, i));
      }
    }
  }
}

// Partial results of the four warps.
template <int kHeadDim>
struct Shared {
  float out[kWarps][kTileHeads][kHeadDim];
  float max[kWarps][kTileHeads];
  float sum[kWarps][kTileHeads];
};

template <int kHeadDim>
__device__ void Publish(int warp, int lane, const WarpState<kHeadDim>& state,
                        Shared<kHeadDim>* shared) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int row = ScoreRow(lane, 2 * half);
    if (LaneCol(lane) == 0) {
      shared->max[warp][row] = state.max[half];
      shared->sum[warp][row] = sum;
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 32; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          shared->out[warp][row][d * 32 + OutputChannel(i, lane, e)] =
              state.out[d][i][2 * half + e];
        }
      }
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    SplitKernel(AttentionArgs args, const DecodeSplit* splits, float scale, float* partials) {
  __shared__ Shared<kHeadDim> shared;
  const DecodeSplit split = splits[blockIdx.x];
  if (split.num_slabs == 0) return;  // the whole thread block
  const HeadShape& shape = args.shape;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = shape.num_heads / shape.num_kv_heads;
  const int first_head = static_cast<int>(blockIdx.z) * kTileHeads;
  const int heads = min(kTileHeads, group - first_head);
  const int64_t query_head = int64_t{split.row} * shape.num_heads + kv_head * group + first_head;

  uint32_t q[kHeadDim / 16][4];
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = QueryRow(lane, j);
      q[step][j] = row < heads
                       ? reinterpret_cast<const uint32_t*>(
                             args.q)[(query_head + row) * (kHeadDim / 2) + QueryWord(step, lane, j)]
                       : 0u;
    }
  }
  WarpState<kHeadDim> state = {};
  state.max[0] = state.max[1] = kMinusInfinity;
  const int64_t head_words = int64_t{kHeadDim} * shape.block_tokens / 2;
  const int position = args.positions[split.row];
  const int groups_per_slab = shape.block_tokens / 32;
  for (int g = warp; g < split.num_slabs * groups_per_slab; g += kWarps) {
    const int slab = split.first_slab + g / groups_per_slab;
    const int offset = g % groups_per_slab * 32;
    const int visible = position + 1 - (args.block_ids[slab] * shape.block_tokens + offset);
    if (visible <= 0) continue;
    const auto* words = static_cast<const uint32_t*>(args.slabs[slab]);
    AddGroup<kHeadDim>(
        q, words + kv_head * head_words + offset,
        words + (shape.num_kv_heads + kv_head) * head_words + int64_t{offset / 2} * kHeadDim,
        shape.block_tokens, visible, scale, lane, &state);
  }
  Publish<kHeadDim>(warp, lane, state, &shared);
  __syncthreads();

  float* partial = partials + split.partial * DecodePartialFloats(shape.num_heads, kHeadDim) +
                   int64_t{kv_head * group + first_head} * (kHeadDim + 2);
  for (int i = threadIdx.x; i < heads * kHeadDim; i += kThreads) {
    const int row = i / kHeadDim, channel = i % kHeadDim;
    float largest = shared.max[0][row];
    for (int w = 1; w < kWarps; ++w) largest = fmaxf(largest, shared.max[w][row]);
    const float shift = largest == kMinusInfinity ? 0.0f : largest;
    float out = 0, sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = FastExp2(shared.max[w][row] - shift);
      out += weight * shared.out[w][row][channel];
      sum += weight * shared.sum[w][row];
    }
    partial[row * (kHeadDim + 2) + channel] = out;
    if (channel == 0) {
      partial[row * (kHeadDim + 2) + kHeadDim] = largest;
      partial[row * (kHeadDim + 2) + kHeadDim + 1] = sum;
    }
  }
}

// One thread block per query row and head, one thread per channel.
__global__ void CombineKernel(AttentionArgs args, const DecodeRow* rows, const float* partials) {
  const DecodeRow row = rows[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), channel = static_cast<int>(threadIdx.x);
  const int dims = args.shape.head_dim;
  const int64_t stride = DecodePartialFloats(args.shape.num_heads, dims);
  const float* first = partials + row.first_partial * stride + int64_t{head} * (dims + 2);
  float largest = kMinusInfinity;
  for (int p = 0; p < row.num_partials; ++p) largest = fmaxf(largest, first[p * stride + dims]);
  const float shift = largest == kMinusInfinity ? 0.0f : largest;
  float out = 0, sum = 0;
  for (int p = 0; p < row.num_partials; ++p) {
    const float* partial = first + p * stride;
    const float weight = FastExp2(partial[dims] - shift);
    out += weight * partial[channel];
    sum += weight * partial[dims + 1];
  }
  args.out[(int64_t{row.row} * args.shape.num_heads + head) * dims + channel] = ToBf16(out / sum);
}

template <int kHeadDim>
void LaunchSplits(const AttentionArgs& args, const DecodeSplit* splits, int num_splits,
                  float* partials, cudaStream_t stream) {
  const int group = args.shape.num_heads / args.shape.num_kv_heads;
  const dim3 grid(static_cast<unsigned>(num_splits), static_cast<unsigned>(args.shape.num_kv_heads),
                  static_cast<unsigned>((group + kTileHeads - 1) / kTileHeads));
  const float scale = 1.44269504f / sqrtf(static_cast<float>(kHeadDim));
  SplitKernel<kHeadDim><<<grid, kThreads, 0, stream>>>(args, splits, scale, partials);
}

}  // namespace

cudaError_t AttentionDecode(const AttentionArgs& args, const DecodeSplit* splits, int num_splits,
                            const DecodeRow* rows, int num_rows, float* partials,
                            cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  switch (args.shape.head_dim) {
    case 32:
      LaunchSplits<32>(args, splits, num_splits, partials, stream);
      break;
    case 64:
      LaunchSplits<64>(args, splits, num_splits, partials, stream);
      break;
    case 96:
      LaunchSplits<96>(args, splits, num_splits, partials, stream);
      break;
    case 128:
      LaunchSplits<128>(args, splits, num_splits, partials, stream);
      break;
    default:
      return cudaErrorInvalidValue;
  }
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(num_rows), static_cast<unsigned>(args.shape.num_heads));
  CombineKernel<<<grid, static_cast<unsigned>(args.shape.head_dim), 0, stream>>>(args, rows,
                                                                                 partials);
  return cudaGetLastError();
}

}  // namespace slim::cuda
