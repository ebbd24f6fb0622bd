#include "server/token_stream.h"

#include <algorithm>
#include <utility>

namespace slim {

TokenStream::TokenStream(size_t capacity) : capacity_(std::max<size_t>(capacity, 1)) {}

bool TokenStream::HasRoom() const {
  absl::MutexLock lock(&mutex_);
  return events_.size() < capacity_;
}

bool TokenStream::Push(StreamEvent event) {
  bool was_empty = false;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return false;
    if (absl::holds_alternative<ProgressEvent>(event)) {
      if (!events_.empty() && absl::holds_alternative<ProgressEvent>(events_.back())) {
        events_.back() = std::move(event);
        return true;
      }
      if (events_.size() >= capacity_) return true;
    }
    was_empty = events_.empty();
    events_.push_back(std::move(event));
  }
  if (was_empty) Call(&ready_);
  return true;
}

void TokenStream::Close(absl::Status status) {
  bool was_empty = false;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return;
    was_empty = events_.empty();
    end_ = std::move(status);
  }
  if (was_empty) Call(&ready_);
}

void TokenStream::SetRoomCallback(std::function<void()> room) { Set(&room_, std::move(room)); }

void TokenStream::SetReadyCallback(std::function<void()> ready) { Set(&ready_, std::move(ready)); }

absl::optional<StreamEvent> TokenStream::Pop() {
  absl::optional<StreamEvent> event;
  bool got_room = false;
  {
    absl::MutexLock lock(&mutex_);
    if (events_.empty()) return absl::nullopt;
    event = std::move(events_.front());
    got_room = events_.size() == capacity_;
    events_.pop_front();
  }
  if (got_room) Call(&room_);
  return event;
}

absl::optional<absl::Status> TokenStream::Finished() const {
  absl::MutexLock lock(&mutex_);
  if (!events_.empty()) return absl::nullopt;
  return end_;
}

void TokenStream::Set(Hook* hook, std::function<void()> callback) {
  // A callback may detach itself: its own thread is not waited for.
  const std::thread::id self = std::this_thread::get_id();
  const auto idle = [hook, self] {
    return std::all_of(hook->callers.begin(), hook->callers.end(),
                       [self](std::thread::id caller) { return caller == self; });
  };
  absl::MutexLock lock(&mutex_);
  // Swapped, so that what the old callback owned is destroyed after the lock was given back.
  std::swap(hook->callback, callback);
  mutex_.Await(absl::Condition(&idle));
}

void TokenStream::Call(Hook* hook) {
  const std::thread::id self = std::this_thread::get_id();
  std::function<void()> callback;
  {
    absl::MutexLock lock(&mutex_);
    if (!hook->callback) return;
    callback = hook->callback;
    hook->callers.push_back(self);
  }
  callback();
  callback = nullptr;  // what it owns must be gone when a detaching thread goes on
  absl::MutexLock lock(&mutex_);
  hook->callers.erase(std::find(hook->callers.begin(), hook->callers.end(), self));
}

}  // namespace slim
