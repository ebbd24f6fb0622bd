#include "kvcache/block_pool.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

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

TEST(BlockPoolTest, SlabsAreZeroWhenHandedOutAgain) {
  auto pool = MakePool(100, 3, /*poison=*/true);
  std::vector<SlabId> slabs;
  ASSERT_TRUE(pool->Acquire(3, &slabs).ok());
  for (const SlabId slab : slabs) std::memset(pool->data(slab), 0x5A, 100);
  pool->Release(slabs);
  slabs.clear();
  ASSERT_TRUE(pool->Acquire(3, &slabs).ok());
  for (const SlabId slab : slabs) {
    const char* bytes = static_cast<const char*>(pool->data(slab));
    EXPECT_EQ(std::count(bytes, bytes + 100, 0), 100);
  }
}

TEST(BlockPoolTest, SlabsAreAlignedAndDoNotOverlap) {
  auto pool = MakePool(100, 8);
  std::vector<SlabId> slabs;
  ASSERT_TRUE(pool->Acquire(8, &slabs).ok());
  for (const SlabId slab : slabs) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool->data(slab)) % 64, 0u);
    std::memset(pool->data(slab), slab, 100);
  }
  for (const SlabId slab : slabs) {
    const char* bytes = static_cast<const char*>(pool->data(slab));
    EXPECT_EQ(std::count(bytes, bytes + 100, static_cast<char>(slab)), 100);
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
