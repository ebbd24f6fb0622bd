// Launches that are put off give what launches at once give: random programs of ops, uploads,
// allocations and reads over the CUDA context, on a runtime that works in host memory and does a
// stream's work as late as it may.

#include "engine/backend/cuda/cuda_context.h"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/cuda_on_host/queue.h"

namespace slim::cuda {
namespace {

constexpr int kNumbers = 64;

// state[i] = 3 state[i] + factor * add[i % count]
cudaError_t Mix(const int32_t* add, int32_t count, int32_t factor, uint32_t* state,
                cudaStream_t stream) {
  return cuda_on_host::Enqueue(stream, [=] {
    for (int i = 0; i < kNumbers; ++i) {
      state[i] = 3 * state[i] + static_cast<uint32_t>(factor * add[i % count]);
    }
  });
}

class CudaContextTest : public testing::Test {
 protected:
  CudaContextTest() {
    auto context = CudaContext::Create();
    EXPECT_TRUE(context.ok()) << context.status();
    context_ = *context;
    NewState();
  }

  // As a buffer that grows: the old one is freed first and its memory may come back.
  void NewState() {
    state_ = Buffer();
    auto buffer = context_->Allocate(kNumbers * sizeof(uint32_t));
    ASSERT_TRUE(buffer.ok());
    state_ = *std::move(buffer);
    want_.assign(kNumbers, 0);
  }

  void RunOp(int64_t rows, const std::vector<int32_t>& add, int32_t factor) {
    ASSERT_TRUE(context_->BeginOp(rows).ok());
    void* device[2] = {};
    // Two arrays, so that the second one's place depends on the first one's size.
    const HostArray arrays[2] = {
        {add.data(), static_cast<int64_t>(add.size() * sizeof(int32_t)) / 2},
        {add.data(), static_cast<int64_t>(add.size() * sizeof(int32_t))}};
    ASSERT_TRUE(context_->Upload(arrays, absl::MakeSpan(device)).ok());
    ASSERT_TRUE((context_->Submit<Op::kConvert, &Mix>(static_cast<const int32_t*>(device[1]),
                                                      static_cast<int32_t>(add.size()), factor,
                                                      static_cast<uint32_t*>(state_.data())))
                    .ok());
    for (int i = 0; i < kNumbers; ++i) {
      want_[i] = 3 * want_[i] + static_cast<uint32_t>(factor * add[i % add.size()]);
    }
  }

  void CheckState() {
    ASSERT_TRUE(context_->Synchronize().ok());
    const auto* got = static_cast<const uint32_t*>(state_.data());
    ASSERT_EQ(std::vector<uint32_t>(got, got + kNumbers), want_);
  }

  std::shared_ptr<CudaContext> context_;
  Buffer state_;
  std::vector<uint32_t> want_;
};

std::vector<int32_t> Numbers(std::mt19937& random, int count) {
  std::vector<int32_t> numbers(count);
  for (int32_t& n : numbers) n = static_cast<int32_t>(random() % 1000);
  return numbers;
}

TEST_F(CudaContextTest, StepsThatLookAlikeAreReplayedWithTheirOwnArrays) {
  std::mt19937 random(1);
  const int before = cuda_on_host::GraphLaunches();
  for (int step = 0; step < 50; ++step) {
    for (int op = 0; op < 30; ++op) RunOp(4, Numbers(random, 33 + step / 10), op);
    CheckState();
  }
  // A new graph for each array size, the first of each launched plainly.
  EXPECT_EQ(cuda_on_host::GraphLaunches() - before, 45);
}

TEST_F(CudaContextTest, RandomProgramsGiveWhatTheyGiveAtOnce) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    NewState();
    for (int step = 0; step < 40; ++step) {
      const int ops = 10 + static_cast<int>(random() % 20);
      for (int op = 0; op < ops; ++op) {
        const int64_t rows = random() % 50 == 0 ? 4096 : 1 + static_cast<int64_t>(random() % 128);
        RunOp(rows, Numbers(random, 1 + static_cast<int>(random() % 400)),
              static_cast<int32_t>(random() % 7));
        if (random() % 200 == 0) NewState();
        if (random() % 200 == 0) {
          ASSERT_TRUE(context_->Flush().ok());
        }
      }
      if (random() % 2 == 0) CheckState();
      if (random() % 20 == 0) {
        context_->StartOpTimes();
        RunOp(1, {5}, 1);
        RunOp(1, {5}, 1);
        const auto times = context_->TakeOpTimes();
        ASSERT_TRUE(times.ok());
        ASSERT_EQ(times->size(), 1u);
        EXPECT_EQ((*times)[0].op, "convert");
        EXPECT_EQ((*times)[0].launches, 2);
      }
    }
    CheckState();
  }
}

// Arrays that outgrow the arena take the ring; those that outgrow the ring make it larger.
TEST_F(CudaContextTest, LargeArraysFindRoom) {
  std::mt19937 random(2);
  for (const int count : {1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 10}) {
    for (int op = 0; op < 12; ++op) RunOp(op % 3 == 2 ? 4096 : 8, Numbers(random, count), op);
  }
  CheckState();
}

TEST_F(CudaContextTest, NothingIsPutOffWhereThatIsForbidden) {
  RunOp(1, {1, 2, 3}, 1);
  EXPECT_TRUE(context_->deferring());
  context_->ForbidDeferring();
  const int before = cuda_on_host::GraphLaunches();
  for (int step = 0; step < 3; ++step) {
    for (int op = 0; op < 30; ++op) RunOp(1, {4, 5}, op);
    EXPECT_FALSE(context_->deferring());
    CheckState();
  }
  EXPECT_EQ(cuda_on_host::GraphLaunches(), before);
}

// A buffer that goes away may still be written by what was put off before.
TEST_F(CudaContextTest, MemoryIsFreedBehindWhatUsesIt) {
  std::mt19937 random(3);
  auto other = context_->Allocate(kNumbers * sizeof(uint32_t));
  ASSERT_TRUE(other.ok());
  RunOp(1, {1, 2}, 1);
  Buffer old = std::move(state_);
  state_ = *std::move(other);
  want_.assign(kNumbers, 0);
  RunOp(1, {3, 4}, 1);
  old = Buffer();
  RunOp(1, {5, 6}, 1);
  CheckState();
}

}  // namespace
}  // namespace slim::cuda
