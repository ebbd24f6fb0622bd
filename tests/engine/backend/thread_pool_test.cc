#include "engine/backend/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <numeric>
#include <vector>

#include "engine/backend/cpu/cpu_backend.h"
#include "engine/backend/cpu/cpu_features.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

std::unique_ptr<ThreadPool> MakePool(int threads, int watch_microseconds) {
  ThreadPool::Options options;
  options.num_threads = threads;
  options.watch_microseconds = watch_microseconds;
  auto pool = ThreadPool::Create(options);
  EXPECT_TRUE(pool.ok());
  return *std::move(pool);
}

TEST(ThreadPoolTest, CoversEveryIndexOnceWhateverCountAndGrain) {
  for (const int threads : {1, 2, 5}) {
    for (const int watch : {0, 30}) {
      auto pool = MakePool(threads, watch);
      for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
        for (const int64_t grain : {1, 3, 64, 5000}) {
          std::vector<std::atomic<int>> seen(count);
          pool->ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
            EXPECT_GE(thread, 0);
            EXPECT_LT(thread, threads);
            for (int64_t i = begin; i < end; ++i) ++seen[i];
          });
          for (const auto& times : seen) ASSERT_EQ(times.load(), 1);
        }
      }
    }
  }
}

TEST(ThreadPoolTest, ResultsAreVisibleAfterEachOfManyShortLoops) {
  for (const int watch : {0, 30}) {
    auto pool = MakePool(3, watch);
    std::vector<int64_t> values(64, 0);
    for (int round = 0; round < 3000; ++round) {
      pool->ParallelFor(64, 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) values[i] += i;
      });
    }
    for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(values[i], 3000 * i);
  }
}

TEST(ThreadPoolTest, OneThreadNumberIsNeverUsedTwiceAtOnce) {
  auto pool = MakePool(4, 30);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> clash{false};
  for (int round = 0; round < 200; ++round) {
    pool->ParallelFor(40, 1, [&](int64_t, int64_t, int thread) {
      if (inside[thread].fetch_add(1) != 0) clash = true;
      inside[thread].fetch_sub(1);
    });
  }
  EXPECT_FALSE(clash);
}

// A helper that holds every loop up, as one does whose processor is taken by others, is left out;
// once it is quick again it takes part again.
TEST(ThreadPoolTest, RunsAloneWhileTheOthersOnlyHoldItUp) {
  auto pool = MakePool(2, 30);
  std::atomic<bool> slow{true};
  std::atomic<int> helped{0};
  const auto run_loop = [&] {
    pool->ParallelFor(8, 1, [&](int64_t, int64_t, int thread) {
      if (thread != 0) ++helped;
      const auto pause = std::chrono::microseconds(thread != 0 && slow ? 5000 : 100);
      const auto end = std::chrono::steady_clock::now() + pause;
      while (std::chrono::steady_clock::now() < end) {
      }
    });
  };
  constexpr int kLoops = 400;
  int loops_helped = 0;
  for (int i = 0; i < kLoops; ++i) {
    const int before = helped;
    run_loop();
    loops_helped += helped > before ? 1 : 0;
  }
  EXPECT_GT(loops_helped, 0);
  EXPECT_LT(loops_helped, kLoops / 4);
  slow = false;
  helped = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (helped == 0 && std::chrono::steady_clock::now() < deadline) run_loop();
  EXPECT_GT(helped, 0);
}

TEST(ThreadPoolTest, RefusesThreadCountsOutOfRange) {
  for (const int threads : {0, -1, 1025}) {
    ThreadPool::Options options;
    options.num_threads = threads;
    EXPECT_EQ(ThreadPool::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CpuFeaturesTest, EveryMachineRunsThePortableKernels) {
  const auto isas = SupportedIsas(DetectCpuFeatures());
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), CpuIsa::kPortable);
  for (size_t i = 1; i < isas.size(); ++i) EXPECT_LT(isas[i - 1], isas[i]);
}

TEST(CpuFeaturesTest, LowerLevelsComeWithHigherOnes) {
  CpuFeatures features;
  EXPECT_EQ(SupportedIsas(features).size(), 1u);
  features.avx2 = true;
  EXPECT_EQ(SupportedIsas(features).back(), CpuIsa::kAvx2);
  features.avx512 = true;
  EXPECT_EQ(SupportedIsas(features).back(), CpuIsa::kAvx512);
  features.avx512_bf16 = true;
  EXPECT_EQ(SupportedIsas(features).back(), CpuIsa::kAvx512Bf16);
  features.amx = true;
  EXPECT_EQ(SupportedIsas(features).back(), CpuIsa::kAmx);
}

TEST(CpuFeaturesTest, QuotaTextIsRoundedUpToCpus) {
  EXPECT_EQ(CpusOfQuota("max 100000"), 0);
  EXPECT_EQ(CpusOfQuota("200000 100000"), 2);
  EXPECT_EQ(CpusOfQuota("150000 100000\n"), 2);
  EXPECT_EQ(CpusOfQuota("1000 100000"), 1);
  EXPECT_EQ(CpusOfQuota("200000"), 2);
  for (const char* text : {"", "-1 100000", "nonsense", "5 0", "100000 x"}) {
    EXPECT_EQ(CpusOfQuota(text), 0) << text;
  }
  EXPECT_GE(AvailableCpus(), 1);
}

TEST(CpuBackendTest, SaysWhatItChose) {
  CpuBackendOptions options;
  options.num_threads = 2;
  auto backend = CpuBackend::Create(options);
  ASSERT_TRUE(backend.ok());
  const BackendInfo& info = (*backend)->info();
  EXPECT_EQ(info.name, "cpu");
  EXPECT_EQ(info.isa, std::string(CpuIsaName(SupportedIsas(DetectCpuFeatures()).back())));
  EXPECT_EQ(info.num_threads, 2);
  EXPECT_EQ(info.kv_type, SupportedIsas(DetectCpuFeatures()).back() >= CpuIsa::kAvx2
                              ? KvType::kInt8
                              : KvType::kBF16);
  options.num_threads = -3;
  EXPECT_EQ(CpuBackend::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CpuBackendTest, RefusesAnInstructionSetTheProcessorLacks) {
  for (const CpuIsa isa :
       {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16, CpuIsa::kAmx}) {
    const auto supported = SupportedIsas(DetectCpuFeatures());
    const bool has = std::find(supported.begin(), supported.end(), isa) != supported.end();
    CpuBackendOptions options;
    options.isa = isa;
    options.num_threads = 1;
    EXPECT_EQ(CpuBackend::Create(options).ok(), has);
  }
}

TEST(CpuBackendTest, AllocatesZeroedAlignedMemoryOfAnySize) {
  auto backend = CpuBackend::Create({});
  ASSERT_TRUE(backend.ok());
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100}, int64_t{5} << 20}) {
    auto buffer = (*backend)->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    const auto* data = static_cast<const char*>(buffer->data());
    EXPECT_EQ(std::accumulate(data, data + bytes, 0), 0);
  }
  EXPECT_EQ((*backend)->Allocate(-1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace slim
