#include "server/token_stream.h"

#include <algorithm>
#include <utility>

namespace slim {

TokenStream::TokenStream(size_t capacity) : capacity_(std::max<size_t>(capacity, 1)) {}

bool TokenStream::HasRoom() const {
  MutexLock lock(&mutex_);
  return events_.size() < capacity_;
}

bool TokenStream::Push(StreamEvent event) {
  bool was_empty = false;
  {
    MutexLock lock(&mutex_);
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
  if (was_empty) Call(kReady);
  return true;
}

void TokenStream::Close(absl::Status status) {
  bool was_empty = false;
  {
    MutexLock lock(&mutex_);
    if (end_.has_value()) return;
    was_empty = events_.empty();
    end_ = std::move(status);
  }
  if (was_empty) Call(kReady);
}

void TokenStream::SetRoomCallback(std::function<void()> room) { Set(kRoom, std::move(room)); }

void TokenStream::SetReadyCallback(std::function<void()> ready) { Set(kReady, std::move(ready)); }

absl::optional<StreamEvent> TokenStream::Pop() {
  absl::optional<StreamEvent> event;
  bool got_room = false;
  {
    MutexLock lock(&mutex_);
    if (events_.empty()) return absl::nullopt;
    event = std::move(events_.front());
    got_room = events_.size() == capacity_;
    events_.pop_front();
  }
  if (got_room) Call(kRoom);
  return event;
}

absl::optional<absl::Status> TokenStream::Finished() const {
  MutexLock lock(&mutex_);
  if (!events_.empty()) return absl::nullopt;
  return end_;
}

void TokenStream::Set(HookKind kind, std::function<void()> callback) {
  const std::thread::id self = std::this_thread::get_id();
  MutexLock lock(&mutex_);
  Hook& hook = hooks_[kind];
  // Swapped, so that what the old callback owned is destroyed after the lock was given back.
  std::swap(hook.callback, callback);
  // A callback may detach itself: its own thread is not waited for.
  while (std::any_of(hook.callers.begin(), hook.callers.end(),
                     [self](std::thread::id caller) { return caller != self; })) {
    mutex_.Wait();
  }
}

void TokenStream::Call(HookKind kind) {
  const std::thread::id self = std::this_thread::get_id();
  std::function<void()> callback;
  {
    MutexLock lock(&mutex_);
    Hook& hook = hooks_[kind];
    if (!hook.callback) return;
    callback = hook.callback;
    hook.callers.push_back(self);
  }
  callback();
  callback = nullptr;  // what it owns must be gone when a detaching thread goes on
  MutexLock lock(&mutex_);
  std::vector<std::thread::id>& callers = hooks_[kind].callers;
  callers.erase(std::find(callers.begin(), callers.end(), self));
  mutex_.NotifyAll();
}

}  // namespace slim
