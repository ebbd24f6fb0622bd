// Steps as recorded graphs, without a device: what a list of launches remembers, which lists become
// graphs, and that every list runs exactly once whatever fails.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/command_list.h"
#include "engine/backend/cuda/graph_cache.h"
#include "engine/backend/cuda/size_bucket.h"
#include "gtest/gtest.h"

namespace slim::cuda {
namespace {

using Log = std::vector<std::string>;

struct Shape {
  int32_t rows = 0;
  int32_t cols = 0;
};

// What a kernel launch is here: a line in the stream, which is a Log.
absl::Status WriteLine(const uint64_t* words, void* stream) {
  const auto [shape, scale, flag, pointer] =
      CommandList::TakeAll<Shape, float, bool, const int*>(words);
  if (shape.rows < 0) return absl::InternalError("negative rows");
  static_cast<Log*>(stream)->push_back(
      absl::StrCat(shape.rows, "x", shape.cols, " ", scale, " ", flag ? "yes " : "no ", *pointer));
  return absl::OkStatus();
}

constexpr int kValue = 42;

CommandList ListOf(int launches, int32_t rows) {
  CommandList list;
  for (int i = 0; i < launches; ++i) {
    list.Add(&WriteLine, Shape{rows, i}, 0.5f, i % 2 == 0, &kValue);
  }
  return list;
}

Log LinesOf(const CommandList& list) {
  Log log;
  EXPECT_TRUE(list.Run(&log).ok());
  return log;
}

// Graphs are lists that were run into a log of their own.
class FakeDriver final : public GraphDriver {
 public:
  absl::Status Run(const CommandList& list) override { return list.Run(&stream); }
  absl::StatusOr<Graph> Capture(const CommandList& list) override {
    if (fail_captures) return absl::InternalError("no graphs here");
    ++alive;
    auto* graph = new Log;
    EXPECT_TRUE(list.Run(graph).ok());
    return graph;
  }
  absl::Status Launch(Graph graph) override {
    if (fail_launches) return absl::InternalError("the device is gone");
    const Log& lines = *static_cast<Log*>(graph);
    stream.insert(stream.end(), lines.begin(), lines.end());
    return absl::OkStatus();
  }
  void Destroy(Graph graph) override {
    --alive;
    delete static_cast<Log*>(graph);
  }

  Log stream;
  int alive = 0;
  bool fail_captures = false, fail_launches = false;
};

TEST(CudaCommandListTest, LaunchesInOrderWithTheArgumentsGiven) {
  CommandList list;
  const int other = 7;
  EXPECT_TRUE(list.empty());
  list.Add(&WriteLine, Shape{3, 4}, 1.5f, true, &kValue);
  list.Add(&WriteLine, Shape{5, 6}, -2.0f, false, &other);
  EXPECT_EQ(list.size(), 2u);
  EXPECT_EQ(LinesOf(list), (Log{"3x4 1.5 yes 42", "5x6 -2 no 7"}));
  list.Clear();
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(LinesOf(list), Log());
}

TEST(CudaCommandListTest, WordsAreEqualExactlyWhereLaunchesAre) {
  const auto with = [](Shape shape, float scale, bool flag, const int* pointer) {
    CommandList list;
    list.Add(&WriteLine, shape, scale, flag, pointer);
    return list.words();
  };
  const int copy = kValue;
  EXPECT_EQ(with({1, 2}, 3, true, &kValue), with({1, 2}, 3, true, &kValue));
  EXPECT_NE(with({1, 2}, 3, true, &kValue), with({2, 2}, 3, true, &kValue));
  EXPECT_NE(with({1, 2}, 3, true, &kValue), with({1, 2}, 4, true, &kValue));
  EXPECT_NE(with({1, 2}, 3, true, &kValue), with({1, 2}, 3, false, &kValue));
  EXPECT_NE(with({1, 2}, 3, true, &kValue), with({1, 2}, 3, true, &copy));
}

TEST(CudaCommandListTest, StopsAtTheFirstFailure) {
  CommandList list = ListOf(2, 1);
  list.Add(&WriteLine, Shape{-1, 0}, 0.0f, false, &kValue);
  list.Add(&WriteLine, Shape{9, 9}, 0.0f, false, &kValue);
  Log log;
  EXPECT_EQ(list.Run(&log).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(log.size(), 2u);
}

TEST(CudaGraphCacheTest, AListThatComesBackBecomesAGraphAndRunsTheSame) {
  FakeDriver driver;
  GraphCache cache(&driver, 4);
  const CommandList list = ListOf(20, 3);
  const Log once = LinesOf(list);
  Log want;
  for (int run = 0; run < 5; ++run) {
    ASSERT_TRUE(cache.Run(list).ok());
    want.insert(want.end(), once.begin(), once.end());
    EXPECT_EQ(driver.stream, want);
  }
  EXPECT_EQ(cache.stats().plain, 1);
  EXPECT_EQ(cache.stats().captured, 1);
  EXPECT_EQ(cache.stats().replayed, 4);
}

TEST(CudaGraphCacheTest, OtherArgumentsAreAnotherList) {
  FakeDriver driver;
  GraphCache cache(&driver, 4);
  for (const int32_t rows : {1, 2, 1, 2, 2}) {
    driver.stream.clear();
    const CommandList list = ListOf(20, rows);
    ASSERT_TRUE(cache.Run(list).ok());
    EXPECT_EQ(driver.stream, LinesOf(list));
  }
  EXPECT_EQ(cache.stats().captured, 2);
  EXPECT_EQ(cache.stats().replayed, 3);
}

TEST(CudaGraphCacheTest, ShortListsAreLaunchedOneByOne) {
  FakeDriver driver;
  GraphCache cache(&driver, 4);
  for (int run = 0; run < 3; ++run) ASSERT_TRUE(cache.Run(ListOf(3, 1)).ok());
  EXPECT_EQ(cache.stats().plain, 3);
  EXPECT_EQ(driver.stream.size(), 9u);
}

TEST(CudaGraphCacheTest, TheListNotUsedForLongestGoesFirst) {
  FakeDriver driver;
  {
    GraphCache cache(&driver, 2);
    const auto run = [&](int32_t rows) { ASSERT_TRUE(cache.Run(ListOf(20, rows)).ok()); };
    for (const int32_t rows : {1, 1, 2, 2, 1}) run(rows);  // graphs of 1 and 2, 1 used last
    EXPECT_EQ(driver.alive, 2);
    run(3);  // takes the place of 2
    EXPECT_EQ(driver.alive, 1);
    EXPECT_EQ(cache.stats().evicted, 1);
    run(1);
    EXPECT_EQ(cache.stats().replayed, 4);
    const int64_t plain = cache.stats().plain;
    run(2);  // new again
    EXPECT_EQ(cache.stats().plain, plain + 1);
  }
  EXPECT_EQ(driver.alive, 0);
}

TEST(CudaGraphCacheTest, ACaptureThatFailsIsLaunchedAndSoonNotTriedAgain) {
  FakeDriver driver;
  driver.fail_captures = true;
  GraphCache cache(&driver, 4);
  const CommandList list = ListOf(20, 1);
  for (int run = 0; run < 10; ++run) {
    driver.stream.clear();
    ASSERT_TRUE(cache.Run(list).ok());
    EXPECT_EQ(driver.stream, LinesOf(list));
  }
  EXPECT_EQ(cache.stats().plain, 10);
  EXPECT_EQ(cache.stats().capture_failures, 3);
}

TEST(CudaGraphCacheTest, FailuresOfTheDeviceAreReturned) {
  FakeDriver driver;
  GraphCache cache(&driver, 4);
  CommandList broken = ListOf(20, 1);
  broken.Add(&WriteLine, Shape{-1, 0}, 0.0f, false, &kValue);
  EXPECT_EQ(cache.Run(broken).code(), absl::StatusCode::kInternal);
  const CommandList list = ListOf(20, 2);
  ASSERT_TRUE(cache.Run(list).ok());
  driver.fail_launches = true;
  EXPECT_EQ(cache.Run(list).code(), absl::StatusCode::kInternal);
}

TEST(CudaSizeBucketTest, GrowsSeldomAndWastesAQuarterAtMost) {
  EXPECT_EQ(SizeBucket(0), 0);
  EXPECT_EQ(SizeBucket(1), 8);
  EXPECT_EQ(SizeBucket(8), 8);
  EXPECT_EQ(SizeBucket(9), 10);
  EXPECT_EQ(SizeBucket(15), 16);
  EXPECT_EQ(SizeBucket(17), 20);
  int distinct = 0;
  int64_t last = 0;
  for (int64_t n = 1; n <= 4096; ++n) {
    const int64_t bucket = SizeBucket(n);
    ASSERT_GE(bucket, n);
    ASSERT_GE(bucket, last);
    if (n >= 8) {
      ASSERT_LE(4 * bucket, 5 * n + 4) << n;
    }
    distinct += bucket != last;
    last = bucket;
  }
  EXPECT_EQ(distinct, 1 + 4 * 9);
}

}  // namespace
}  // namespace slim::cuda
