// Copies that fail, never end, end late or twice, and sequences that are cancelled meanwhile.
#include <vector>

#include "tests/kvcache/discrete_fixture.h"

namespace slim {
namespace {

using ::absl::StatusCode;

class KvTransferFaultTest : public DiscreteFixture {
 protected:
  // Two sequences, both saved; `a` is on the host only, `b` fills the arena.
  void MakePair(bool verify = false) {
    MakeLayers(2, 32, 4, /*prefetch=*/true, verify);
    a_ = Written(2, 1);
    b_ = Written(2, 2);
    ASSERT_TRUE(ReadAll(a_, 1).ok());
    ASSERT_TRUE(ReadAll(b_, 2).ok());
    CompleteAll();
  }
  void ExpectWhole() {
    kv_->RemoveSequence(a_);
    kv_->RemoveSequence(b_);
    CompleteAll();
    Check();
    EXPECT_EQ(kv_->unreserved_slabs(), 32);
    EXPECT_EQ(kv_->stats().device.free_slabs, 4);
  }
  KvSequenceId a_{}, b_{};
};

TEST_F(KvTransferFaultTest, AFailedFetchEndsItsSequenceOnly) {
  for (const CopyFault fault : {CopyFault::kFail, CopyFault::kShorten}) {
    MakePair();
    on_idle = [&] { copier_->Complete(0, fault); };
    const absl::Status status = ReadLayer(a_, 0, 1);
    EXPECT_EQ(status.code(), StatusCode::kAborted) << status;
    on_idle = nullptr;
    EXPECT_EQ(ReadLayer(a_, 1, 1).code(), StatusCode::kAborted);
    EXPECT_TRUE(ReadAll(b_, 2).ok());
    Check();
    ExpectWhole();
  }
}

TEST_F(KvTransferFaultTest, ACorruptedCopyIsDataLossWhenVerified) {
  MakePair(/*verify=*/true);
  on_idle = [&] { copier_->Complete(0, CopyFault::kCorrupt); };
  EXPECT_EQ(ReadLayer(a_, 0, 1).code(), StatusCode::kDataLoss);
  on_idle = nullptr;
  EXPECT_TRUE(ReadAll(b_, 2).ok());
  ExpectWhole();
}

TEST_F(KvTransferFaultTest, AFailedWriteBackIsNeverServedAsData) {
  MakeLayers(1, 8, 2);
  a_ = Written(2, 1);
  b_ = *kv_->AddSequence({{0, 1, 2}});
  ASSERT_TRUE(kv_->AppendBlocks(b_, 0, {0, 1}).ok());
  on_idle = [&] { copier_->Complete(0, CopyFault::kFail); };
  ASSERT_TRUE(kv_->BeginStep({KvUse{b_, 0, 1}}).ok());
  ASSERT_TRUE(kv_->AcquireLayer(b_, 0).ok());
  kv_->ReleaseLayer(b_, 0);
  kv_->EndStep();
  on_idle = nullptr;
  EXPECT_EQ(ReadLayer(a_, 0, 1).code(), StatusCode::kAborted);
  ASSERT_TRUE(kv_->BeginStep({KvUse{b_, 0, 1}}).ok());
  EXPECT_TRUE(kv_->AcquireLayer(b_, 0).ok());
  kv_->ReleaseLayer(b_, 0);
  kv_->EndStep();
}

TEST_F(KvTransferFaultTest, ALostCachedPageIsNotAdopted) {
  MakeLayers(1, 8, 2);
  a_ = Written(2, 1);
  auto refs = kv_->PublishBlocks(a_, 0, 0, 2);
  ASSERT_TRUE(refs.ok());
  kv_->RemoveSequence(a_);
  b_ = *kv_->AddSequence({{0, 1, 2}});
  ASSERT_TRUE(kv_->AppendBlocks(b_, 0, {0, 1}).ok());
  on_idle = [&] { copier_->Complete(0, CopyFault::kFail); };
  ASSERT_TRUE(kv_->BeginStep({KvUse{b_, 0, 1}}).ok());
  ASSERT_TRUE(kv_->AcquireLayer(b_, 0).ok());
  kv_->ReleaseLayer(b_, 0);
  kv_->EndStep();
  EXPECT_EQ(kv_->AddSequenceWithPrefix({{0, 1, 3}}, *refs).status().code(), StatusCode::kAborted);
}

TEST_F(KvTransferFaultTest, AFetchThatNeverEndsIsClosedAtItsTimeout) {
  MakePair();
  int rounds = 0;
  on_idle = [&] {
    ++rounds;
    clock_.Advance(kTimeout / 10);
    for (size_t i = 0; i < copier_->pending(); ++i) copier_->Complete(i, CopyFault::kForget);
  };
  const absl::Time begin = clock_.Now();
  EXPECT_EQ(ReadLayer(a_, 0, 1).code(), StatusCode::kAborted);
  EXPECT_GE(clock_.Now() - begin, kTimeout);
  EXPECT_LE(clock_.Now() - begin, kTimeout * 1.2);
  on_idle = nullptr;
  ExpectWhole();
}

// The layer is stalled, the sequence is cancelled, and then the copy ends in some way.
class CancelDuringTransferTest : public KvTransferFaultTest {
 protected:
  void StallFetchOfA() {
    ASSERT_TRUE(kv_->BeginStep({KvUse{a_, 0, 2, 1 << 30}}).ok());
    Pump();
    ASSERT_GT(copier_->pending(), 0u);
    kv_->EndStep();
    kv_->RemoveSequence(a_);
    Check();
    const KvStats stats = kv_->stats();
    EXPECT_GT(stats.host.held_by_transfer_slabs, 0);
    EXPECT_GT(stats.device.held_by_transfer_slabs, 0);
    EXPECT_EQ(kv_->unreserved_slabs(), 32 - 4 - stats.host.held_by_transfer_slabs);
  }
};

TEST_F(CancelDuringTransferTest, ACopyThatEndsAfterTheCancelFreesItsSlabsOnce) {
  for (int i = 0; i < 1000; ++i) {
    MakePair();
    StallFetchOfA();
    while (copier_->pending() > 0) copier_->Complete(0);
    Check();
    EXPECT_EQ(kv_->stats().host.held_by_transfer_slabs, 0);
    EXPECT_EQ(kv_->stats().late_completions, 0);
    EXPECT_TRUE(ReadAll(b_, 2).ok());
    ExpectWhole();
    if (HasFailure()) return;
  }
}

TEST_F(CancelDuringTransferTest, ACopyThatFailsAfterTheCancelFreesItsSlabsToo) {
  for (int i = 0; i < 1000; ++i) {
    MakePair();
    StallFetchOfA();
    while (copier_->pending() > 0) copier_->Complete(0, CopyFault::kFail);
    Check();
    EXPECT_TRUE(ReadAll(b_, 2).ok());
    ExpectWhole();
    if (HasFailure()) return;
  }
}

TEST_F(CancelDuringTransferTest, ASecondCompletionIsCountedAndDropped) {
  for (int i = 0; i < 1000; ++i) {
    MakePair();
    StallFetchOfA();
    const int64_t copies = static_cast<int64_t>(copier_->pending());
    while (copier_->pending() > 0) copier_->Complete(0, CopyFault::kDuplicate);
    Check();
    EXPECT_EQ(kv_->stats().late_completions, copies);
    EXPECT_TRUE(ReadAll(b_, 2).ok());
    ExpectWhole();
    if (HasFailure()) return;
  }
}

TEST_F(CancelDuringTransferTest, ACopyThatNeverEndsIsReclaimedAtTheTimeout) {
  for (int i = 0; i < 1000; ++i) {
    MakePair();
    copier_->late_after_cancel = true;
    StallFetchOfA();
    const size_t copies = copier_->pending();
    for (size_t k = 0; k < copies; ++k) copier_->Complete(k, CopyFault::kForget);
    clock_.Advance(kTimeout * 0.9);
    Pump();
    EXPECT_GT(kv_->stats().host.held_by_transfer_slabs, 0);  // not before its time
    clock_.Advance(kTimeout * 0.2);
    Pump();
    Check();
    EXPECT_EQ(kv_->stats().host.held_by_transfer_slabs, 0);
    EXPECT_EQ(kv_->stats().device.held_by_transfer_slabs, 0);
    // The completion comes after all: counted, and nothing happens.
    ASSERT_EQ(copier_->late(), copies);
    while (copier_->late() > 0) copier_->DeliverLate(0);
    EXPECT_EQ(kv_->stats().late_completions, static_cast<int64_t>(copies));
    Check();
    EXPECT_TRUE(ReadAll(b_, 2).ok());
    ExpectWhole();
    if (HasFailure()) return;
  }
}

TEST_F(CancelDuringTransferTest, MemoryThatALateCopyMayTouchStaysInQuarantine) {
  for (int i = 0; i < 1000; ++i) {
    MakePair();
    StallFetchOfA();  // Cancel will answer: still under way
    const int64_t held = kv_->stats().device.held_by_transfer_slabs;
    clock_.Advance(kTimeout * 1.1);
    Pump();
    Check();
    EXPECT_EQ(kv_->stats().device.held_by_transfer_slabs, held);
    EXPECT_GT(kv_->stats().host.held_by_transfer_slabs, 0);
    while (copier_->pending() > 0) copier_->Complete(0);  // writes its memory now
    Check();
    EXPECT_EQ(kv_->stats().late_completions, copier_->cancels());
    EXPECT_EQ(kv_->stats().host.held_by_transfer_slabs, 0);
    EXPECT_EQ(kv_->stats().device.held_by_transfer_slabs, 0);
    EXPECT_TRUE(ReadAll(b_, 2).ok());
    ExpectWhole();
    if (HasFailure()) return;
  }
}

TEST_F(CancelDuringTransferTest, ACancelBeforeTheCopyBeginsDropsTheTicket) {
  MakePair();
  ASSERT_TRUE(kv_->BeginStep({KvUse{a_, 0, 2, 1 << 30}}).ok());
  kv_->EndStep();  // never pumped: no copy has begun
  ASSERT_TRUE(kv_->BeginStep({KvUse{a_, 0, 2, 1 << 30}}).ok());
  kv_->RemoveSequence(a_);
  kv_->EndStep();
  EXPECT_GT(kv_->stats().prefetch_dropped, 0);
  Pump();
  EXPECT_EQ(copier_->pending(), 0u);
  Check();
}

TEST_F(CancelDuringTransferTest, CancelOfASequenceLeavesTheOthersCopiesAlone) {
  MakePair();
  const KvSequenceId c = Written(2, 3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(ReadAll(c, 3).ok());
  CompleteAll();
  ASSERT_TRUE(kv_->BeginStep({KvUse{a_, 0, 2, 1 << 30}, KvUse{b_, 0, 2, 1 << 30}}).ok());
  Pump();
  kv_->RemoveSequence(a_);
  for (int layer = 0; layer < 2; ++layer) {
    auto pages = kv_->AcquireLayer(b_, layer);
    ASSERT_TRUE(pages.ok()) << pages.status();
    EXPECT_EQ(*static_cast<int32_t*>(pages->slabs[1]), Mark(2, layer, 1));
    kv_->ReleaseLayer(b_, layer);
  }
  kv_->EndStep();
  Check();
  kv_->RemoveSequence(c);
}

}  // namespace
}  // namespace slim
