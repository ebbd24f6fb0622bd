// A bounded channel from the worker to whoever delivers one request's answer. Thread-safe.
//
// The worker never waits: HasRoom() is false while the reader lags, and the sequence sits out the
// next steps. The reader is told by a callback that there is something to take, and never waits
// either. Exactly one terminal status ends the stream; nothing is delivered after it.
#ifndef SERVER_TOKEN_STREAM_H_
#define SERVER_TOKEN_STREAM_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/base/mutex.h"
#include "server/request.h"

namespace slim {

class TokenStream {
 public:
  // HasRoom() is true while fewer than `capacity` (at least 1) events wait. Accepted and Finished
  // are always taken, and so is the Delta of a token that was computed already, so that a few
  // events more than `capacity` may be held.
  explicit TokenStream(size_t capacity = 256);

  // ---- worker side ----
  // Whether another event fits. Progress may be dropped when it does not; a Delta never is.
  bool HasRoom() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Appends an event; false when the stream is closed (the event is dropped). Consecutive Progress
  // events that were not yet taken are replaced by the newest.
  bool Push(StreamEvent event) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the stream after what is buffered; the first call wins, later ones have no effect.
  void Close(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);
  // `room` is called, outside of any lock and on the reader's thread, whenever HasRoom() turns from
  // false to true. The rules of SetReadyCallback hold.
  void SetRoomCallback(std::function<void()> room) ABSL_LOCKS_EXCLUDED(mutex_);

  // ---- reader side ----
  // `ready` is called, outside of any lock, whenever the stream goes from "nothing to take" to
  // "something to take" (an event or the end). It must not block. Set once, before Submit; call
  // with nullptr to detach (after which it is never called again; waits for a call under way on
  // another thread, so not while holding a lock that the callback takes).
  void SetReadyCallback(std::function<void()> ready) ABSL_LOCKS_EXCLUDED(mutex_);
  // The oldest event, if any.
  absl::optional<StreamEvent> Pop() ABSL_LOCKS_EXCLUDED(mutex_);
  // The terminal status, once every event was taken.
  absl::optional<absl::Status> Finished() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A callback and the threads that are inside it now.
  struct Hook {
    std::function<void()> callback;
    std::vector<std::thread::id> callers;
  };
  enum HookKind { kReady, kRoom };
  void Set(HookKind kind, std::function<void()> callback) ABSL_LOCKS_EXCLUDED(mutex_);
  void Call(HookKind kind) ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t capacity_;
  mutable Mutex mutex_;
  std::deque<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);
  absl::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  Hook hooks_[2] ABSL_GUARDED_BY(mutex_);  // by HookKind
};

}  // namespace slim

#endif  // SERVER_TOKEN_STREAM_H_
