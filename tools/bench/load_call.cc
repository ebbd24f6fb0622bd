#include "tools/bench/load_call.h"

#include <chrono>
#include <limits>
#include <utility>

namespace slim {

namespace v1 = sliminfer::v1;

double CallRecord::TimeToFirstToken() const {
  if (delta_times.empty()) return std::numeric_limits<double>::quiet_NaN();
  return absl::ToDoubleSeconds(delta_times.front() - due);
}

void AppendGaps(const std::vector<absl::Time>& times, absl::Time begin, absl::Time end,
                std::vector<double>* gaps) {
  for (size_t i = 1; i < times.size(); ++i) {
    if (times[i - 1] < begin || times[i] > end) continue;
    gaps->push_back(absl::ToDoubleSeconds(times[i] - times[i - 1]));
  }
}

// Lives until OnDone; the record outlives it in the owner.
class LoadCalls::Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(LoadCalls* owner, Handle handle, v1::GenerateRequest request)
      : owner_(owner), handle_(handle), request_(std::move(request)) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          absl::ToChronoMicroseconds(owner->call_timeout_));
    if (!owner->authorization_.empty()) {
      context_.AddMetadata("authorization", owner->authorization_);
    }
  }

  void Start() {
    owner_->stub_->async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const absl::Time now = owner_->clock_->Now();
    {
      absl::MutexLock lock(&owner_->mutex_);
      CallRecord& record = owner_->records_[handle_];
      if (event_.has_delta() && event_.delta().token_ids_size() > 0) {
        record.tokens += event_.delta().token_ids_size();
        record.delta_times.push_back(now);
      }
      if (event_.has_progress()) record.progress_times.push_back(now);
      if (event_.has_finished()) record.finished = true;
    }
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    absl::MutexLock lock(&owner_->mutex_);
    owner_->records_[handle_].code = status.error_code();
    owner_->done_[handle_] = true;
    --owner_->in_flight_;
  }

 private:
  LoadCalls* const owner_;
  const Handle handle_;
  const v1::GenerateRequest request_;
  grpc::ClientContext context_;
  v1::GenerateResponse event_;
};

LoadCalls::LoadCalls(v1::Inference::StubInterface* stub, const Clock* clock,
                     std::string authorization, absl::Duration call_timeout)
    : stub_(stub),
      clock_(clock),
      authorization_(std::move(authorization)),
      call_timeout_(call_timeout) {}

LoadCalls::~LoadCalls() { WaitUntilAllDone(); }

LoadCalls::Handle LoadCalls::Start(const v1::GenerateRequest& request, absl::Time due) {
  Call* call = nullptr;
  Handle handle = 0;
  {
    absl::MutexLock lock(&mutex_);
    handle = static_cast<Handle>(calls_.size());
    calls_.push_back(std::make_unique<Call>(this, handle, request));
    records_.emplace_back();
    records_.back().due = due;
    done_.push_back(false);
    ++in_flight_;
    call = calls_.back().get();
  }
  call->Start();
  return handle;
}

void LoadCalls::Cancel(Handle handle) {
  absl::MutexLock lock(&mutex_);
  if (!done_[handle]) calls_[handle]->Cancel();
}

bool LoadCalls::WaitForFirstToken(Handle handle, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this, handle]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !records_[handle].delta_times.empty() || done_[handle];
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout);
}

void LoadCalls::WaitUntilDone(Handle handle) {
  absl::MutexLock lock(&mutex_);
  const auto done = [this, handle]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> bool { return done_[handle]; };
  mutex_.Await(absl::Condition(&done));
}

void LoadCalls::WaitUntilAllDone() {
  absl::MutexLock lock(&mutex_);
  const auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return in_flight_ == 0; };
  mutex_.Await(absl::Condition(&done));
}

void LoadCalls::WaitUntil(absl::Time time) {
  absl::MutexLock lock(&mutex_);
  // A condition that never holds: only the time ends the wait.
  const auto never = [] { return false; };
  mutex_.AwaitWithTimeout(absl::Condition(&never), time - clock_->Now());
}

CallRecord LoadCalls::Record(Handle handle) const {
  absl::MutexLock lock(&mutex_);
  return records_[handle];
}

std::vector<CallRecord> LoadCalls::Records() const {
  absl::MutexLock lock(&mutex_);
  return records_;
}

}  // namespace slim
