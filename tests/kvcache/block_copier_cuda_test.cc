// The CUDA copier's host logic over a fake device: order, events both ways, cancelling, failures.
// The fake's copies end when the test says so.

#include "kvcache/block_copier_cuda.h"

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "engine/base/mutex.h"
#include "gmock/gmock.h"

namespace slim {
namespace {

using ::testing::ElementsAre;

class FakeDevice {
 public:
  struct Copy {
    uint64_t id = 0;
    int64_t after_work = 0;  // compute work that it was told to wait for
    bool ended = false;
  };

  // ---- what the link calls ----
  absl::StatusOr<CopyLink::Mark> Mark() {
    MutexLock lock(&mutex_);
    if (fail_marks_) return absl::InternalError("cudaEventRecord: cudaErrorLaunchFailure");
    return NewMark(work_);
  }
  absl::StatusOr<CopyLink::Mark> Start(const CopyRequest& request, CopyLink::Mark after) {
    MutexLock lock(&mutex_);
    const int64_t work = TakeMark(after);
    if (fail_copies_.count(request.id) > 0) return absl::InternalError("cudaMemcpyAsync: fails");
    copies_.push_back({request.id, work, false});
    requests_[request.id] = request;
    mutex_.NotifyAll();
    return NewMark(static_cast<int64_t>(copies_.size()) - 1);
  }
  absl::StatusOr<double> Wait(CopyLink::Mark end) {
    MutexLock lock(&mutex_);
    const auto index = static_cast<size_t>(TakeMark(end));
    while (!copies_[index].ended && !end_all_) mutex_.Wait();
    const CopyRequest& request = requests_[copies_[index].id];
    for (const CopyPiece& piece : request.pieces) {
      std::memcpy(piece.destination, piece.source, static_cast<size_t>(request.piece_bytes));
    }
    if (fail_waits_.count(request.id) > 0) return absl::InternalError("cudaEventSynchronize");
    return 0.5;
  }
  void Drop(CopyLink::Mark mark) {
    MutexLock lock(&mutex_);
    TakeMark(mark);
  }

  // ---- what the test does ----
  void LaunchWork() {
    MutexLock lock(&mutex_);
    ++work_;
  }
  void FailMarks() {
    MutexLock lock(&mutex_);
    fail_marks_ = true;
  }
  void FailCopy(uint64_t id) {
    MutexLock lock(&mutex_);
    fail_copies_.insert(id);
  }
  void FailWait(uint64_t id) {
    MutexLock lock(&mutex_);
    fail_waits_.insert(id);
  }
  void End(uint64_t id) {
    MutexLock lock(&mutex_);
    for (Copy& copy : copies_) copy.ended = copy.ended || copy.id == id;
    mutex_.NotifyAll();
  }
  void EndAll() {
    MutexLock lock(&mutex_);
    end_all_ = true;
    mutex_.NotifyAll();
  }
  // Waits until so many copies were started.
  std::vector<Copy> WaitForStarts(size_t count) {
    MutexLock lock(&mutex_);
    while (copies_.size() < count) mutex_.Wait();
    return copies_;
  }
  size_t open_marks() {
    MutexLock lock(&mutex_);
    return marks_.size();
  }

 private:
  CopyLink::Mark NewMark(int64_t value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto mark = reinterpret_cast<CopyLink::Mark>(++next_mark_);
    marks_[mark] = value;
    return mark;
  }
  int64_t TakeMark(CopyLink::Mark mark) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = marks_.find(mark);
    EXPECT_NE(found, marks_.end()) << "a mark was given back twice";
    const int64_t value = found->second;
    marks_.erase(found);
    return value;
  }

  Mutex mutex_;
  uintptr_t next_mark_ = 0;
  std::map<CopyLink::Mark, int64_t> marks_;
  std::map<uint64_t, CopyRequest> requests_;
  std::vector<Copy> copies_;
  std::set<uint64_t> fail_copies_, fail_waits_;
  int64_t work_ = 0;
  bool fail_marks_ = false;
  bool end_all_ = false;
};

class FakeLink final : public CopyLink {
 public:
  explicit FakeLink(FakeDevice* device) : device_(device) {}
  absl::StatusOr<Mark> MarkCompute() override { return device_->Mark(); }
  absl::StatusOr<Mark> StartCopy(const CopyRequest& request, Mark after) override {
    return device_->Start(request, after);
  }
  absl::StatusOr<double> WaitForCopy(Mark end) override { return device_->Wait(end); }
  void Drop(Mark mark) override { device_->Drop(mark); }

 private:
  FakeDevice* const device_;
};

class CudaBlockCopierTest : public ::testing::Test {
 protected:
  CudaBlockCopierTest()
      : copier_(std::make_unique<CudaBlockCopier>(std::make_unique<FakeLink>(&device_))) {
    copier_->SetDone([this](const CopyResult& result) {
      MutexLock lock(&mutex_);
      results_.push_back(result);
      mutex_.NotifyAll();
    });
  }
  ~CudaBlockCopierTest() override {
    device_.EndAll();
    copier_.reset();
    EXPECT_EQ(device_.open_marks(), 0u);
  }

  void Enqueue(uint64_t id, CopyDirection direction = CopyDirection::kToDevice) {
    CopyRequest request;
    request.id = id;
    request.direction = direction;
    request.piece_bytes = sizeof(source_);
    request.pieces = {{&source_, &destination_}};
    copier_->Enqueue(std::move(request));
  }
  std::vector<CopyResult> WaitForResults(size_t count) {
    MutexLock lock(&mutex_);
    while (results_.size() < count) mutex_.Wait();
    return results_;
  }
  size_t num_results() {
    MutexLock lock(&mutex_);
    return results_.size();
  }

  FakeDevice device_;
  uint64_t source_ = 42, destination_ = 0;
  Mutex mutex_;
  std::vector<CopyResult> results_;
  std::unique_ptr<CudaBlockCopier> copier_;  // last: its threads use the rest
};

TEST_F(CudaBlockCopierTest, ReportsArrivalWithBytesAndTimeOnlyAfterTheEnd) {
  Enqueue(1);
  device_.WaitForStarts(1);
  EXPECT_EQ(num_results(), 0u);
  device_.End(1);
  const CopyResult result = WaitForResults(1)[0];
  EXPECT_EQ(result.id, 1u);
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.bytes, static_cast<int64_t>(sizeof(source_)));
  EXPECT_EQ(result.busy_seconds, 0.5);
  EXPECT_EQ(destination_, 42u);
}

// What the compute stream was given before the copy was asked for is waited for, nothing later.
TEST_F(CudaBlockCopierTest, WaitsForTheWorkGivenBeforeItWasEnqueued) {
  device_.LaunchWork();
  Enqueue(1, CopyDirection::kToHost);
  device_.WaitForStarts(1);
  device_.LaunchWork();
  device_.LaunchWork();
  Enqueue(2, CopyDirection::kToDevice);
  const auto copies = device_.WaitForStarts(2);
  EXPECT_EQ(copies[0].after_work, 1);
  EXPECT_EQ(copies[1].after_work, 3);
}

TEST_F(CudaBlockCopierTest, DirectionsDoNotWaitForEachOther) {
  Enqueue(1, CopyDirection::kToHost);
  Enqueue(2, CopyDirection::kToDevice);
  device_.WaitForStarts(2);
  device_.End(2);
  EXPECT_EQ(WaitForResults(1)[0].id, 2u);
  device_.End(1);
  EXPECT_EQ(WaitForResults(2)[1].id, 1u);
}

// Four are on the stream at most; the ones behind them can be cancelled, those on it cannot.
TEST_F(CudaBlockCopierTest, CancelsWhatHasNotBegun) {
  for (uint64_t id = 1; id <= 8; ++id) Enqueue(id);
  device_.WaitForStarts(1);
  EXPECT_TRUE(copier_->Cancel(8));
  EXPECT_FALSE(copier_->Cancel(1));
  EXPECT_FALSE(copier_->Cancel(99));
  device_.EndAll();
  const std::vector<CopyResult> results = WaitForResults(7);
  std::vector<uint64_t> ids;
  for (const CopyResult& result : results) ids.push_back(result.id);
  EXPECT_THAT(ids, ElementsAre(1, 2, 3, 4, 5, 6, 7));
}

TEST_F(CudaBlockCopierTest, AFailedStartEndsThatRequestOnly) {
  device_.FailCopy(1);
  Enqueue(1);
  EXPECT_EQ(WaitForResults(1)[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(WaitForResults(1)[0].bytes, 0);
  Enqueue(2);
  device_.EndAll();
  EXPECT_TRUE(WaitForResults(2)[1].status.ok());
}

TEST_F(CudaBlockCopierTest, AFailureDuringTheCopyIsReported) {
  device_.FailWait(1);
  Enqueue(1);
  device_.EndAll();
  const CopyResult result = WaitForResults(1)[0];
  EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(result.bytes, 0);
}

TEST_F(CudaBlockCopierTest, ABrokenDeviceIsReportedFromInsideEnqueue) {
  device_.FailMarks();
  Enqueue(1);
  ASSERT_EQ(num_results(), 1u);
  EXPECT_EQ(WaitForResults(1)[0].status.code(), absl::StatusCode::kInternal);
}

// The owner frees the memory next, so nothing may still be copying, and no one is told.
TEST_F(CudaBlockCopierTest, DestructionWaitsForStartedCopiesAndDropsTheRest) {
  for (uint64_t id = 1; id <= 8; ++id) Enqueue(id);
  device_.WaitForStarts(1);
  device_.EndAll();
  copier_.reset();
  const size_t results = num_results();
  EXPECT_LE(results, 8u);
  EXPECT_EQ(device_.open_marks(), 0u);
  EXPECT_EQ(num_results(), results);
}

}  // namespace
}  // namespace slim
