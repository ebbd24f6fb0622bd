#include "server/token_stream.h"

#include <utility>

namespace slim {

TokenStream::TokenStream(size_t capacity) : capacity_(capacity) {}

bool TokenStream::HasRoom() const {
  absl::MutexLock lock(&mutex_);
  return events_.size() < capacity_;
}

bool TokenStream::Push(StreamEvent event) {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return false;
    const bool was_empty = events_.empty();
    if (!was_empty && absl::holds_alternative<ProgressEvent>(event) &&
        absl::holds_alternative<ProgressEvent>(events_.back())) {
      events_.back() = std::move(event);
      return true;
    }
    events_.push_back(std::move(event));
    if (!was_empty || !ready_) return true;
    calling_ready_ = true;
    ready = ready_;
  }
  ready();
  absl::MutexLock lock(&mutex_);
  calling_ready_ = false;
  return true;
}

void TokenStream::Close(absl::Status status) {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return;
    end_ = std::move(status);
    if (!events_.empty() || !ready_) return;
    calling_ready_ = true;
    ready = ready_;
  }
  ready();
  absl::MutexLock lock(&mutex_);
  calling_ready_ = false;
}

void TokenStream::SetReadyCallback(std::function<void()> ready) {
  absl::MutexLock lock(&mutex_);
  ready_ = std::move(ready);
  if (ready_) return;
  mutex_.Await(absl::Condition(+[](bool* calling) { return !*calling; }, &calling_ready_));
}

absl::optional<StreamEvent> TokenStream::Pop() {
  absl::MutexLock lock(&mutex_);
  if (events_.empty()) return absl::nullopt;
  StreamEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

absl::optional<absl::Status> TokenStream::Finished() const {
  absl::MutexLock lock(&mutex_);
  if (!events_.empty()) return absl::nullopt;
  return end_;
}

}  // namespace slim
