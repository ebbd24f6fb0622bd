// What goes wrong on the device, on a runtime that works in host memory: what cannot be had at the
// start, what is short and may fit later, and what breaks the device for good.

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/types/optional.h"
#include "engine/backend/cuda/cuda_backend.h"
#include "engine/backend/cuda/cuda_context.h"
#include "engine/backend/cuda/cuda_kv_memory.h"
#include "engine/base/mutex.h"
#include "gmock/gmock.h"
#include "tests/testing/cuda_on_host/queue.h"

namespace slim::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kLaunchesOfAStep = 20;  // enough for a graph

std::string Text(const absl::Status& status) { return status.ToString(); }

cudaError_t AddOne(uint32_t* number, cudaStream_t stream) {
  return cuda_on_host::Enqueue(stream, [=] { ++*number; });
}

class CudaFailureTest : public testing::Test {
 protected:
  CudaFailureTest() { cuda_on_host::Repair(); }
  ~CudaFailureTest() override { cuda_on_host::Repair(); }

  void MakeContext() {
    auto context = CudaContext::Create();
    ASSERT_TRUE(context.ok()) << context.status();
    context_ = *std::move(context);
    auto buffer = context_->Allocate(sizeof(uint32_t));
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    number_ = *std::move(buffer);
  }

  absl::Status Launch(int64_t rows) {
    const absl::Status begun = context_->BeginOp(rows);
    if (!begun.ok()) return begun;
    return context_->Submit<Op::kConvert, &AddOne>(static_cast<uint32_t*>(number_.data()));
  }

  // Every kind of call gives the first failure from now on, also when the device works again.
  void ExpectBroken(const std::string& what) {
    cuda_on_host::Repair();
    EXPECT_THAT(Text(context_->health()), AllOf(HasSubstr("INTERNAL"), HasSubstr(what)));
    EXPECT_EQ(Text(context_->BeginOp(1)), Text(context_->health()));
    EXPECT_EQ(Text(context_->BeginOp(4096)), Text(context_->health()));
    EXPECT_EQ(Text(context_->Allocate(64).status()), Text(context_->health()));
  }

  std::shared_ptr<CudaContext> context_;
  Buffer number_;
};

TEST_F(CudaFailureTest, SaysWhatIsMissingAtTheStart) {
  cuda_on_host::FailCalls("cudaGetDeviceCount", cudaErrorNoDevice);
  absl::Status status = CudaBackend::Create().status();
  EXPECT_THAT(Text(status), AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("cudaErrorNoDevice")));
  cuda_on_host::SetComputeCapability(75);
  status = CudaBackend::Create().status();
  EXPECT_THAT(Text(status), AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("7.5")));
  cuda_on_host::SetComputeCapability(80);
  EXPECT_TRUE(CudaBackend::Create().ok());
}

TEST_F(CudaFailureTest, ALaunchThatFailsBreaksTheDevice) {
  MakeContext();
  cuda_on_host::BreakDevice("launch", cudaErrorIllegalAddress, /*skip=*/1);
  EXPECT_TRUE(Launch(4096).ok());
  EXPECT_THAT(Text(Launch(4096)), HasSubstr("convert: cudaErrorIllegalAddress"));
  ExpectBroken("convert: cudaErrorIllegalAddress");
}

TEST_F(CudaFailureTest, AKernelsFaultIsFoundByWhoWaits) {
  MakeContext();
  ASSERT_TRUE(Launch(4096).ok());
  cuda_on_host::BreakDevice("cudaStreamSynchronize", cudaErrorIllegalAddress);
  EXPECT_THAT(Text(context_->Synchronize()), HasSubstr("cudaErrorIllegalAddress"));
  ExpectBroken("cudaStreamSynchronize");
}

TEST_F(CudaFailureTest, LaunchesThatWerePutOffFailWhenTheyAreDue) {
  MakeContext();
  ASSERT_TRUE(Launch(1).ok());
  cuda_on_host::BreakDevice("launch", cudaErrorIllegalAddress);
  ASSERT_TRUE(Launch(1).ok());
  EXPECT_THAT(Text(context_->Flush()), HasSubstr("cudaErrorIllegalAddress"));
  ExpectBroken("cudaErrorIllegalAddress");
}

TEST_F(CudaFailureTest, AGraphThatFailsBreaksTheDevice) {
  MakeContext();
  for (int step = 0; step < 2; ++step) {
    for (int i = 0; i < kLaunchesOfAStep; ++i) ASSERT_TRUE(Launch(1).ok());
    ASSERT_TRUE(context_->Synchronize().ok());
  }
  cuda_on_host::BreakDevice("cudaGraphLaunch", cudaErrorIllegalAddress);
  for (int i = 0; i < kLaunchesOfAStep; ++i) ASSERT_TRUE(Launch(1).ok());
  EXPECT_THAT(Text(context_->Synchronize()), HasSubstr("cudaGraphLaunch"));
  ExpectBroken("cudaGraphLaunch");
}

TEST_F(CudaFailureTest, StepsThatCannotBeCapturedRunPlainly) {
  MakeContext();
  const int before = cuda_on_host::GraphLaunches();
  cuda_on_host::FailCalls("cudaGraphInstantiate", cudaErrorNotSupported, 0, 100);
  for (int step = 0; step < 6; ++step) {
    for (int i = 0; i < kLaunchesOfAStep; ++i) ASSERT_TRUE(Launch(1).ok());
    ASSERT_TRUE(context_->Synchronize().ok());
  }
  EXPECT_EQ(*static_cast<uint32_t*>(number_.data()), 6u * kLaunchesOfAStep);
  EXPECT_EQ(cuda_on_host::GraphLaunches(), before);
  EXPECT_TRUE(context_->health().ok());
}

TEST_F(CudaFailureTest, WhatIsShortMayFitLater) {
  MakeContext();
  cuda_on_host::FailCalls("cudaMallocAsync", cudaErrorMemoryAllocation);
  const absl::Status status = context_->Allocate(12345).status();
  EXPECT_THAT(Text(status), AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("12345")));
  EXPECT_TRUE(context_->health().ok());
  EXPECT_TRUE(context_->Allocate(12345).ok());
}

// Where there is no memory for the arena, steps run at once and nothing is lost.
TEST_F(CudaFailureTest, WithoutRoomForWhatIsPutOffStepsRunAtOnce) {
  MakeContext();
  cuda_on_host::FailCalls("cudaMalloc", cudaErrorMemoryAllocation);
  EXPECT_TRUE(Launch(1).ok());
  EXPECT_FALSE(context_->deferring());
  EXPECT_TRUE(Launch(1).ok());
  EXPECT_TRUE(context_->Synchronize().ok());
  EXPECT_EQ(*static_cast<uint32_t*>(number_.data()), 2u);
}

// ---------------------------------------------------------------- pools and copies

constexpr KvMemorySizes kSizes{/*stride_bytes=*/4096, /*device_slabs=*/4, /*host_slabs=*/8};

TEST_F(CudaFailureTest, PoolsThatDoNotFitNameTheirOption) {
  MakeContext();
  cuda_on_host::FailCalls("cudaMalloc", cudaErrorMemoryAllocation, 0, 2);
  EXPECT_THAT(
      Text(CreateCudaKvMemories(context_, kSizes).status()),
      AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("--kv_device_bytes"), HasSubstr("16384")));

  cuda_on_host::FailCalls("cudaHostRegister", cudaErrorMemoryAllocation);
  EXPECT_THAT(Text(CreateCudaKvMemories(context_, kSizes).status()),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("--kv_host_bytes"),
                    HasSubstr("cudaHostRegister")));

  KvMemorySizes huge = kSizes;
  huge.host_slabs = int64_t{1} << 40;
  EXPECT_THAT(Text(CreateCudaKvMemories(context_, huge).status()),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("--kv_host_bytes")));

  EXPECT_TRUE(context_->health().ok());
  EXPECT_TRUE(CreateCudaKvMemories(context_, kSizes).ok());
}

// Memory that was freed but is kept for the next use is given back before the pool is refused.
TEST_F(CudaFailureTest, ThePoolIsAskedForAgainWhenKeptMemoryIsGivenBack) {
  MakeContext();
  cuda_on_host::FailCalls("cudaMalloc", cudaErrorMemoryAllocation, 0, 1);
  EXPECT_TRUE(CreateCudaKvMemories(context_, kSizes).ok());
}

// Copies the first slab to the host, one copy at a time.
class Copies {
 public:
  explicit Copies(KvMemories memories) : memories_(std::move(memories)) {
    memories_.copier->SetDone([this](const CopyResult& done) {
      MutexLock lock(&mutex_);
      result_ = done;
      mutex_.NotifyAll();
    });
  }

  CopyResult CopyOne() {
    CopyRequest request;
    request.id = ++last_id_;
    request.direction = CopyDirection::kToHost;
    request.piece_bytes = kSizes.stride_bytes;
    request.pieces.push_back(CopyPiece{memories_.device->base(), memories_.host->base()});
    memories_.copier->Enqueue(std::move(request));
    MutexLock lock(&mutex_);
    while (!result_.has_value()) mutex_.Wait();
    const CopyResult result = *result_;
    result_.reset();
    return result;
  }

 private:
  uint64_t last_id_ = 0;
  Mutex mutex_;
  absl::optional<CopyResult> result_ ABSL_GUARDED_BY(mutex_);
  KvMemories memories_;  // last: its threads call back
};

TEST_F(CudaFailureTest, ACopyThatFailsIsReportedAndBreaksTheDevice) {
  for (const char* call : {"cudaMemcpyAsync", "cudaEventSynchronize", "cudaStreamWaitEvent"}) {
    cuda_on_host::Repair();
    MakeContext();
    auto memories = CreateCudaKvMemories(context_, kSizes);
    ASSERT_TRUE(memories.ok()) << memories.status();
    Copies copies(*std::move(memories));
    EXPECT_TRUE(copies.CopyOne().status.ok());
    cuda_on_host::BreakDevice(call, cudaErrorIllegalAddress);
    const CopyResult result = copies.CopyOne();
    EXPECT_THAT(Text(result.status), AllOf(HasSubstr("INTERNAL"), HasSubstr(call)));
    EXPECT_EQ(result.bytes, 0);
    ExpectBroken(call);
    // And inside Enqueue, since the compute stream cannot be marked any more.
    EXPECT_EQ(Text(copies.CopyOne().status), Text(context_->health()));
  }
}

}  // namespace
}  // namespace slim::cuda
