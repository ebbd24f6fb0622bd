// The index arithmetic of the attention kernels, played on the host: a warp of 32 lanes with the
// registers that the tensor core instruction defines, over slabs as KvLayout stores them.

#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "engine/backend/cuda/mma_layout.h"
#include "engine/backend/cuda/random_arith.h"
#include "engine/backend/cuda/ring_cursor.h"
#include "engine/backend/cuda/rope_arith.h"
#include "tests/engine/backend/op_fixtures.h"

namespace slim::cuda {
namespace {

constexpr int kLanes = 32;

// One register of every lane, two elements each (A and B), or one (C).
using PairRegisters = std::vector<std::array<float, 2>>;

// What m16n8k16 computes, by the definition in mma_layout.h. a[j][lane], b[j][lane], c[j][lane].
void Multiply(const std::array<PairRegisters, 4>& a, const std::array<PairRegisters, 2>& b,
              std::array<std::vector<float>, 4>* c) {
  float left[16][16], right[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = lane / 4, col = lane % 4;
    for (int e = 0; e < 2; ++e) {
      for (int j = 0; j < 4; ++j) {
        left[row + 8 * (j % 2)][2 * col + 8 * (j / 2) + e] = a[j][lane][e];
      }
      for (int j = 0; j < 2; ++j) right[2 * col + 8 * j + e][row] = b[j][lane][e];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int j = 0; j < 4; ++j) {
      const int row = lane / 4 + 8 * (j / 2), col = 2 * (lane % 4) + j % 2;
      for (int k = 0; k < 16; ++k) (*c)[j][lane] += left[row][k] * right[k][col];
    }
  }
}

std::array<float, 2> Word(const uint32_t* words, int64_t index) {
  return {BF16ToF32(static_cast<uint16_t>(words[index])),
          BF16ToF32(static_cast<uint16_t>(words[index] >> 16))};
}

using Tile = std::array<std::vector<float>, 4>;  // C registers
Tile ZeroTile() {
  Tile tile;
  for (auto& reg : tile) reg.assign(kLanes, 0.0f);
  return tile;
}

// 16 query rows against the 32 tokens from `offset` of a slab: softmax over these, output.
std::vector<float> PlayWarp(const KvLayout& layout, int kv_head, const std::vector<float>& q,
                            const uint16_t* slab, int offset) {
  const int dims = layout.head_dim, block = layout.block_tokens;
  const auto* words = reinterpret_cast<const uint32_t*>(slab);
  const uint32_t* keys = words + layout.key_head_offset(kv_head) / 2 + offset;
  const uint32_t* values =
      words + layout.value_head_offset(kv_head) / 2 + int64_t{offset / 2} * dims;
  std::vector<Tile> scores(4, ZeroTile());
  for (int step = 0; step < dims / 16; ++step) {
    std::array<PairRegisters, 4> a;
    for (int j = 0; j < 4; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const float* row = &q[QueryRow(lane, j) * dims];
        a[j].push_back({row[2 * QueryWord(step, lane, j)], row[2 * QueryWord(step, lane, j) + 1]});
      }
    }
    for (int i = 0; i < 4; ++i) {
      std::array<PairRegisters, 2> b;
      for (int j = 0; j < 2; ++j) {
        for (int lane = 0; lane < kLanes; ++lane) {
          b[j].push_back(
              Word(keys, int64_t{KeyRow(step, lane, j)} * block + FirstColumn(lane) + i));
        }
      }
      Multiply(a, b, &scores[i]);
    }
  }
  std::vector<float> sums(16, 0.0f);
  for (int i = 0; i < 4; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int j = 0; j < 4; ++j) {
        scores[i][j][lane] = std::exp(scores[i][j][lane]);
        sums[ScoreRow(lane, j)] += scores[i][j][lane];
      }
    }
  }
  std::vector<float> out(16 * dims);
  for (int d = 0; d < dims / 32; ++d) {
    for (int i = 0; i < 4; ++i) {
      Tile tile = ZeroTile();
      for (int step = 0; step < 2; ++step) {
        std::array<PairRegisters, 4> a;
        std::array<PairRegisters, 2> b;
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int j = 0; j < 4; ++j) {
            a[j].push_back({scores[WeightTile(j)][WeightRegister(step, j)][lane],
                            scores[WeightTile(j) + 1][WeightRegister(step, j)][lane]});
          }
          for (int j = 0; j < 2; ++j) {
            b[j].push_back(Word(
                values, int64_t{ValueRow(step, lane, j)} * dims + d * 32 + FirstColumn(lane) + i));
          }
        }
        Multiply(a, b, &tile);
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int j = 0; j < 4; ++j) {
          const int row = ScoreRow(lane, j);
          out[row * dims + d * 32 + OutputChannel(i, lane, j)] = tile[j][lane] / sums[row];
        }
      }
    }
  }
  return out;
}

TEST(CudaMmaLayoutTest, AWarpComputesAttentionOverASlab) {
  for (const int dims : {32, 64, 96, 128}) {
    for (const int block : {32, 64}) {
      const KvLayout layout = SmallLayout(block, 2, dims);
      PagedKv kv(layout, {0});
      kv.Fill(block, 5, 0.5f);
      const auto* slab = static_cast<const uint16_t*>(kv.slabs()[0]);
      const std::vector<float> q = RandomFloats(16 * dims, 7, 0.2f);
      for (int offset = 0; offset < block; offset += 32) {
        const int head = 1;
        const std::vector<float> got = PlayWarp(layout, head, q, slab, offset);
        for (int row = 0; row < 16; ++row) {
          std::vector<double> weights(32), want(dims, 0.0);
          double sum = 0;
          for (int t = 0; t < 32; ++t) {
            double dot = 0;
            for (int c = 0; c < dims; ++c) {
              dot += q[row * dims + c] * BF16ToF32(slab[layout.key_offset(head, offset + t, c)]);
            }
            sum += weights[t] = std::exp(dot);
          }
          for (int t = 0; t < 32; ++t) {
            for (int c = 0; c < dims; ++c) {
              want[c] +=
                  weights[t] / sum * BF16ToF32(slab[layout.value_offset(head, offset + t, c)]);
            }
          }
          for (int c = 0; c < dims; ++c) {
            ASSERT_NEAR(got[row * dims + c], want[c], 1e-5)
                << "dims " << dims << " block " << block << " row " << row << " channel " << c;
          }
        }
      }
    }
  }
}

// A mask is by token, so every score register must say which token and row it holds.
TEST(CudaMmaLayoutTest, ScoreRegistersCoverEveryTokenOfEveryRowOnce) {
  std::set<std::pair<int, int>> seen;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int tile = 0; tile < 4; ++tile) {
      for (int j = 0; j < 4; ++j) seen.insert({ScoreRow(lane, j), ScoreToken(tile, lane, j)});
    }
  }
  EXPECT_EQ(seen.size(), 16u * 32u);
}

// Eight neighbouring channels per lane, in the order in which the kernels pack them.
TEST(CudaMmaLayoutTest, ALaneOwnsEightNeighbouringOutputChannels) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(OutputChannel(i, lane, 0), OutputChannel(0, lane, 0) + i);
      EXPECT_EQ(OutputChannel(i, lane, 1), OutputChannel(0, lane, 0) + 4 + i);
    }
    EXPECT_EQ(OutputChannel(0, lane, 0) % 8, 0);
  }
}

// Eight lanes at a time read 16 bytes each from shared memory; together they meet all 32 banks.
TEST(CudaMmaLayoutTest, SharedMemoryReadsMeetEveryBankOnce) {
  const int key_strides[] = {64 + 8, 32 + 8};  // key tiles of 64 and of 32 tokens
  for (const int dims : {32, 64, 96, 128}) {
    const int value_stride = dims + 8;
    for (int phase = 0; phase < 4; ++phase) {
      std::set<int> value_banks;
      std::set<int> key_banks[2];
      for (int lane = phase * 8; lane < phase * 8 + 8; ++lane) {
        for (int w = 0; w < 4; ++w) {
          for (int k = 0; k < 2; ++k) {
            key_banks[k].insert((KeyRow(0, lane, 0) * key_strides[k] + FirstColumn(lane) + w) % 32);
          }
          value_banks.insert(
              (SharedValueRow(ValueRow(0, lane, 0)) * value_stride + FirstColumn(lane) + w) % 32);
        }
      }
      for (const auto& banks : key_banks) EXPECT_EQ(banks.size(), 32u);
      EXPECT_EQ(value_banks.size(), 32u) << dims;
    }
    std::set<int> query_banks;
    for (int lane = 0; lane < kLanes; ++lane) {
      query_banks.insert((QueryRow(lane, 0) * (dims / 2 + 4) + QueryWord(0, lane, 0)) % 32);
    }
    EXPECT_EQ(query_banks.size(), 32u) << dims;
  }
  std::set<int> rows;
  for (int r = 0; r < 16; ++r) rows.insert(SharedValueRow(r));
  EXPECT_EQ(rows.size(), 16u);
  EXPECT_EQ(*rows.rbegin(), 15);
}

TEST(CudaRopeArithTest, EveryChannelBelongsToItsPair) {
  for (const bool neighbouring : {true, false}) {
    for (const int dims : {2, 32, 64, 128}) {
      std::set<int> channels;
      for (int pair = 0; pair < dims / 2; ++pair) {
        const ChannelPair at = PairChannels(pair, dims, neighbouring);
        EXPECT_EQ(PairOf(at.first, dims, neighbouring), pair);
        EXPECT_EQ(PairOf(at.second, dims, neighbouring), pair);
        EXPECT_EQ(at.second - at.first, neighbouring ? 1 : dims / 2);
        channels.insert(at.first);
        channels.insert(at.second);
      }
      EXPECT_EQ(static_cast<int>(channels.size()), dims);
    }
  }
  EXPECT_FLOAT_EQ(RotatedFirst(3, 4, 0.6f, 0.8f), 3 * 0.6f - 4 * 0.8f);
  EXPECT_FLOAT_EQ(RotatedSecond(3, 4, 0.6f, 0.8f), 3 * 0.8f + 4 * 0.6f);
}

TEST(CudaRandomArithTest, NumbersHaveTheDeviationAndAreNotAlike) {
  const int count = 100000;
  double sum = 0, squares = 0, neighbours = 0;
  float last = 0;
  for (int i = 0; i < count; ++i) {
    const float x = kLargestOfDeviation * RandomFraction(7, static_cast<uint64_t>(i));
    ASSERT_LE(std::fabs(x), kLargestOfDeviation);
    sum += x;
    squares += double{x} * x;
    neighbours += double{x} * last;
    last = x;
  }
  EXPECT_NEAR(sum / count, 0, 0.02);
  EXPECT_NEAR(squares / count, 1, 0.02);
  EXPECT_NEAR(neighbours / count, 0, 0.02);
  EXPECT_NE(RandomFraction(7, 0), RandomFraction(8, 0));
}

TEST(CudaRingCursorTest, PiecesStayInsideTheirSegmentAndSegmentsTakeTurns) {
  RingCursor ring(3, 100);
  EXPECT_EQ(ring.total_bytes(), 300);
  EXPECT_EQ(ring.Take(60).offset, 0);
  RingCursor::Place place = ring.Take(40);
  EXPECT_EQ(place.offset, 60);
  EXPECT_EQ(place.left_segment, -1);
  place = ring.Take(1);
  EXPECT_EQ(place.offset, 100);
  EXPECT_EQ(place.left_segment, 0);
  EXPECT_EQ(place.entered_segment, 1);
  place = ring.Take(100);
  EXPECT_EQ(place.offset, 200);
  EXPECT_EQ(place.left_segment, 1);
  place = ring.Take(100);
  EXPECT_EQ(place.offset, 0);
  EXPECT_EQ(place.left_segment, 2);
  EXPECT_EQ(place.entered_segment, 0);
  place = ring.Take(0);
  EXPECT_EQ(place.left_segment, -1);
}

}  // namespace
}  // namespace slim::cuda
