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
    MutexLock lock(&mutex_);
    stop_ = true;
    mutex_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  copier_.reset();  // no completion after this line
}

void KvService::Run() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      while (!work_ && !stop_) {
        const absl::Duration left = core_.NextDeadline() - clock_->Now();
        if (left <= absl::ZeroDuration()) break;
        mutex_.WaitWithTimeout(left);
      }
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
    MutexLock lock(&mutex_);
    expired = core_.Expired(now);
    mutex_.NotifyAll();  // a demand may have been given up
  }
  for (const uint64_t id : expired) {
    const bool memory_is_safe = copier_->Cancel(id);
    MutexLock lock(&mutex_);
    core_.OnExpired(id, memory_is_safe, now);
    mutex_.NotifyAll();
  }
  while (true) {
    CopyRequest request;
    {
      MutexLock lock(&mutex_);
      const bool found = core_.NextCopy(clock_->Now(), &request);
      if (core_.acquire_done()) mutex_.NotifyAll();
      if (!found) return;
    }
    copier_->Enqueue(std::move(request));
  }
}

void KvService::OnDone(const CopyResult& result) {
  MutexLock lock(&mutex_);
  core_.OnCopyDone(result);
  Post();
}

void KvService::WaitForDemand() {
  const absl::Time begin = clock_->Now();
  if (!idle_) {
    while (!core_.acquire_done()) mutex_.Wait();
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
  MutexLock lock(&mutex_);
  core_.BeginAcquire(sequence, layer, holds, clock_->Now());
  Post();
  if (!core_.acquire_done()) WaitForDemand();
  return core_.FinishAcquire(device, to_zero);
}

void KvService::Release(absl::Span<const KvHold> holds) {
  MutexLock lock(&mutex_);
  core_.Release(holds);
  Post();
}

void KvService::AddSequence(KvSequenceId sequence) {
  MutexLock lock(&mutex_);
  core_.AddSequence(sequence);
}

void KvService::ForgetSequence(KvSequenceId sequence) {
  MutexLock lock(&mutex_);
  core_.ForgetSequence(sequence);
}

bool KvService::FreeSlab(SlabId slab) {
  MutexLock lock(&mutex_);
  Post();  // room on the device
  return core_.FreeSlab(slab);
}

std::vector<SlabId> KvService::TakeDrained() {
  MutexLock lock(&mutex_);
  return core_.TakeDrained();
}

bool KvService::AnyLost(absl::Span<const SlabId> slabs) const {
  MutexLock lock(&mutex_);
  return core_.AnyLost(slabs);
}

void KvService::BeginStep(std::vector<std::vector<KvNeed>> needs) {
  MutexLock lock(&mutex_);
  core_.BeginStep(std::move(needs));
  Post();
}

void KvService::ReplaceNeeds(KvSequenceId sequence, int layer, absl::Span<const SlabId> slabs) {
  MutexLock lock(&mutex_);
  core_.ReplaceNeeds(sequence, layer, slabs);
  Post();
}

void KvService::EndStep() {
  MutexLock lock(&mutex_);
  core_.EndStep();
  Post();
}

int64_t KvService::open_transfers() const {
  MutexLock lock(&mutex_);
  return core_.open_transfers();
}

void KvService::AddStats(KvStats* stats) const {
  MutexLock lock(&mutex_);
  core_.AddStats(stats);
  stats->stall_seconds = absl::ToDoubleSeconds(stall_);
}

absl::Status KvService::Check(int64_t held) const {
  MutexLock lock(&mutex_);
  return core_.Check(held);
}

}  // namespace slim
