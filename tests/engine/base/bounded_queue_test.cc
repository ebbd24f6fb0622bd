#include "engine/base/bounded_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/mutex.h"

namespace slim {
namespace {

TEST(BoundedQueueTest, GivesItemsInOrder) {
  BoundedQueue<int> queue(3);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_EQ(queue.size(), 2u);
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.TryPop(), 2);
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueueTest, AFullQueueRefusesAndLeavesTheItemUntouched) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  ASSERT_TRUE(queue.TryPush(std::make_unique<int>(1)));
  auto item = std::make_unique<int>(2);
  EXPECT_FALSE(queue.TryPush(std::move(item)));
  ASSERT_NE(item, nullptr);
  EXPECT_EQ(*item, 2);
  EXPECT_EQ(**queue.Pop(), 1);
  EXPECT_TRUE(queue.TryPush(std::move(item)));
  EXPECT_EQ(**queue.Pop(), 2);
}

TEST(BoundedQueueTest, CapacityZeroRefusesEverything) {
  BoundedQueue<int> queue(0);
  EXPECT_FALSE(queue.TryPush(1));
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueueTest, CloseRefusesPushesAndDrains) {
  BoundedQueue<int> queue(3);
  ASSERT_TRUE(queue.TryPush(1));
  ASSERT_TRUE(queue.TryPush(2));
  queue.Close();
  queue.Close();
  auto item = 3;
  EXPECT_FALSE(queue.TryPush(std::move(item)));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.PopWithTimeout(absl::InfiniteDuration()), 2);
  EXPECT_EQ(queue.Pop(), std::nullopt);
  EXPECT_EQ(queue.PopWithTimeout(absl::InfiniteDuration()), std::nullopt);
}

TEST(BoundedQueueTest, CloseWakesEveryWaitingConsumer) {
  BoundedQueue<int> queue(1);
  std::vector<std::thread> consumers;
  for (int i = 0; i < 4; ++i) {
    consumers.emplace_back([&] { EXPECT_EQ(queue.Pop(), std::nullopt); });
  }
  queue.Close();
  for (std::thread& consumer : consumers) consumer.join();
}

TEST(BoundedQueueTest, APushWakesAWaitingConsumer) {
  BoundedQueue<int> queue(1);
  std::thread consumer([&] { EXPECT_EQ(queue.Pop(), 7); });
  EXPECT_TRUE(queue.TryPush(7));
  consumer.join();
}

TEST(BoundedQueueTest, PopWithTimeoutGivesUpOnAnEmptyQueue) {
  BoundedQueue<int> queue(1);
  EXPECT_EQ(queue.PopWithTimeout(absl::ZeroDuration()), std::nullopt);
  EXPECT_EQ(queue.PopWithTimeout(absl::Milliseconds(1)), std::nullopt);
}

// Producers that find the queue full wait for this signal, so that the test needs no spinning.
class Turnstile {
 public:
  void Signal() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    ++popped_;
    mutex_.NotifyAll();
  }
  int64_t popped() const ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return popped_;
  }
  void WaitForMoreThan(int64_t seen) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    while (popped_ <= seen) mutex_.Wait();
  }

 private:
  mutable Mutex mutex_;
  int64_t popped_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST(BoundedQueueTest, ManyThreadsLoseAndDoubleNothing) {
  constexpr int kProducers = 8;
  constexpr int kConsumers = 8;
  constexpr int64_t kItemsEach = 5000;
  constexpr size_t kCapacity = 16;
  BoundedQueue<int64_t> queue(kCapacity);
  Turnstile turnstile;
  std::vector<std::vector<int64_t>> received(kConsumers);

  std::vector<std::thread> consumers;
  for (int c = 0; c < kConsumers; ++c) {
    consumers.emplace_back([&, c] {
      while (true) {
        // Every way to take an item meets every other one.
        std::optional<int64_t> item;
        if (c % 3 == 0) item = queue.TryPop();
        if (!item.has_value()) {
          item = c % 2 == 0 ? queue.Pop() : queue.PopWithTimeout(absl::InfiniteDuration());
        }
        if (!item.has_value()) return;
        EXPECT_LE(queue.size(), kCapacity);
        received[static_cast<size_t>(c)].push_back(*item);
        turnstile.Signal();
      }
    });
  }
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      for (int64_t i = 0; i < kItemsEach; ++i) {
        while (true) {
          // Read before the attempt: a pop in between is then seen by the wait.
          const int64_t seen = turnstile.popped();
          if (queue.TryPush(p * kItemsEach + i)) break;
          turnstile.WaitForMoreThan(seen);
        }
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  queue.Close();
  for (std::thread& consumer : consumers) consumer.join();

  std::vector<int> times(kProducers * kItemsEach, 0);
  for (const std::vector<int64_t>& items : received) {
    std::vector<int64_t> last(kProducers, -1);
    for (const int64_t item : items) {
      ++times[static_cast<size_t>(item)];
      // One consumer sees the items of one producer in their order.
      int64_t& before = last[static_cast<size_t>(item / kItemsEach)];
      EXPECT_LT(before, item);
      before = item;
    }
  }
  EXPECT_THAT(times, testing::Each(1));
}

}  // namespace
}  // namespace slim
