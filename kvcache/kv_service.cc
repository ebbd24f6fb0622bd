#include "kvcache/kv_service.h"

#include <utility>

namespace slim {

KvService::KvService(const KvServiceCore::Options& options, BlockPool* host, BlockPool* device,
                     const Clock* clock, std::unique_ptr<BlockCopier> copier,
                     std::function<void()> idle)
    : clock_(clock),
      idle_(std::move(idle)),
      core_(options, host, device),
      copier_(std::move(copier)) {
  copier_->SetDone([this](const CopyResult& result) { OnDone(result); });
  if (!idle_) thread_ = std::thread([this] { Run(); });
}

KvService::~KvService() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
  copier_.reset();  // no completion after this line
}

void KvService::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &KvService::HasWork),
                              core_.NextDeadline() - clock_->Now());
      if (stop_) return;
      work_ = false;
    }
    Pump();
  }
}

void KvService::Pump() {
  const absl::Time now = clock_->Now();
  std::vector<uint64_t> expired;
  {
    absl::MutexLock lock(&mutex_);
    expired = core_.Expired(now);
  }
  for (const uint64_t id : expired) {
    const bool memory_is_safe = copier_->Cancel(id);
    absl::MutexLock lock(&mutex_);
    core_.OnExpired(id, memory_is_safe, now);
  }
  while (true) {
    CopyRequest request;
    {
      absl::MutexLock lock(&mutex_);
      if (!core_.NextCopy(now, &request)) return;
    }
    copier_->Enqueue(std::move(request));
  }
}

void KvService::OnDone(const CopyResult& result) {
  absl::MutexLock lock(&mutex_);
  core_.OnCopyDone(result);
  work_ = true;
}

void KvService::WaitForDemand() {
  const absl::Time begin = clock_->Now();
  if (!idle_) {
    mutex_.Await(absl::Condition(this, &KvService::AcquireDone));
  } else {
    while (!core_.acquire_done()) {
      mutex_.Unlock();
      Pump();
      mutex_.Lock();
      if (core_.acquire_done()) break;
      mutex_.Unlock();
      idle_();
      mutex_.Lock();
    }
  }
  stall_ += clock_->Now() - begin;
}

absl::Status KvService::Acquire(KvSequenceId sequence, int layer, absl::Span<const KvHold> holds,
                                std::vector<SlabId>* device, std::vector<SlabId>* to_zero) {
  absl::MutexLock lock(&mutex_);
  core_.BeginAcquire(sequence, layer, holds, clock_->Now());
  work_ = true;
  if (!core_.acquire_done()) WaitForDemand();
  return core_.FinishAcquire(device, to_zero);
}

void KvService::Release(absl::Span<const KvHold> holds) {
  absl::MutexLock lock(&mutex_);
  core_.Release(holds);
  work_ = true;
}

void KvService::AddSequence(KvSequenceId sequence) {
  absl::MutexLock lock(&mutex_);
  core_.AddSequence(sequence);
}

void KvService::ForgetSequence(KvSequenceId sequence) {
  absl::MutexLock lock(&mutex_);
  core_.ForgetSequence(sequence);
}

bool KvService::FreeSlab(SlabId slab) {
  absl::MutexLock lock(&mutex_);
  work_ = true;  // room on the device
  return core_.FreeSlab(slab);
}

std::vector<SlabId> KvService::TakeDrained() {
  absl::MutexLock lock(&mutex_);
  return core_.TakeDrained();
}

bool KvService::AnyLost(absl::Span<const SlabId> slabs) const {
  absl::MutexLock lock(&mutex_);
  return core_.AnyLost(slabs);
}

void KvService::BeginStep(std::vector<std::vector<KvNeed>> needs) {
  absl::MutexLock lock(&mutex_);
  core_.BeginStep(std::move(needs));
  work_ = true;
}

void KvService::EndStep() {
  absl::MutexLock lock(&mutex_);
  core_.EndStep();
  work_ = true;
}

int64_t KvService::open_transfers() const {
  absl::MutexLock lock(&mutex_);
  return core_.open_transfers();
}

void KvService::AddStats(KvStats* stats) const {
  absl::MutexLock lock(&mutex_);
  core_.AddStats(stats);
  stats->stall_seconds = absl::ToDoubleSeconds(stall_);
}

absl::Status KvService::Check(int64_t held) const {
  absl::MutexLock lock(&mutex_);
  return core_.Check(held);
}

}  // namespace slim
