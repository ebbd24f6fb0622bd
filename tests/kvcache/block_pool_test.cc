#include "kvcache/block_pool.h"

#include <algorithm>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

std::unique_ptr<BlockPool> MakePool(int64_t slab_bytes, int64_t slabs, bool poison = false) {
  auto pool = BlockPool::Create(slab_bytes, slabs, poison);
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *std::move(pool);
}

bool IsRun(const std::vector<SlabId>& slabs) {
  for (size_t i = 1; i < slabs.size(); ++i) {
    if (slabs[i] != slabs[i - 1] + 1) return false;
  }
  return true;
}

TEST(BlockPoolTest, RefusesSizesThatCannotBe) {
  for (const auto& [bytes, slabs] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1},
                                                {-1, 1},
                                                {64, 0},
                                                {64, -3},
                                                {64, int64_t{1} << 31},
                                                {int64_t{1} << 62, 4},
                                                {int64_t{1} << 40, 1 << 20}}) {
    EXPECT_EQ(BlockPool::Create(bytes, slabs, false).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bytes << " x " << slabs;
  }
}

TEST(BlockPoolTest, AcquireFailsWhenExhaustedAndTakesNothing) {
  auto pool = MakePool(96, 4);
  std::vector<SlabId> a, b;
  ASSERT_TRUE(pool->Acquire(3, &a).ok());
  EXPECT_EQ(pool->Acquire(2, &b).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pool->free_slabs(), 1);
  ASSERT_TRUE(pool->Acquire(1, &b).ok());
  EXPECT_EQ(pool->free_slabs(), 0);
  EXPECT_EQ(pool->AcquireForOverwrite(), kNoSlab);
}

// The bytes of slabs of 200, whole or in halves.
class BlockPoolShapeTest : public ::testing::TestWithParam<BlockPool::Shape> {
 protected:
  static constexpr int64_t kBytes = 200, kSlabs = 8;

  BlockPoolShapeTest() {
    auto pool = BlockPool::Create(kBytes, kSlabs, /*poison_freed=*/true, nullptr, GetParam());
    EXPECT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
  }
  // Where the slab's pieces begin, and how long each is.
  std::vector<absl::Span<char>> Pieces(SlabId slab) const {
    char* const first = static_cast<char*>(pool_->data(slab));
    if (GetParam() == BlockPool::Shape::kWhole) return {{first, kBytes}};
    const int64_t distance = BlockPool::Stride(kBytes, GetParam()) / 2 * kSlabs;
    return {{first, kBytes / 2}, {first + distance, kBytes / 2}};
  }
  void Set(SlabId slab, char value) {
    for (const absl::Span<char> piece : Pieces(slab)) {
      std::fill(piece.begin(), piece.end(), value);
    }
  }
  bool Holds(SlabId slab, char value) const {
    for (const absl::Span<char> piece : Pieces(slab)) {
      for (const char byte : piece) {
        if (byte != value) return false;
      }
    }
    return true;
  }
  std::unique_ptr<BlockPool> pool_;
};

TEST_P(BlockPoolShapeTest, SlabsAreZeroWhenHandedOutAgain) {
  std::vector<SlabId> slabs;
  ASSERT_TRUE(pool_->Acquire(3, &slabs).ok());
  for (const SlabId slab : slabs) Set(slab, 0x5A);
  pool_->Release(slabs);
  slabs.clear();
  ASSERT_TRUE(pool_->Acquire(3, &slabs).ok());
  for (const SlabId slab : slabs) EXPECT_TRUE(Holds(slab, 0)) << slab;
  Set(slabs[1], 0x5A);
  pool_->Zero(slabs[1]);
  EXPECT_TRUE(Holds(slabs[1], 0));
}

TEST_P(BlockPoolShapeTest, SlabsAreAlignedAndDoNotOverlap) {
  std::vector<SlabId> slabs;
  ASSERT_TRUE(pool_->Acquire(kSlabs, &slabs).ok());
  for (const SlabId slab : slabs) {
    for (const absl::Span<char> piece : Pieces(slab)) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.data()) % 64, 0u);
    }
    Set(slab, static_cast<char>(slab + 1));
  }
  for (const SlabId slab : slabs) EXPECT_TRUE(Holds(slab, static_cast<char>(slab + 1))) << slab;
}

TEST_P(BlockPoolShapeTest, FreeingOneSlabLeavesTheOthersAlone) {
  std::vector<SlabId> slabs;
  ASSERT_TRUE(pool_->Acquire(3, &slabs).ok());
  for (const SlabId slab : slabs) Set(slab, 0x5A);
  pool_->Release({slabs[1]});  // poisoned
  EXPECT_TRUE(Holds(slabs[0], 0x5A));
  EXPECT_TRUE(Holds(slabs[2], 0x5A));
  std::vector<SlabId> again;
  ASSERT_TRUE(pool_->Acquire(1, &again).ok());  // zeroed
  EXPECT_TRUE(Holds(slabs[0], 0x5A));
  EXPECT_TRUE(Holds(slabs[2], 0x5A));
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlockPoolShapeTest,
                         ::testing::Values(BlockPool::Shape::kWhole, BlockPool::Shape::kHalves),
                         [](const auto& info) {
                           return info.param == BlockPool::Shape::kWhole ? "whole" : "halves";
                         });

TEST(BlockPoolTest, AnOddSlabCannotBeHalved) {
  for (const int64_t bytes : {1, 101}) {
    EXPECT_EQ(
        BlockPool::Create(bytes, 4, false, nullptr, BlockPool::Shape::kHalves).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
}

TEST(BlockPoolTest, RunsAreContiguousWhereTheyCanBe) {
  auto pool = MakePool(64, 10);
  std::vector<SlabId> a, b, c, d;
  ASSERT_TRUE(pool->Acquire(3, &a).ok());
  ASSERT_TRUE(pool->Acquire(4, &b).ok());
  ASSERT_TRUE(pool->Acquire(3, &c).ok());
  pool->Release(a);
  pool->Release(c);
  ASSERT_TRUE(pool->Acquire(3, &d).ok());
  EXPECT_TRUE(IsRun(d));
  pool->Release(d);
  d.clear();
  ASSERT_TRUE(pool->Acquire(6, &d).ok());  // only in two pieces
  EXPECT_FALSE(IsRun(d));
  pool->Release(d);
  pool->Release(b);
  d.clear();
  ASSERT_TRUE(pool->Acquire(10, &d).ok());  // the pieces were merged again
  EXPECT_TRUE(IsRun(d));
}

TEST(BlockPoolTest, RandomUseConservesSlabs) {
  auto pool = MakePool(64, 200, true);
  std::mt19937 random(7);
  std::vector<std::vector<SlabId>> held;
  int64_t taken = 0;
  for (int i = 0; i < 20000; ++i) {
    const int64_t count = 1 + random() % 12;
    if (random() % 2 == 0) {
      std::vector<SlabId> slabs;
      const bool fits = count <= 200 - taken;
      ASSERT_EQ(pool->Acquire(count, &slabs).ok(), fits);
      if (!fits) continue;
      taken += count;
      held.push_back(slabs);
    } else if (!held.empty()) {
      std::swap(held[random() % held.size()], held.back());
      taken -= static_cast<int64_t>(held.back().size());
      pool->Release(held.back());
      held.pop_back();
    }
    ASSERT_EQ(pool->free_slabs(), 200 - taken);
  }
}

TEST(BlockPoolDeathTest, DoubleReleaseIsCaught) {
  auto pool = MakePool(64, 2);
  std::vector<SlabId> slabs;
  ASSERT_TRUE(pool->Acquire(1, &slabs).ok());
  pool->Release(slabs);
  EXPECT_DEATH(pool->Release(slabs), "broken invariant");
}

}  // namespace
}  // namespace slim
