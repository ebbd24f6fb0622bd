// How the CUDA backend cuts attention into tiles and runs of keys, and the arithmetic of its block
// scores: both without a device.

#include <cmath>
#include <limits>
#include <set>

#include "engine/backend/cuda/attention_plan.h"
#include "engine/backend/cuda/score_arith.h"
#include "tests/engine/backend/op_fixtures.h"

namespace slim::cuda {
namespace {

AttentionSequence SequenceOf(const PagedKv& kv, int64_t first_row, int64_t rows) {
  AttentionSequence sequence;
  sequence.first_row = first_row;
  sequence.num_rows = rows;
  sequence.slabs = kv.slabs();
  sequence.block_ids = kv.block_ids();
  return sequence;
}

// Every row is in one tile or one decode row, and sees exactly the blocks up to its position.
void CheckPlan(const HeadShape& shape, const std::vector<int32_t>& positions,
               const std::vector<AttentionSequence>& sequences, const AttentionPlan& plan) {
  std::vector<int> covered(positions.size(), 0);
  const auto check_slabs = [&](int64_t row, int32_t first, int32_t count) {
    for (const AttentionSequence& s : sequences) {
      if (row < s.first_row || row >= s.first_row + s.num_rows) continue;
      int32_t visible = 0;
      for (const int32_t id : s.block_ids) visible += id * shape.block_tokens <= positions[row];
      ASSERT_EQ(count, visible);
      for (int32_t i = 0; i < count; ++i) {
        ASSERT_EQ(plan.slabs[first + i], s.slabs[i]);
        ASSERT_EQ(plan.block_ids[first + i], s.block_ids[i]);
      }
    }
  };
  for (size_t i = 0; i < plan.tiles.size(); ++i) {
    const PrefillTile& tile = plan.tiles[i];
    ASSERT_GT(tile.num_rows, 0);
    ASSERT_LE(tile.num_rows * (shape.num_heads / shape.num_kv_heads), kPrefillTileRows);
    if (i > 0) {
      ASSERT_LE(tile.num_slabs, plan.tiles[i - 1].num_slabs);
    }
    for (int32_t r = 0; r < tile.num_rows; ++r) ++covered[tile.first_row + r];
    check_slabs(tile.first_row + tile.num_rows - 1, tile.first_slab, tile.num_slabs);
  }
  int next_partial = 0;
  for (const DecodeRow& row : plan.rows) {
    ++covered[row.row];
    ASSERT_EQ(row.first_partial, next_partial);
    int32_t slabs = 0;
    for (int p = 0; p < row.num_partials; ++p) {
      const DecodeSplit& split = plan.splits[row.first_partial + p];
      ASSERT_EQ(split.row, row.row);
      ASSERT_EQ(split.partial, row.first_partial + p);
      ASSERT_EQ(split.first_slab, plan.splits[row.first_partial].first_slab + slabs);
      ASSERT_LE(split.num_slabs * shape.block_tokens, kDecodeSplitTokens);
      ASSERT_GT(split.num_slabs, 0);
      slabs += split.num_slabs;
    }
    check_slabs(row.row, plan.splits[row.first_partial].first_slab, slabs);
    next_partial += row.num_partials;
  }
  ASSERT_EQ(next_partial, plan.num_partials());
  for (const int count : covered) ASSERT_EQ(count, 1);
}

TEST(CudaAttentionPlanTest, CoversPackedSequencesWithGaps) {
  AttentionPlan plan;
  for (const int block_tokens : {32, 64}) {
    for (const int kv_heads : {1, 3, 9}) {
      const KvLayout layout = SmallLayout(block_tokens, kv_heads);
      const HeadShape shape{64, 9, kv_heads, block_tokens};
      PagedKv gaps(layout, {0, 3, 4, 9, 20, 21});
      PagedKv longer(layout, BlockRange(40));
      std::vector<int32_t> positions;
      std::vector<AttentionSequence> sequences;
      const auto add = [&](const PagedKv& kv, const std::vector<int32_t>& rows) {
        sequences.push_back(SequenceOf(kv, static_cast<int64_t>(positions.size()),
                                       static_cast<int64_t>(rows.size())));
        positions.insert(positions.end(), rows.begin(), rows.end());
      };
      add(gaps, gaps.Positions(21 * block_tokens + 5));
      add(longer, {40 * block_tokens - 1});
      add(longer, {0, 700, 1100});
      add(longer, longer.Positions(300));
      add(gaps, {21 * block_tokens});
      PlanAttention(shape, positions, sequences, &plan);
      CheckPlan(shape, positions, sequences, plan);
    }
  }
}

// Empty runs keep the number of thread blocks the same while a context grows, and change no result.
TEST(CudaAttentionPlanTest, PaddingAddsEmptyRunsBehindTheOthers) {
  const KvLayout layout = SmallLayout(64, 2);
  const HeadShape shape{64, 4, 2, 64};
  PagedKv kv(layout, BlockRange(100));
  AttentionPlan plan;
  size_t last = 0;
  int changes = 0;
  for (int32_t position = 64 * 64; position < 100 * 64; position += 64) {
    PlanAttention(shape, {position}, {SequenceOf(kv, 0, 1)}, &plan);
    const size_t used = plan.splits.size();
    plan.PadSplits();
    ASSERT_GE(plan.splits.size(), used);
    EXPECT_EQ(plan.rows[0].num_partials, static_cast<int32_t>(used));
    for (size_t i = used; i < plan.splits.size(); ++i) EXPECT_EQ(plan.splits[i].num_slabs, 0);
    changes += last != plan.splits.size();
    last = plan.splits.size();
  }
  EXPECT_LE(changes, 3);
}

// The kernels' order of operations, played on the host, against the CPU backend to the last bit.
TEST(CudaScoreArithTest, WindowScoresHaveTheBitsOfTheCpuBackend) {
  const KvLayout layout = SmallLayout(32);
  const int heads = 9, dims = layout.head_dim, window = 5;
  const int64_t num_tokens = 4 * 32 + 9;
  PagedKv kv(layout, {0, 1, 4});
  kv.Fill(num_tokens, 3, 3.0f);
  std::vector<float> queries = RandomFloats(int64_t{window} * heads * dims, 4);
  std::vector<int32_t> positions;
  for (int w = 0; w < window; ++w)
    positions.push_back(static_cast<int32_t>(num_tokens) - window + w);

  std::vector<float> want(3), got(3, 0.0f);
  auto cpu = MakeCpu(kBf16Isa);
  ASSERT_TRUE(cpu->Configure(layout, heads, SmallRope(dims), 2048).ok());
  BlockScoreArgs args;
  args.queries = ViewOf(queries, window);
  args.positions = positions;
  args.slabs = kv.slabs();
  args.block_ids = kv.block_ids();
  args.num_tokens = num_tokens;
  args.num_heads = heads;
  ASSERT_TRUE(cpu->ScoreBlocks(args, absl::MakeSpan(want)).ok());

  const float scale = 1.0f / sqrtf(static_cast<float>(dims));
  for (int i = 0; i < window * heads; ++i) {
    const int64_t end = std::min<int64_t>(num_tokens, positions[i / heads] + 1);
    const float* q = &queries[i * dims];
    std::vector<float> dots(3 * 32), shares(3, 0.0f);
    float largest = -std::numeric_limits<float>::infinity();
    for (int b = 0; b < 3; ++b) {
      for (int t = 0; t < TokensBefore(end, kv.block_ids()[b], 32); ++t) {
        const auto* slab = static_cast<const uint16_t*>(kv.slabs()[b]);
        const auto key = [&](int d) {
          return BF16ToF32(slab[layout.key_offset(i % heads / 3, t, d)]);
        };
        float dot = 0;
        for (int d = 0; d < dims; d += 2) dot = AddPair(dot, q[d], key(d), q[d + 1], key(d + 1));
        dots[b * 32 + t] = dot * scale;
        largest = MaxOrNan(largest, dots[b * 32 + t]);
      }
    }
    float lanes[kScoreLanes] = {}, sum = 0;
    for (int b = 0; b < 3; ++b) {
      for (int t = 0; t < TokensBefore(end, kv.block_ids()[b], 32); ++t) {
        const float e = ScoreExp(dots[b * 32 + t] - largest);
        lanes[t % kScoreLanes] += e;
        shares[b] = MaxOrNan(shares[b], e);
      }
    }
    for (const float lane : lanes) sum += lane;
    for (int b = 0; b < 3; ++b) {
      if (TokensBefore(end, kv.block_ids()[b], 32) > 0) shares[b] /= sum;
      got[b] = MaxOrNan(got[b], shares[b]);
    }
  }
  EXPECT_TRUE(SameBits(got.data(), want.data(), 3));
}

TEST(CudaScoreArithTest, NanIsNeverLost) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(ScoreExp(nan)));
  EXPECT_TRUE(std::isnan(MaxOrNan(nan, 1.0f)));
  EXPECT_TRUE(std::isnan(MaxOrNan(1.0f, nan)));
  EXPECT_EQ(ScoreExp(0.0f), 1.0f);
  EXPECT_GT(ScoreExp(-1000.0f), 0.0f);
}

}  // namespace
}  // namespace slim::cuda
