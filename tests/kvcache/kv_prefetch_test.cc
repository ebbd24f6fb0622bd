// Decode with a bounded arena over a link of a given speed, in virtual time: what the prefetch is
// worth, with exact numbers and no dependence on the machine.
#include <cstdio>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/discrete_kv_manager.h"
#include "tests/kvcache/virtual_link_copier.h"

namespace slim {
namespace {

constexpr int kLayers = 30;
constexpr int kSequences = 4;
constexpr int kBlocks = 32;
constexpr absl::Duration kLayerTime = absl::Microseconds(500);

struct Outcome {
  double stall_share = 0;    // of decode time
  double on_time_share = 0;  // of slabs asked for
  double seconds_per_step = 0;
  double fetched_share = 0;  // of the KV, per step
};

class DecodeRun {
 public:
  // link_load: time to carry one layer's KV, relative to the time one layer computes.
  // arena_share: arena relative to all KV.
  DecodeRun(double link_load, double arena_share, bool prefetch) {
    KvManager::Options options;
    options.tier = KvTier::kDiscrete;
    options.layout = KvLayout{1, 16, 16, KvType::kF32};
    options.num_layers = kLayers;
    options.prefetch = prefetch;
    options.transfer_timeout = absl::Seconds(10);
    const int64_t layer = kSequences * kBlocks;
    const int64_t slab = options.layout.slab_bytes();
    total_ = layer * kLayers;
    options.host_bytes = total_ * slab;
    options.device_bytes = static_cast<int64_t>(static_cast<double>(total_) * arena_share) * slab;
    const double bandwidth =
        static_cast<double>(layer * slab) / (absl::ToDoubleSeconds(kLayerTime) * link_load);
    auto copier = std::make_unique<VirtualLinkCopier>(&clock_, bandwidth);
    link_ = copier.get();
    auto manager =
        DiscreteKvManager::Create(options, &clock_, KvMemories{nullptr, nullptr, std::move(copier)},
                                  [this] { RunUntil(link_->Next()); });
    kv_ = *std::move(manager);
    slab_bytes_ = slab;
    for (int i = 0; i < kSequences; ++i) {
      sequences_.push_back(*kv_->AddSequence({{0, kLayers, kBlocks}}));
    }
    // Prefill: one block after the other, written by one pass each.
    for (const KvSequenceId id : sequences_) {
      for (int block = 0; block < kBlocks; ++block) {
        EXPECT_TRUE(kv_->AppendBlocks(id, 0, {block}).ok());
        Step({{id, 0, kLayers, block}}, absl::ZeroDuration());
        if (block + 1 < kBlocks) kv_->SealBlocks(id, 0, block + 1);
      }
    }
  }

  Outcome Decode(int steps) {
    std::vector<KvUse> uses;
    for (const KvSequenceId id : sequences_) uses.push_back({id, 0, kLayers, kBlocks - 1});
    for (int i = 0; i < 3; ++i) Step(uses, kLayerTime);  // to the steady state
    const KvStats before = kv_->stats();
    const absl::Time begin = clock_.Now();
    for (int i = 0; i < steps; ++i) {
      Step(uses, kLayerTime);
      EXPECT_TRUE(kv_->CheckInvariants().ok());
    }
    const KvStats after = kv_->stats();
    const double seconds = absl::ToDoubleSeconds(clock_.Now() - begin);
    const double on_time = static_cast<double>(after.prefetch_on_time - before.prefetch_on_time);
    const double late = static_cast<double>(after.prefetch_late - before.prefetch_late);
    Outcome outcome;
    outcome.stall_share = (after.stall_seconds - before.stall_seconds) / seconds;
    outcome.on_time_share = on_time / (on_time + late);
    outcome.seconds_per_step = seconds / steps;
    outcome.fetched_share = static_cast<double>(after.bytes_to_device - before.bytes_to_device) /
                            static_cast<double>(total_ * slab_bytes_ * steps);
    return outcome;
  }

 private:
  void RunUntil(absl::Time end) {
    if (end == absl::InfiniteFuture()) {
      ADD_FAILURE() << "waiting for nothing";
      std::abort();
    }
    kv_->service().Pump();
    for (absl::Time next = link_->Next(); next <= end; next = link_->Next()) {
      if (next > clock_.Now()) clock_.Advance(next - clock_.Now());
      link_->Deliver();
      kv_->service().Pump();
    }
    if (end > clock_.Now()) clock_.Advance(end - clock_.Now());
  }
  void Step(const std::vector<KvUse>& uses, absl::Duration layer_time) {
    ASSERT_TRUE(kv_->BeginStep(uses).ok());
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const KvUse& use : uses) {
        const auto pages = kv_->AcquireLayer(use.sequence, layer);
        ASSERT_TRUE(pages.ok()) << pages.status();
      }
      RunUntil(clock_.Now() + layer_time);
      for (const KvUse& use : uses) kv_->ReleaseLayer(use.sequence, layer);
    }
    kv_->EndStep();
  }

  FakeClock clock_;
  VirtualLinkCopier* link_ = nullptr;
  std::unique_ptr<DiscreteKvManager> kv_;
  std::vector<KvSequenceId> sequences_;
  int64_t total_ = 0;
  int64_t slab_bytes_ = 0;
};

Outcome Measure(double link_load, double arena_share, bool prefetch) {
  const Outcome o = DecodeRun(link_load, arena_share, prefetch).Decode(10);
  std::printf(
      "link load %.2f arena %.2f prefetch %-3s: step %.2f ms, stall %.1f %%, on time "
      "%.1f %%, fetched %.0f %% of the KV per step\n",
      link_load, arena_share, prefetch ? "on" : "off", o.seconds_per_step * 1e3,
      o.stall_share * 100, o.on_time_share * 100, o.fetched_share * 100);
  return o;
}

TEST(KvPrefetchTest, AQuarterArenaKeepsUpWithALinkAsFastAsTheLayers) {
  const Outcome o = Measure(0.9, 0.25, true);
  EXPECT_GE(o.on_time_share, 0.95);
  EXPECT_LE(o.stall_share, 0.02);
}

TEST(KvPrefetchTest, WhatStaysResidentMakesUpForASlowerLink) {
  // The link cannot carry all of the KV in the time of a step, but the arena keeps a part.
  const Outcome o = Measure(1.1, 0.25, true);
  EXPECT_LT(o.fetched_share, 0.95);
  EXPECT_LE(o.stall_share, 0.05);
}

TEST(KvPrefetchTest, WithoutPrefetchEveryLayerWaits) {
  for (const double load : {0.5, 0.9}) {
    const Outcome with = Measure(load, 0.25, true);
    const Outcome without = Measure(load, 0.25, false);
    EXPECT_GT(without.seconds_per_step, with.seconds_per_step * (1 + 0.5 * load));
    EXPECT_LT(without.on_time_share, 0.5);
  }
}

TEST(KvPrefetchTest, AnArenaThatHoldsAllFetchesNothing) {
  const Outcome o = Measure(5, 1, true);
  EXPECT_EQ(o.fetched_share, 0);
  EXPECT_EQ(o.on_time_share, 1);
  EXPECT_EQ(o.stall_share, 0);
}

TEST(KvPrefetchTest, ALinkThatIsTooSlowLosesNoMoreThanItMust) {
  const Outcome o = Measure(3, 0.25, true);
  // Bound: the part that cannot stay resident has to go over the link.
  EXPECT_LT(o.seconds_per_step, 3 * 0.9 * kLayers * absl::ToDoubleSeconds(kLayerTime));
}

TEST(KvPrefetchTest, LargerArenasFetchLess) {
  const double quarter = Measure(0.9, 0.25, true).fetched_share;
  const double half = Measure(0.9, 0.5, true).fetched_share;
  const double most = Measure(0.9, 0.9, true).fetched_share;
  EXPECT_LT(half, quarter);
  EXPECT_LT(most, half);
}

}  // namespace
}  // namespace slim
