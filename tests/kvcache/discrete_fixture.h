// A discrete manager whose copies happen only when a test says so.
#ifndef TESTS_KVCACHE_DISCRETE_FIXTURE_H_
#define TESTS_KVCACHE_DISCRETE_FIXTURE_H_

#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "gtest/gtest.h"
#include "kvcache/block_copier_verifying.h"
#include "kvcache/discrete_kv_manager.h"
#include "tests/kvcache/fault_injecting_copier.h"

namespace slim {

class DiscreteFixture : public ::testing::Test {
 protected:
  static constexpr absl::Duration kTimeout = absl::Seconds(1);

  void Make(int num_layers, int64_t host_slabs, int64_t arena_slabs, bool prefetch = true,
            bool verify = false) {
    KvManager::Options options;
    options.tier = KvTier::kDiscrete;
    options.layout = KvLayout{1, 4, 4, KvType::kF32};  // 128 bytes per slab
    options.num_layers = num_layers;
    options.host_bytes = host_slabs * options.layout.slab_bytes();
    options.device_bytes = arena_slabs * options.layout.slab_bytes();
    options.prefetch = prefetch;
    options.transfer_timeout = kTimeout;
    options.poison_freed = true;
    auto copier = std::make_unique<FaultInjectingCopier>();
    copier_ = copier.get();
    std::unique_ptr<BlockCopier> outer = std::move(copier);
    if (verify) outer = std::make_unique<VerifyingCopier>(std::move(outer));
    auto kv = DiscreteKvManager::Create(
        options, &clock_, KvMemories{nullptr, nullptr, std::move(outer)}, [this] { Idle(); });
    ASSERT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
  }
  void TearDown() override {
    if (kv_ != nullptr) Check();
  }
  void Check() {
    const absl::Status status = kv_->CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
    const KvStats s = kv_->stats();
    for (const KvTierStats& t : {s.device, s.host}) {
      EXPECT_EQ(t.free_slabs + t.used_slabs + t.cached_slabs + t.held_by_transfer_slabs,
                t.total_slabs);
    }
  }
  // What happens while a layer is waited for: by default the oldest copy ends well.
  void Idle() {
    if (on_idle) return on_idle();
    clock_.Advance(absl::Milliseconds(1));
    if (copier_->pending() > 0) {
      copier_->Complete(0);
    } else {
      clock_.Advance(kTimeout);
    }
  }
  void Pump() { kv_->service().Pump(); }
  void CompleteAll() {
    for (Pump(); copier_->pending() > 0; Pump()) copier_->Complete(0);
  }
  // A sequence of one segment with `blocks` pages, written with marks and sealed.
  KvSequenceId Written(int blocks, int32_t mark, int64_t max_blocks = 0) {
    const int layers = num_layers();
    auto id = kv_->AddSequence({{0, layers, std::max<int64_t>(blocks, max_blocks)}});
    EXPECT_TRUE(id.ok()) << id.status();
    for (int block = 0; block < blocks; ++block) {
      EXPECT_TRUE(kv_->AppendBlocks(*id, 0, {block}).ok());
      EXPECT_TRUE(kv_->BeginStep({KvUse{*id, 0, layers, block}}).ok());
      for (int layer = 0; layer < layers; ++layer) {
        auto pages = kv_->AcquireLayer(*id, layer);
        EXPECT_TRUE(pages.ok()) << pages.status();
        *static_cast<int32_t*>(pages->slabs.back()) = Mark(mark, layer, block);
        kv_->ReleaseLayer(*id, layer);
      }
      kv_->EndStep();
      kv_->SealBlocks(*id, 0, block + 1);
    }
    return *id;
  }
  static int32_t Mark(int32_t mark, int layer, int block) {
    return mark * 10000 + layer * 100 + block + 1;
  }
  // Acquires one layer in a step of its own and compares the marks.
  absl::Status ReadLayer(KvSequenceId id, int layer, int32_t mark) {
    absl::Status status = kv_->BeginStep({KvUse{id, layer, layer + 1, 1 << 30}});
    if (!status.ok()) return status;
    auto pages = kv_->AcquireLayer(id, layer);
    if (pages.ok()) {
      for (size_t i = 0; i < pages->slabs.size(); ++i) {
        EXPECT_EQ(*static_cast<int32_t*>(pages->slabs[i]), Mark(mark, layer, pages->block_ids[i]));
      }
      kv_->ReleaseLayer(id, layer);
    }
    kv_->EndStep();
    return pages.status();
  }
  absl::Status ReadAll(KvSequenceId id, int32_t mark) {
    for (int layer = 0; layer < num_layers(); ++layer) {
      const absl::Status status = ReadLayer(id, layer, mark);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  int num_layers() const { return num_layers_; }
  void MakeLayers(int num_layers, int64_t host_slabs, int64_t arena_slabs, bool prefetch = true,
                  bool verify = false) {
    num_layers_ = num_layers;
    Make(num_layers, host_slabs, arena_slabs, prefetch, verify);
  }

  FakeClock clock_;
  FaultInjectingCopier* copier_ = nullptr;
  std::unique_ptr<DiscreteKvManager> kv_;
  std::function<void()> on_idle;
  int num_layers_ = 0;
};

}  // namespace slim

#endif  // TESTS_KVCACHE_DISCRETE_FIXTURE_H_
