// Causal attention of many query rows over paged keys and values, in one pass with a running
// softmax. Needs compute capability 8.0 or later (mma.sync bf16, cp.async).
//
// A thread block takes some rows of one sequence and one kv head: the heads that share the kv head
// are packed into the tile's rows (tile row = token * group + head), so keys and values are read
// once for all of them. Four warps of 32 tile rows each; keys and values come in tiles of kGroups
// times 32 tokens through two buffers in shared memory. Products by tensor cores, everything else
// in float32; softmax weights are rounded to bf16 for the second product only.
#include "engine/backend/cuda/device_math.cuh"
#include "engine/backend/cuda/kernels.h"
#include "engine/backend/cuda/mma_layout.h"

namespace slim::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowTiles = 2;  // of 16 rows, per warp
constexpr float kMinusInfinity = -__builtin_huge_valf();

template <int kHeadDim, int kGroups>
struct Shared {
  static constexpr int kKeys = 32 * kGroups;
  static constexpr int kKeyStride = kKeys + 8;  // words: rows four apart must not share a bank
  static constexpr int kQueryStride = kHeadDim / 2 + 4;  // words
  static constexpr int kValueStride = kHeadDim + 8;      // words
  uint32_t queries[kPrefillTileRows][kQueryStride];
  uint32_t keys[2][kHeadDim / 2][kKeyStride];
  uint32_t values[2][kKeys / 2][kValueStride];
};

// Starts the copy of one tile's keys and values; tokens beyond the last slab become zero.
template <int kHeadDim, int kGroups>
__device__ void LoadTile(const AttentionArgs& args, const PrefillTile& tile, int index, int kv_head,
                         int buffer, Shared<kHeadDim, kGroups>* shared) {
  const int block_tokens = args.shape.block_tokens;
  constexpr int kKeys = 32 * kGroups;
  const int64_t head_words = int64_t{kHeadDim} * block_tokens / 2;
  const int64_t key_offset = kv_head * head_words;
  const int64_t value_offset = (args.shape.num_kv_heads + kv_head) * head_words;
  const int first_token = index * kKeys;  // of the sequence's cached tokens
  constexpr int kKeyChunks = kHeadDim / 2 * (kKeys / 4);
  for (int i = threadIdx.x; i < kKeyChunks; i += kThreads) {
    const int row = i / (kKeys / 4), token = i % (kKeys / 4) * 4;
    const int slab = (first_token + token) / block_tokens;
    const bool missing = slab >= tile.num_slabs;
    const auto* words =
        static_cast<const uint32_t*>(args.slabs[tile.first_slab + (missing ? 0 : slab)]);
    CopyAsync16(&shared->keys[buffer][row][token],
                words + key_offset + row * block_tokens + (first_token + token) % block_tokens,
                missing);
  }
  constexpr int kValueChunks = kKeys / 2 * (kHeadDim / 4);
  for (int i = threadIdx.x; i < kValueChunks; i += kThreads) {
    const int row = i / (kHeadDim / 4), channel = i % (kHeadDim / 4) * 4;
    const int token = 2 * row;
    const int slab = (first_token + token) / block_tokens;
    const bool missing = slab >= tile.num_slabs;
    const auto* words =
        static_cast<const uint32_t*>(args.slabs[tile.first_slab + (missing ? 0 : slab)]);
    const int kept_row = row / 16 * 16 + SharedValueRow(row % 16);
    CopyAsync16(
        &shared->values[buffer][kept_row][channel],
        words + value_offset + ((first_token + token) % block_tokens / 2) * kHeadDim + channel,
        missing);
  }
}

// The tile's queries, zero where the tile has no row.
template <int kHeadDim, int kGroups>
__device__ void LoadQueries(const AttentionArgs& args, const PrefillTile& tile, int kv_head,
                            Shared<kHeadDim, kGroups>* shared) {
  const int group = args.shape.num_heads / args.shape.num_kv_heads;
  constexpr int kChunks = kHeadDim / 8;
  for (int i = threadIdx.x; i < kPrefillTileRows * kChunks; i += kThreads) {
    const int row = i / kChunks, word = i % kChunks * 4;
    uint4 chunk = make_uint4(0, 0, 0, 0);
    if (row / group < tile.num_rows) {
      const int64_t head = (int64_t{tile.first_row} + row / group) * args.shape.num_heads +
                           kv_head * group + row % group;
      chunk = *reinterpret_cast<const uint4*>(reinterpret_cast<const uint32_t*>(args.q) +
                                              head * (kHeadDim / 2) + word);
    }
    *reinterpret_cast<uint4*>(&shared->queries[row][word]) = chunk;
  }
}

// A warp's share of the tile: 32 rows.
template <int kHeadDim, int kGroups>
struct WarpState {
  float scores[kRowTiles][kGroups][4][4];
  float out[kRowTiles][kHeadDim / 32][4][4];
  float max[kRowTiles][2];  // of the rows LaneRow and LaneRow + 8
  float sum[kRowTiles][2];  // over this lane's columns
  int position[kRowTiles][2];
};

template <int kHeadDim, int kGroups>
__device__ void ComputeScores(const Shared<kHeadDim, kGroups>& shared, int buffer, int warp,
                              int lane, WarpState<kHeadDim, kGroups>* state) {
  for (int m = 0; m < kRowTiles; ++m) {
    for (int g = 0; g < kGroups; ++g) {
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) state->scores[m][g][i][j] = 0;
      }
    }
  }
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[m][j] = shared.queries[warp * 32 + m * 16 + QueryRow(lane, j)][QueryWord(step, lane, j)];
      }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int column = g * 32 + FirstColumn(lane);
      const uint4 b0 =
          *reinterpret_cast<const uint4*>(&shared.keys[buffer][KeyRow(step, lane, 0)][column]);
      const uint4 b1 =
          *reinterpret_cast<const uint4*>(&shared.keys[buffer][KeyRow(step, lane, 1)][column]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          MmaBf16(state->scores[m][g][i], a[m], Component(b0, i), Component(b1, i));
        }
      }
    }
  }
}

// Scores of tokens that a row may not see become minus infinity. base[g]: position of a group's
// first token.
template <int kHeadDim, int kGroups>
__device__ void MaskScores(const int (&base)[kGroups], int lane,
                           WarpState<kHeadDim, kGroups>* state) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (base[g] + ScoreToken(i, lane, j) > state->position[m][j / 2]) {
            state->scores[m][g][i][j] = kMinusInfinity;
          }
        }
      }
    }
  }
}

// Scores to weights 2^(scale (score - max)); outputs and sums follow a maximum that grew.
template <int kHeadDim, int kGroups>
__device__ void Softmax(float scale, WarpState<kHeadDim, kGroups>* state) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    float keep[2], shift[2];
    bool grew = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = state->max[m][half];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          largest = fmaxf(largest, fmaxf(state->scores[m][g][i][2 * half],
                                         state->scores[m][g][i][2 * half + 1]));
        }
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      grew = grew || largest != state->max[m][half];
      // A row that has seen no key yet keeps nothing; its shift must not be infinite.
      shift[half] = largest == kMinusInfinity ? 0.0f : largest * scale;
      keep[half] = FastExp2(state->max[m][half] * scale - shift[half]);
      state->max[m][half] = largest;
    }
    if (__any_sync(0xffffffffu, grew)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        state->sum[m][half] *= keep[half];
#pragma unroll
        for (int d = 0; d < kHeadDim / 32; ++d) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            state->out[m][d][i][2 * half] *= keep[half];
            state->out[m][d][i][2 * half + 1] *= keep[half];
          }
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float weight = FastExp2(state->scores[m][g][i][j] * scale - shift[j / 2]);
          state->scores[m][g][i][j] = weight;
          state->sum[m][j / 2] += weight;
        }
      }
    }
  }
}

template <int kHeadDim, int kGroups>
__device__ void AddValues(const Shared<kHeadDim, kGroups>& shared, int buffer, int lane,
                          WarpState<kHeadDim, kGroups>* state) {
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          a[m][j] = PackBf16(state->scores[m][g][WeightTile(j)][WeightRegister(step, j)],
                             state->scores[m][g][WeightTile(j) + 1][WeightRegister(step, j)]);
        }
      }
      const int row0 = g * 16 + SharedValueRow(ValueRow(step, lane, 0));
      const int row1 = g * 16 + SharedValueRow(ValueRow(step, lane, 1));
#pragma unroll
      for (int d = 0; d < kHeadDim / 32; ++d) {
        const int column = d * 32 + FirstColumn(lane);
        const uint4 b0 = *reinterpret_cast<const uint4*>(&shared.values[buffer][row0][column]);
        const uint4 b1 = *reinterpret_cast<const uint4*>(&shared.values[buffer][row1][column]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            MmaBf16(state->out[m][d][i], a[m], Component(b0, i), Component(b1, i));
          }
        }
      }
    }
  }
}

// Eight neighbouring channels per lane and group of 32: one store of 16 bytes.
template <int kHeadDim, int kGroups>
__device__ void StoreOutput(const AttentionArgs& args, const PrefillTile& tile, int kv_head,
                            int warp, int lane, const WarpState<kHeadDim, kGroups>& state) {
  const int group = args.shape.num_heads / args.shape.num_kv_heads;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int row = warp * 32 + m * 16 + ScoreRow(lane, 2 * half);
      if (row / group >= tile.num_rows) continue;
      const int64_t head = (int64_t{tile.first_row} + row / group) * args.shape.num_heads +
                           kv_head * group + row % group;
      auto* out = reinterpret_cast<uint32_t*>(args.out) + head * (kHeadDim / 2);
      const float scale = 1.0f / sum;
#pragma unroll
      for (int d = 0; d < kHeadDim / 32; ++d) {
        const auto& o = state.out[m][d];
        uint4 packed;
        packed.x = PackBf16(o[0][2 * half] * scale, o[1][2 * half] * scale);
        packed.y = PackBf16(o[2][2 * half] * scale, o[3][2 * half] * scale);
        packed.z = PackBf16(o[0][2 * half + 1] * scale, o[1][2 * half + 1] * scale);
        packed.w = PackBf16(o[2][2 * half + 1] * scale, o[3][2 * half + 1] * scale);
        *reinterpret_cast<uint4*>(out + d * 16 + OutputChannel(0, lane, 0) / 2) = packed;
      }
    }
  }
}

template <int kHeadDim, int kGroups>
__global__ void __launch_bounds__(kThreads, 2)
    PrefillKernel(AttentionArgs args, const PrefillTile* tiles, float scale) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* shared = reinterpret_cast<Shared<kHeadDim, kGroups>*>(memory);
  const PrefillTile tile = tiles[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = args.shape.num_heads / args.shape.num_kv_heads;
  const int block_tokens = args.shape.block_tokens;
  constexpr int kKeys = 32 * kGroups;
  const int key_tiles = (tile.num_slabs * block_tokens + kKeys - 1) / kKeys;

  LoadTile<kHeadDim, kGroups>(args, tile, 0, kv_head, 0, shared);
  CommitCopies();
  LoadQueries<kHeadDim, kGroups>(args, tile, kv_head, shared);
  WarpState<kHeadDim, kGroups> state;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = (warp * 32 + m * 16 + ScoreRow(lane, 2 * half)) / group;
      state.position[m][half] = token < tile.num_rows ? args.positions[tile.first_row + token] : -1;
      state.max[m][half] = kMinusInfinity;
      state.sum[m][half] = 0;
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 32; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) state.out[m][d][i][j] = 0;
      }
    }
  }
  const int first_position = args.positions[tile.first_row];

  for (int t = 0; t < key_tiles; ++t) {
    const int buffer = t % 2;
    if (t + 1 < key_tiles) {
      LoadTile<kHeadDim, kGroups>(args, tile, t + 1, kv_head, 1 - buffer, shared);
      CommitCopies();
      WaitForCopies<1>();
    } else {
      WaitForCopies<0>();
    }
    __syncthreads();
    ComputeScores<kHeadDim, kGroups>(*shared, buffer, warp, lane, &state);
    int base[kGroups];
    bool masked = false;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int token = t * kKeys + g * 32;
      const int slab = token / block_tokens;
      base[g] = slab < tile.num_slabs
                    ? args.block_ids[tile.first_slab + slab] * block_tokens + token % block_tokens
                    : 0x40000000;
      // Rows that the tile lacks have no position and are masked with the others, or not at all.
      masked = masked || base[g] + 31 > first_position;
    }
    if (masked) MaskScores<kHeadDim, kGroups>(base, lane, &state);
    Softmax<kHeadDim, kGroups>(scale, &state);
    AddValues<kHeadDim, kGroups>(*shared, buffer, lane, &state);
    __syncthreads();  // before the next copy overwrites this buffer
  }
  StoreOutput<kHeadDim, kGroups>(args, tile, kv_head, warp, lane, state);
}

template <int kHeadDim, int kGroups>
cudaError_t LaunchTiles(const AttentionArgs& args, const PrefillTile* tiles, int num_tiles,
                        cudaStream_t stream) {
  constexpr int kBytes = static_cast<int>(sizeof(Shared<kHeadDim, kGroups>));
  cudaError_t error = cudaFuncSetAttribute(
      PrefillKernel<kHeadDim, kGroups>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  // Two thread blocks share a multiprocessor only if nearly all of its memory is shared memory.
  error = cudaFuncSetAttribute(PrefillKernel<kHeadDim, kGroups>,
                               cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(num_tiles), static_cast<unsigned>(args.shape.num_kv_heads));
  const float scale = 1.44269504f / sqrtf(static_cast<float>(kHeadDim));
  PrefillKernel<kHeadDim, kGroups><<<grid, kThreads, kBytes, stream>>>(args, tiles, scale);
  return cudaGetLastError();
}

// Key tiles of 64 tokens, or of 32 where a thread block cannot have so much shared memory (compute
// capability 8.6, 8.9 and 12.0 with heads of 128).
template <int kHeadDim>
cudaError_t Launch(const AttentionArgs& args, const PrefillTile* tiles, int num_tiles,
                   cudaStream_t stream) {
  int device = 0, most_bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) return error;
  if (static_cast<int>(sizeof(Shared<kHeadDim, 2>)) <= most_bytes) {
    return LaunchTiles<kHeadDim, 2>(args, tiles, num_tiles, stream);
  }
  return LaunchTiles<kHeadDim, 1>(args, tiles, num_tiles, stream);
}

}  // namespace

cudaError_t AttentionPrefill(const AttentionArgs& args, const PrefillTile* tiles, int num_tiles,
                             cudaStream_t stream) {
  if (num_tiles == 0) return cudaSuccess;
  switch (args.shape.head_dim) {
    case 32:
      return Launch<32>(args, tiles, num_tiles, stream);
    case 64:
      return Launch<64>(args, tiles, num_tiles, stream);
    case 96:
      return Launch<96>(args, tiles, num_tiles, stream);
    case 128:
      return Launch<128>(args, tiles, num_tiles, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace slim::cuda
