#include <cstring>
#include <map>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/block_copier.h"
#include "kvcache/kv_manager.h"

namespace slim {
namespace {

using ::absl::StatusCode;

constexpr KvLayout kLayout{1, 4, 4, KvType::kF32};  // 128 bytes per slab

class UnifiedKvManagerTest : public ::testing::Test {
 protected:
  void Make(int num_layers, int64_t slabs, bool keys_apart = false) {
    KvManager::Options options;
    options.layout = kLayout;
    options.num_layers = num_layers;
    options.device_bytes = slabs * kLayout.slab_bytes();
    options.poison_freed = true;
    options.keys_apart = keys_apart;
    auto manager = CreateKvManager(options, &clock_);
    ASSERT_TRUE(manager.ok()) << manager.status();
    kv_ = *std::move(manager);
    ASSERT_EQ(kv_->capacity_slabs(), slabs);
  }
  void TearDown() override {
    if (kv_ == nullptr) return;
    EXPECT_TRUE(kv_->CheckInvariants().ok()) << kv_->CheckInvariants();
  }

  FakeClock clock_;
  std::unique_ptr<KvManager> kv_;
};

TEST_F(UnifiedKvManagerTest, BadOptionsAreRefused) {
  KvManager::Options good;
  good.layout = kLayout;
  good.num_layers = 2;
  good.device_bytes = 1024;
  auto code = [&](auto change) {
    KvManager::Options options = good;
    change(options);
    return CreateKvManager(options, &clock_).status().code();
  };
  EXPECT_EQ(code([](auto&) {}), StatusCode::kOk);
  EXPECT_EQ(code([](auto& o) { o.num_layers = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.device_bytes = 127; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.device_bytes = -1; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.layout.head_dim = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) {
              o.layout = KvLayout{1, 3, 4, KvType::kBF16};
            }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.layout.num_kv_heads = 1 << 30; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& o) { o.keys_apart = true; }), StatusCode::kOk);
  EXPECT_EQ(code([](auto& o) {
              o.keys_apart = true;
              o.tier = KvTier::kDiscrete;
              o.host_bytes = o.device_bytes;
            }),
            StatusCode::kInvalidArgument);
}

TEST_F(UnifiedKvManagerTest, SegmentsMustCoverTheLayersInOrder) {
  Make(4, 100);
  EXPECT_EQ(kv_->AddSequence({}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequence({{0, 3, 1}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequence({{0, 5, 1}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequence({{0, 2, 1}, {3, 1, 1}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequence({{0, 2, 1}, {2, 2, -1}}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequence({{0, 4, int64_t{1} << 62}}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(kv_->AddSequence({{0, 2, 1}, {2, 2, 1}}).ok());
}

TEST_F(UnifiedKvManagerTest, ReservationIsExactAndComesBack) {
  Make(4, 20);
  auto a = kv_->AddSequence({{0, 3, 3}, {3, 1, 2}});  // 11 slabs
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(kv_->unreserved_slabs(), 9);
  auto b = kv_->AddSequence({{0, 4, 3}});  // 12 slabs
  EXPECT_EQ(b.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(b.status().message().find("12"), absl::string_view::npos) << b.status();
  EXPECT_NE(b.status().message().find("9"), absl::string_view::npos) << b.status();
  kv_->RemoveSequence(*a);
  EXPECT_EQ(kv_->unreserved_slabs(), 20);
  EXPECT_TRUE(kv_->AddSequence({{0, 4, 5}}).ok());
}

TEST_F(UnifiedKvManagerTest, WhatIsReservedCanAlwaysBeTaken) {
  Make(2, 12);
  auto a = kv_->AddSequence({{0, 2, 3}});
  auto b = kv_->AddSequence({{0, 1, 5}, {1, 1, 1}});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(kv_->AppendBlocks(*b, 0, {0, 1, 2, 3, 4}).ok());
  EXPECT_TRUE(kv_->AppendBlocks(*a, 0, {0, 7, 9}).ok());
  EXPECT_TRUE(kv_->AppendBlocks(*b, 1, {4}).ok());
  EXPECT_EQ(kv_->AppendBlocks(*b, 1, {5}).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(kv_->stats().device.free_slabs, 0);
  EXPECT_EQ(kv_->stats().device.used_slabs, 12);
}

TEST_F(UnifiedKvManagerTest, AppendedIdsMustAscend) {
  Make(1, 10);
  auto a = kv_->AddSequence({{0, 1, 10}});
  ASSERT_TRUE(a.ok());
  EXPECT_TRUE(kv_->AppendBlocks(*a, 0, {2, 5}).ok());
  EXPECT_EQ(kv_->AppendBlocks(*a, 0, {5}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AppendBlocks(*a, 0, {9, 8}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AppendBlocks(*a, 1, {9}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AppendBlocks(KvSequenceId{99}, 0, {9}).code(), StatusCode::kNotFound);
  EXPECT_EQ(kv_->stats().device.used_slabs, 2);
}

TEST_F(UnifiedKvManagerTest, PagesKeepTheirDataAndNewOnesAreZero) {
  Make(2, 8);
  auto a = kv_->AddSequence({{0, 2, 2}});
  auto b = kv_->AddSequence({{0, 2, 2}});
  ASSERT_TRUE(a.ok() && b.ok());
  for (int round = 0; round < 3; ++round) {
    for (const auto id : {*a, *b}) {
      if (round < 2) {
        ASSERT_TRUE(kv_->AppendBlocks(id, 0, {round}).ok());
      }
    }
    ASSERT_TRUE(kv_->BeginStep({KvUse{*a, 0, 2}, KvUse{*b, 0, 2}}).ok());
    for (int layer = 0; layer < 2; ++layer) {
      for (const KvSequenceId id : {*a, *b}) {
        auto pages = kv_->AcquireLayer(id, layer);
        ASSERT_TRUE(pages.ok()) << pages.status();
        ASSERT_EQ(pages->slabs.size(), std::min<size_t>(2, round + 1));
        for (size_t i = 0; i < pages->slabs.size(); ++i) {
          EXPECT_EQ(pages->block_ids[i], static_cast<int32_t>(i));
          int32_t* data = static_cast<int32_t*>(pages->slabs[i]);
          const int32_t expected = static_cast<int>(i) < round
                                       ? static_cast<int32_t>(id) * 100 + layer * 10 + int(i) + 1
                                       : 0;
          EXPECT_EQ(data[0], expected);
          EXPECT_EQ(data[31], expected);
          data[0] = data[31] = static_cast<int32_t>(id) * 100 + layer * 10 + int(i) + 1;
        }
        kv_->ReleaseLayer(id, layer);
      }
    }
    kv_->EndStep();
  }
}

// A layer's keys and values of blocks that came together are read as one stream.
TEST_F(UnifiedKvManagerTest, BlocksAppendedTogetherAreNeighboursInEveryLayer) {
  Make(3, 24);
  auto id = kv_->AddSequence({{0, 1, 2}, {1, 2, 5}});
  ASSERT_TRUE(id.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*id, 0, {0, 1}).ok());
  ASSERT_TRUE(kv_->AppendBlocks(*id, 1, {0, 3, 4}).ok());
  ASSERT_TRUE(kv_->AppendBlocks(*id, 1, {7, 9}).ok());
  ASSERT_TRUE(kv_->BeginStep({KvUse{*id, 0, 3}}).ok());
  for (int layer = 0; layer < 3; ++layer) {
    auto pages = kv_->AcquireLayer(*id, layer);
    ASSERT_TRUE(pages.ok()) << pages.status();
    ASSERT_EQ(pages->slabs.size(), layer == 0 ? 2u : 5u);
    for (size_t i = 1; i < pages->slabs.size(); ++i) {
      const auto distance =
          static_cast<char*>(pages->slabs[i]) - static_cast<char*>(pages->slabs[i - 1]);
      if (i == 3) continue;  // from one call to the next
      EXPECT_EQ(distance, kLayout.slab_bytes()) << "layer " << layer << " page " << i;
    }
    kv_->ReleaseLayer(*id, layer);
  }
  kv_->EndStep();
}

TEST_F(UnifiedKvManagerTest, KeysApartAreOneStreamAndValuesAnother) {
  constexpr int kLayers = 2, kBlocks = 4;
  Make(kLayers, kLayers * kBlocks, /*keys_apart=*/true);
  const KvLayout& layout = kv_->layout();
  // Twice: pages that were used before are as empty as new ones.
  for (int round = 0; round < 2; ++round) {
    auto id = kv_->AddSequence({{0, kLayers, kBlocks}});
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(kv_->AppendBlocks(*id, 0, {0, 1, 2, 3}).ok());
    ASSERT_TRUE(kv_->BeginStep({KvUse{*id, 0, kLayers}}).ok());
    std::map<float*, int> elements;
    for (int layer = 0; layer < kLayers; ++layer) {
      auto pages = kv_->AcquireLayer(*id, layer);
      ASSERT_TRUE(pages.ok()) << pages.status();
      for (int block = 0; block < kBlocks; ++block) {
        auto* const slab = static_cast<float*>(pages->slabs[block]);
        if (block > 0) {
          EXPECT_EQ(slab - static_cast<float*>(pages->slabs[block - 1]), layout.key_elements());
        }
        for (int slot = 0; slot < layout.block_tokens; ++slot) {
          for (int dim = 0; dim < layout.head_dim; ++dim) {
            const int number = 1 + ((layer * kBlocks + block) * 16 + slot * 4 + dim) * 2;
            elements[slab + layout.key_offset(0, slot, dim)] = number;
            elements[slab + layout.value_offset(0, slot, dim)] = number + 1;
          }
        }
      }
      kv_->ReleaseLayer(*id, layer);
    }
    EXPECT_EQ(elements.size(), kLayers * kBlocks * 2 * 16u);
    for (const auto& [element, number] : elements) {
      EXPECT_EQ(*element, 0.0f) << number;
      *element = static_cast<float>(number);
    }
    for (const auto& [element, number] : elements) EXPECT_EQ(*element, static_cast<float>(number));
    kv_->EndStep();
    kv_->RemoveSequence(*id);
  }
}

TEST_F(UnifiedKvManagerTest, ProtocolErrorsAreStatuses) {
  Make(2, 8);
  auto a = kv_->AddSequence({{0, 2, 2}});
  ASSERT_TRUE(a.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0}).ok());
  EXPECT_EQ(kv_->AcquireLayer(*a, 0).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(kv_->BeginStep({KvUse{*a, 0, 3}}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->BeginStep({KvUse{*a, 0, 1}, KvUse{*a, 1, 2}}).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->BeginStep({KvUse{KvSequenceId{9}, 0, 1}}).code(), StatusCode::kNotFound);
  ASSERT_TRUE(kv_->BeginStep({KvUse{*a, 0, 1}}).ok());
  EXPECT_EQ(kv_->BeginStep({}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(kv_->AcquireLayer(*a, 1).status().code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(kv_->AcquireLayer(*a, 0).ok());
  EXPECT_EQ(kv_->AcquireLayer(*a, 0).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(kv_->AppendBlocks(*a, 0, {1}).code(), StatusCode::kFailedPrecondition);
  kv_->ReleaseLayer(*a, 0);
  kv_->EndStep();
}

TEST_F(UnifiedKvManagerTest, ActiveBlocksSelectSealedPagesAndKeepUnsealedOnes) {
  Make(2, 20);
  auto a = kv_->AddSequence({{0, 2, 6, /*last_layer_full=*/true}});
  ASSERT_TRUE(a.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0, 1, 2, 3}).ok());
  kv_->SealBlocks(*a, 0, 3);
  auto ids = [&](int layer) {
    EXPECT_TRUE(kv_->BeginStep({KvUse{*a, 0, 2}}).ok());
    auto pages = kv_->AcquireLayer(*a, layer);
    EXPECT_TRUE(pages.ok()) << pages.status();
    std::vector<int32_t> result(pages->block_ids.begin(), pages->block_ids.end());
    EXPECT_EQ(pages->slabs.size(), result.size());
    kv_->ReleaseLayer(*a, layer);
    kv_->EndStep();
    return result;
  };
  EXPECT_EQ(kv_->SetActiveBlocks(*a, 0, {1, 4}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->SetActiveBlocks(*a, 0, {2, 1}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ids(0), (std::vector<int32_t>{0, 1, 2, 3}));
  ASSERT_TRUE(kv_->SetActiveBlocks(*a, 0, {1}).ok());
  EXPECT_EQ(ids(0), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(ids(1), (std::vector<int32_t>{0, 1, 2, 3}));
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {4}).ok());
  EXPECT_EQ(ids(0), (std::vector<int32_t>{1, 3, 4}));
  ASSERT_TRUE(kv_->SetActiveBlocks(*a, 0, {}).ok());
  EXPECT_EQ(ids(0), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST_F(UnifiedKvManagerTest, PublishedPagesOutliveTheirSequenceAndAreAdopted) {
  Make(3, 12);
  auto a = kv_->AddSequence({{0, 2, 3}, {2, 1, 3}});  // 9 slabs
  ASSERT_TRUE(a.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0, 1, 2}).ok());
  EXPECT_EQ(kv_->PublishBlocks(*a, 0, 0, 2).status().code(), StatusCode::kFailedPrecondition);
  kv_->SealBlocks(*a, 0, 2);
  EXPECT_EQ(kv_->PublishBlocks(*a, 0, 0, 3).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(kv_->PublishBlocks(*a, 0, 2, 9).status().code(), StatusCode::kFailedPrecondition);
  auto refs = kv_->PublishBlocks(*a, 0, 0, 2);
  ASSERT_TRUE(refs.ok());
  ASSERT_EQ(refs->size(), 2u);
  kv_->RemoveSequence(*a);
  EXPECT_EQ(kv_->stats().device.cached_slabs, 4);
  EXPECT_EQ(kv_->unreserved_slabs(), 8);
  // 12 slabs in the worst case, 4 of them adopted.
  auto b = kv_->AddSequenceWithPrefix({{0, 2, 5}, {2, 1, 2}}, *refs);
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(kv_->unreserved_slabs(), 0);
  EXPECT_EQ(kv_->stats().device.cached_slabs, 0);
  ASSERT_TRUE(kv_->CheckInvariants().ok());
  EXPECT_TRUE(kv_->AppendBlocks(*b, 0, {2, 3, 4}).ok());
  EXPECT_TRUE(kv_->AppendBlocks(*b, 1, {3, 4}).ok());
  EXPECT_EQ(kv_->stats().device.free_slabs, 0);
  refs->clear();
  EXPECT_EQ(kv_->stats().device.used_slabs, 12);
  kv_->RemoveSequence(*b);
  EXPECT_EQ(kv_->stats().device.free_slabs, 12);
  EXPECT_EQ(kv_->unreserved_slabs(), 12);
}

TEST_F(UnifiedKvManagerTest, APrefixOfOtherLayersIsRefused) {
  Make(3, 30);
  auto a = kv_->AddSequence({{0, 2, 3}, {2, 1, 3}});
  ASSERT_TRUE(a.ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0, 1}).ok());
  ASSERT_TRUE(kv_->AppendBlocks(*a, 1, {0, 1}).ok());
  kv_->SealBlocks(*a, 0, 2);
  kv_->SealBlocks(*a, 1, 2);
  auto first = kv_->PublishBlocks(*a, 0, 0, 2);
  auto second = kv_->PublishBlocks(*a, 1, 0, 2);
  ASSERT_TRUE(first.ok() && second.ok());
  const int64_t unreserved = kv_->unreserved_slabs();
  EXPECT_EQ(kv_->AddSequenceWithPrefix({{0, 3, 3}}, *first).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequenceWithPrefix({{0, 2, 3}, {2, 1, 3}}, *second).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(kv_->AddSequenceWithPrefix({{0, 2, 1}, {2, 1, 3}}, *first).status().code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(kv_->unreserved_slabs(), unreserved);
  EXPECT_TRUE(kv_->AddSequenceWithPrefix({{0, 2, 3}, {2, 1, 3}}, *first).ok());
}

TEST_F(UnifiedKvManagerTest, TinyPoolsServeWhatFits) {
  Make(1, 1);
  EXPECT_EQ(kv_->AddSequence({{0, 1, 2}}).status().code(), StatusCode::kResourceExhausted);
  for (int i = 0; i < 100; ++i) {
    auto a = kv_->AddSequence({{0, 1, 1}});
    ASSERT_TRUE(a.ok());
    EXPECT_EQ(kv_->AddSequence({{0, 1, 1}}).status().code(), StatusCode::kResourceExhausted);
    ASSERT_TRUE(kv_->AppendBlocks(*a, 0, {0}).ok());
    ASSERT_TRUE(kv_->CheckInvariants().ok());
    kv_->RemoveSequence(*a);
  }
}

}  // namespace
}  // namespace slim
