// The real threads: worker (this one), service, copier, and readers of the statistics.
#include <atomic>
#include <future>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/block_copier_host.h"
#include "kvcache/block_copier_verifying.h"
#include "kvcache/kv_manager.h"

namespace slim {
namespace {

constexpr KvLayout kLayout{2, 16, 16, KvType::kF32};  // 4 KiB
constexpr int kLayers = 6;
constexpr int kWords = 1024;

struct Live {
  KvSequenceId id{};
  int blocks = 0;
  int max_blocks = 0;
};

uint32_t ValueOf(KvSequenceId id, int layer, int block, int word) {
  uint32_t x = static_cast<uint32_t>(id) * 2654435761u + static_cast<uint32_t>(layer) * 40503u +
               static_cast<uint32_t>(block) * 2246822519u + static_cast<uint32_t>(word);
  x ^= x >> 15;
  return x * 2246822519u;
}

// Prefill, decode, cancel and admission at random, with every word of every page checked.
void RunWorker(KvManager& kv, int steps, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Live> live;
  for (int step = 0; step < steps; ++step) {
    if (live.size() < 5 && random() % 3 == 0) {
      const int max_blocks = 1 + static_cast<int>(random() % 6);
      auto id = kv.AddSequence({{0, 3, max_blocks}, {3, 3, max_blocks}});
      if (id.ok()) live.push_back({*id, 0, max_blocks});
    }
    if (!live.empty() && random() % 10 == 0) {
      std::swap(live[random() % live.size()], live.back());
      kv.RemoveSequence(live.back().id);
      live.pop_back();
    }
    std::vector<KvUse> uses;
    for (Live& s : live) {
      if (s.blocks < s.max_blocks) {
        ASSERT_TRUE(kv.AppendBlocks(s.id, 0, {s.blocks}).ok());
        ASSERT_TRUE(kv.AppendBlocks(s.id, 1, {s.blocks}).ok());
        ++s.blocks;
      }
      uses.push_back({s.id, 0, kLayers, s.blocks - 1});
    }
    ASSERT_TRUE(kv.BeginStep(uses).ok());
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const Live& s : live) {
        auto pages = kv.AcquireLayer(s.id, layer);
        ASSERT_TRUE(pages.ok()) << pages.status();
        ASSERT_EQ(static_cast<int>(pages->slabs.size()), s.blocks);
        uint32_t* const last = static_cast<uint32_t*>(pages->slabs.back());
        for (int w = 0; w < kWords; ++w) last[w] = ValueOf(s.id, layer, s.blocks - 1, w);
        for (int block = 0; block < s.blocks; ++block) {
          const uint32_t* const slab = static_cast<const uint32_t*>(pages->slabs[block]);
          for (int w = 0; w < kWords; ++w) {
            ASSERT_EQ(slab[w], ValueOf(s.id, layer, block, w)) << layer << " " << block;
          }
        }
        kv.ReleaseLayer(s.id, layer);
      }
    }
    kv.EndStep();
    for (const Live& s : live) {
      kv.SealBlocks(s.id, 0, s.blocks - 1);
      kv.SealBlocks(s.id, 1, s.blocks - 1);
    }
    const absl::Status status = kv.CheckInvariants();
    ASSERT_TRUE(status.ok()) << status;
  }
  for (const Live& s : live) kv.RemoveSequence(s.id);
}

std::unique_ptr<KvManager> MakeManager(const Clock* clock, std::unique_ptr<BlockCopier> copier,
                                       int64_t arena_slabs, bool verify) {
  KvManager::Options options;
  options.tier = KvTier::kDiscrete;
  options.layout = kLayout;
  options.num_layers = kLayers;
  options.host_bytes = 150 * kLayout.slab_bytes();
  options.device_bytes = arena_slabs * kLayout.slab_bytes();
  options.verify_transfers = verify;
  auto kv = CreateKvManager(options, clock, KvMemories{nullptr, nullptr, std::move(copier)});
  EXPECT_TRUE(kv.ok()) << kv.status();
  return *std::move(kv);
}

TEST(KvServiceStressTest, WorkerServiceCopierAndReadersAgree) {
  SteadyClock clock;
  for (const unsigned seed : {1u, 2u, 3u}) {
    // Seed 3: a slow link, so that layers do wait.
    auto kv = MakeManager(&clock, std::make_unique<HostBlockCopier>(seed == 3 ? 200e6 : 0), 14,
                          seed == 2);
    std::atomic<bool> stop = false;
    std::vector<std::thread> readers;
    for (int i = 0; i < 2; ++i) {
      readers.emplace_back([&] {
        while (!stop.load()) {
          const KvStats s = kv->stats();
          const KvTierStats& d = s.device;
          EXPECT_EQ(d.free_slabs + d.used_slabs + d.cached_slabs + d.held_by_transfer_slabs,
                    d.total_slabs);
          const KvTierStats& h = s.host;
          EXPECT_EQ(h.free_slabs + h.used_slabs + h.cached_slabs + h.held_by_transfer_slabs,
                    h.total_slabs);
          std::this_thread::yield();
        }
      });
    }
    RunWorker(*kv, seed == 3 ? 100 : 400, seed);
    stop = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_GT(kv->stats().bytes_to_device, 0);
    EXPECT_GT(kv->stats().prefetch_on_time, 0);
  }
}

TEST(KvServiceStressTest, AManagerCanBeDestroyedWithCopiesUnderWay) {
  SteadyClock clock;
  for (int round = 0; round < 30; ++round) {
    auto kv = MakeManager(&clock, std::make_unique<HostBlockCopier>(50e6), 12, false);
    auto a = kv->AddSequence({{0, kLayers, 5}});
    ASSERT_TRUE(a.ok());
    ASSERT_TRUE(kv->AppendBlocks(*a, 0, {0, 1, 2, 3, 4}).ok());
    ASSERT_TRUE(kv->BeginStep({KvUse{*a, 0, kLayers}}).ok());
    for (int layer = 0; layer < kLayers; ++layer) {
      ASSERT_TRUE(kv->AcquireLayer(*a, layer).ok());
      kv->ReleaseLayer(*a, layer);
    }
    kv->EndStep();
    if (round % 2 == 0) kv->RemoveSequence(*a);
    if (round % 3 == 0) {
      EXPECT_TRUE(kv->CheckInvariants().ok());
    }
  }
}

TEST(HostBlockCopierTest, CopiesAndPlaysALinkOfTheGivenSpeed) {
  std::vector<char> source(1 << 20, 7), destination(1 << 20, 0);
  HostBlockCopier copier(100e6);  // 1 MiB takes 10.5 ms
  std::promise<CopyResult> done;
  copier.SetDone([&](const CopyResult& r) { done.set_value(r); });
  const auto begin = SteadyClock().Now();
  CopyRequest request;
  request.id = 5;
  request.piece_bytes = 1 << 19;
  request.pieces = {{source.data(), destination.data()},
                    {source.data() + (1 << 19), destination.data() + (1 << 19)}};
  copier.Enqueue(std::move(request));
  const CopyResult result = done.get_future().get();
  EXPECT_GE(SteadyClock().Now() - begin, absl::Milliseconds(10));
  EXPECT_EQ(result.id, 5u);
  EXPECT_EQ(result.bytes, 1 << 20);
  EXPECT_NEAR(result.busy_seconds, 0.0105, 0.001);
  EXPECT_EQ(source, destination);
  EXPECT_FALSE(copier.Cancel(5));
}

}  // namespace
}  // namespace slim
