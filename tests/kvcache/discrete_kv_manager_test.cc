#include "kvcache/discrete_kv_manager.h"

#include <set>
#include <string>
#include <vector>

#include "tests/kvcache/discrete_fixture.h"

namespace slim {
namespace {

using ::absl::StatusCode;

class DiscreteKvManagerTest : public DiscreteFixture {};

TEST_F(DiscreteKvManagerTest, BadOptionsAreRefused) {
  KvManager::Options good;
  good.tier = KvTier::kDiscrete;
  good.layout = KvLayout{1, 4, 4, KvType::kF32};
  good.num_layers = 2;
  good.device_bytes = good.host_bytes = 1024;
  SteadyClock clock;
  auto code = [&](auto change) {
    KvManager::Options options = good;
    change(options);
    return CreateKvManager(options, &clock).status().code();
  };
  EXPECT_EQ(code([](auto&) {}), StatusCode::kOk);
  EXPECT_EQ(code([](auto& o) { o.host_bytes = 127; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.transfer_timeout = absl::InfiniteDuration(); }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.transfer_timeout = absl::ZeroDuration(); }),
            StatusCode::kInvalidArgument);
}

TEST_F(DiscreteKvManagerTest, ReservationIsAgainstTheHostPool) {
  MakeLayers(2, 10, 4);
  EXPECT_EQ(kv_->capacity_slabs(), 10);
  EXPECT_EQ(kv_->max_layer_slabs_per_step(), 2);
  auto a = kv_->AddSequence({{0, 2, 3}});
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(kv_->unreserved_slabs(), 4);
  EXPECT_EQ(kv_->AddSequence({{0, 2, 3}}).status().code(), StatusCode::kResourceExhausted);
  kv_->RemoveSequence(*a);
  EXPECT_EQ(kv_->unreserved_slabs(), 10);
}

TEST_F(DiscreteKvManagerTest, DataSurvivesAnArenaSmallerThanTheKv) {
  MakeLayers(4, 64, 8);
  const KvSequenceId a = Written(4, 1);  // 16 slabs through an arena of 8
  const KvSequenceId b = Written(4, 2);
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(ReadAll(a, 1).ok());
    EXPECT_TRUE(ReadAll(b, 2).ok());
    Check();
  }
  EXPECT_GT(kv_->stats().bytes_to_device, 0);
}

TEST_F(DiscreteKvManagerTest, SealedAndSavedSlabsLeaveAtNoCost) {
  MakeLayers(2, 32, 8);
  const KvSequenceId a = Written(4, 1);
  const KvSequenceId b = Written(4, 2);
  CompleteAll();
  EXPECT_TRUE(ReadAll(a, 1).ok());
  CompleteAll();
  const int64_t saved = kv_->stats().bytes_to_host;
  for (int round = 0; round < 4; ++round) {
    EXPECT_TRUE(ReadAll(a, 1).ok());
    EXPECT_TRUE(ReadAll(b, 2).ok());
  }
  EXPECT_EQ(kv_->stats().bytes_to_host, saved);
}

TEST_F(DiscreteKvManagerTest, NothingIsEvictedBeforeItIsSaved) {
  MakeLayers(1, 8, 2);
  const KvSequenceId a = Written(2, 1);  // fills the arena, unsaved
  EXPECT_EQ(copier_->pending(), 0u);
  auto b = kv_->AddSequence({{0, 1, 2}});
  ASSERT_TRUE(kv_->AppendBlocks(*b, 0, {0}).ok());
  ASSERT_TRUE(kv_->BeginStep({KvUse{*b, 0, 1}}).ok());
  int copies = 0;
  on_idle = [&] {
    ASSERT_EQ(copier_->pending(), 1u);  // the write-back that makes room
    EXPECT_EQ(copier_->at(0).request.direction, CopyDirection::kToHost);
    copier_->Complete(0);
    ++copies;
  };
  ASSERT_TRUE(kv_->AcquireLayer(*b, 0).ok());
  EXPECT_EQ(copies, 1);
  kv_->ReleaseLayer(*b, 0);
  kv_->EndStep();
  on_idle = nullptr;
  EXPECT_TRUE(ReadAll(a, 1).ok());
}

TEST_F(DiscreteKvManagerTest, PrefetchRunsAheadInLayerOrderAndIsOnTime) {
  MakeLayers(4, 64, 8);
  const KvSequenceId a = Written(2, 1);
  const KvSequenceId b = Written(4, 2);  // pushes the pages of `a` out
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(ReadAll(b, 2).ok());
  CompleteAll();
  const KvStats before = kv_->stats();
  ASSERT_TRUE(kv_->BeginStep({KvUse{a, 0, 4, 1 << 30}}).ok());
  CompleteAll();  // nobody has asked for a layer yet
  for (int layer = 0; layer < 4; ++layer) {
    on_idle = [] { FAIL() << "had to wait"; };
    auto pages = kv_->AcquireLayer(a, layer);
    ASSERT_TRUE(pages.ok());
    kv_->ReleaseLayer(a, layer);
    on_idle = nullptr;
    CompleteAll();
  }
  kv_->EndStep();
  EXPECT_EQ(kv_->stats().prefetch_late, before.prefetch_late);
  EXPECT_EQ(kv_->stats().prefetch_on_time, before.prefetch_on_time + 8);
}

TEST_F(DiscreteKvManagerTest, WithoutPrefetchSlabsComeOnDemandOnly) {
  MakeLayers(4, 64, 4, /*prefetch=*/false);
  const KvSequenceId a = Written(2, 1);
  CompleteAll();
  ASSERT_TRUE(kv_->BeginStep({KvUse{a, 0, 4, 1 << 30}}).ok());
  Pump();
  for (size_t i = 0; i < copier_->pending(); ++i) {
    EXPECT_EQ(copier_->at(i).request.direction, CopyDirection::kToHost);
  }
  kv_->EndStep();
  const KvStats before = kv_->stats();
  EXPECT_TRUE(ReadAll(a, 1).ok());
  EXPECT_GT(kv_->stats().prefetch_late, before.prefetch_late);
  EXPECT_GT(kv_->stats().stall_seconds, before.stall_seconds);
}

TEST_F(DiscreteKvManagerTest, InactiveBlocksAreNotFetched) {
  MakeLayers(2, 64, 4);
  const KvSequenceId a = Written(4, 1);
  const KvSequenceId b = Written(2, 2);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ReadAll(b, 2).ok());
  CompleteAll();
  ASSERT_TRUE(kv_->SetActiveBlocks(a, 0, {1, 3}).ok());
  ASSERT_TRUE(kv_->BeginStep({KvUse{a, 0, 2, 1 << 30}}).ok());
  for (int layer = 0; layer < 2; ++layer) {
    auto pages = kv_->AcquireLayer(a, layer);
    ASSERT_TRUE(pages.ok());
    ASSERT_EQ(pages->block_ids.size(), 2u);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(*static_cast<int32_t*>(pages->slabs[i]), Mark(1, layer, 2 * i + 1));
    }
    kv_->ReleaseLayer(a, layer);
  }
  kv_->EndStep();
  ASSERT_TRUE(kv_->SetActiveBlocks(a, 0, {}).ok());
  EXPECT_TRUE(ReadAll(a, 1).ok());
}

TEST_F(DiscreteKvManagerTest, ASelectionInsideAStepIsPrefetchedForTheLayersToCome) {
  MakeLayers(4, 64, 8);
  auto a = kv_->AddSequence({{0, 1, 4}, {1, 3, 4}});
  ASSERT_TRUE(a.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0, 1, 2, 3}).ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 1, {0, 1, 2, 3}).ok());
  ASSERT_TRUE(kv_->BeginStep({KvUse{*a, 0, 4}}).ok());
  for (int layer = 0; layer < 4; ++layer) {
    auto pages = kv_->AcquireLayer(*a, layer);
    ASSERT_TRUE(pages.ok());
    for (int block = 0; block < 4; ++block) {
      *static_cast<int32_t*>(pages->slabs[block]) = Mark(1, layer, block);
    }
    kv_->ReleaseLayer(*a, layer);
  }
  kv_->EndStep();
  kv_->SealBlocks(*a, 0, 4);
  kv_->SealBlocks(*a, 1, 4);
  const std::vector<int32_t> sets[] = {{0, 1}, {2, 3}, {1, 2}};
  for (int round = 0; round < 6; ++round) {
    const std::vector<int32_t>& chosen = sets[round % 3];
    CompleteAll();
    ASSERT_TRUE(kv_->BeginStep({KvUse{*a, 0, 4, 1 << 30}}).ok());
    CompleteAll();
    ASSERT_TRUE(kv_->AcquireLayer(*a, 0).ok());
    EXPECT_EQ(kv_->SetActiveBlocks(*a, 0, chosen).code(), StatusCode::kFailedPrecondition);
    ASSERT_TRUE(kv_->SetActiveBlocks(*a, 1, chosen).ok());
    kv_->ReleaseLayer(*a, 0);
    for (int layer = 1; layer < 4; ++layer) {
      CompleteAll();
      const int64_t late = kv_->stats().prefetch_late;
      auto pages = kv_->AcquireLayer(*a, layer);
      ASSERT_TRUE(pages.ok());
      EXPECT_EQ(kv_->stats().prefetch_late, late) << "round " << round << " layer " << layer;
      ASSERT_EQ(std::vector<int32_t>(pages->block_ids.begin(), pages->block_ids.end()), chosen);
      for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(*static_cast<int32_t*>(pages->slabs[i]), Mark(1, layer, chosen[i]));
      }
      kv_->ReleaseLayer(*a, layer);
      Check();
    }
    kv_->EndStep();
  }
}

TEST_F(DiscreteKvManagerTest, AdoptedPagesAreReadByBothAndFreedOnce) {
  MakeLayers(2, 32, 6);
  const KvSequenceId a = Written(3, 1);
  auto refs = kv_->PublishBlocks(a, 0, 0, 3);
  ASSERT_TRUE(refs.ok());
  auto b = kv_->AddSequenceWithPrefix({{0, 2, 4}}, *refs);
  ASSERT_TRUE(b.ok());
  // 32 - 6 of a - (8 - 6) of b.
  EXPECT_EQ(kv_->unreserved_slabs(), 24);
  EXPECT_TRUE(ReadAll(*b, 1).ok());
  kv_->RemoveSequence(a);
  Check();
  EXPECT_EQ(kv_->unreserved_slabs(), 24);
  EXPECT_TRUE(ReadAll(*b, 1).ok());
  kv_->RemoveSequence(*b);
  CompleteAll();
  EXPECT_EQ(kv_->stats().host.cached_slabs, 6);
  EXPECT_EQ(kv_->unreserved_slabs(), 26);
  refs->clear();
  CompleteAll();
  Check();
  EXPECT_EQ(kv_->unreserved_slabs(), 32);
  EXPECT_EQ(kv_->stats().device.free_slabs, 6);
}

TEST_F(DiscreteKvManagerTest, ALayerLargerThanTheArenaIsRefusedAndNothingHangs) {
  MakeLayers(1, 16, 3);
  auto a = kv_->AddSequence({{0, 1, 4}});
  ASSERT_TRUE(a.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0, 1, 2, 3}).ok());
  ASSERT_TRUE(kv_->BeginStep({KvUse{*a, 0, 1}}).ok());
  EXPECT_EQ(kv_->AcquireLayer(*a, 0).status().code(), StatusCode::kResourceExhausted);
  kv_->EndStep();
}

TEST_F(DiscreteKvManagerTest, TinyPoolsServeWhatFits) {
  for (const int64_t slabs : {1, 2, 3}) {
    MakeLayers(1, slabs, 1);
    EXPECT_EQ(kv_->AddSequence({{0, 1, slabs + 1}}).status().code(),
              StatusCode::kResourceExhausted);
    for (int i = 0; i < 20; ++i) {
      std::vector<KvSequenceId> ids;
      for (int64_t k = 0; k < slabs; ++k) ids.push_back(Written(1, int32_t(i + k)));
      EXPECT_EQ(kv_->AddSequence({{0, 1, 1}}).status().code(), StatusCode::kResourceExhausted);
      for (int64_t k = 0; k < slabs; ++k) EXPECT_TRUE(ReadAll(ids[k], int32_t(i + k)).ok());
      Check();
      for (const KvSequenceId id : ids) kv_->RemoveSequence(id);
      CompleteAll();
      Check();
      ASSERT_EQ(kv_->unreserved_slabs(), slabs);
    }
  }
}

TEST_F(DiscreteKvManagerTest, AHeldLayerIsNotEvictedByItsNeighbours) {
  MakeLayers(2, 64, 4);
  const KvSequenceId a = Written(2, 1);
  const KvSequenceId b = Written(2, 2);
  ASSERT_TRUE(kv_->BeginStep({KvUse{a, 0, 2, 1 << 30}, KvUse{b, 0, 2, 1 << 30}}).ok());
  for (int layer = 0; layer < 2; ++layer) {
    auto pa = kv_->AcquireLayer(a, layer);
    auto pb = kv_->AcquireLayer(b, layer);
    ASSERT_TRUE(pa.ok() && pb.ok());
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(*static_cast<int32_t*>(pa->slabs[i]), Mark(1, layer, i));
      EXPECT_EQ(*static_cast<int32_t*>(pb->slabs[i]), Mark(2, layer, i));
    }
    std::set<void*> distinct(pa->slabs.begin(), pa->slabs.end());
    distinct.insert(pb->slabs.begin(), pb->slabs.end());
    EXPECT_EQ(distinct.size(), 4u);
    kv_->ReleaseLayer(a, layer);
    kv_->ReleaseLayer(b, layer);
    Check();
  }
  kv_->EndStep();
}

TEST_F(DiscreteKvManagerTest, WhatASequenceLeavesBehindIsNotReadByTheNext) {
  MakeLayers(2, 8, 4);
  for (int round = 0; round < 6; ++round) {
    auto id = kv_->AddSequence({{0, 2, 2}});
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(kv_->AppendBlocks(*id, 0, {0, 1}).ok());
    ASSERT_TRUE(kv_->BeginStep({KvUse{*id, 0, 2}}).ok());
    for (int layer = 0; layer < 2; ++layer) {
      auto pages = kv_->AcquireLayer(*id, layer);
      ASSERT_TRUE(pages.ok());
      for (void* slab : pages->slabs) {
        for (int i = 0; i < 32; ++i) ASSERT_EQ(static_cast<int32_t*>(slab)[i], 0);
        std::memset(slab, 0x77, 128);
      }
      kv_->ReleaseLayer(*id, layer);
    }
    kv_->EndStep();
    kv_->RemoveSequence(*id);
    CompleteAll();
  }
}

}  // namespace
}  // namespace slim
