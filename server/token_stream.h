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

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "server/request.h"

namespace slim {

class TokenStream {
 public:
  // Holds at most `capacity` events (Accepted and Finished are always taken).
  explicit TokenStream(size_t capacity = 256);

  // ---- worker side ----
  // Whether another event fits. Progress may be dropped when it does not; a Delta never is.
  bool HasRoom() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Appends an event; false when the stream is closed (the event is dropped). Consecutive Progress
  // events that were not yet taken are replaced by the newest.
  bool Push(StreamEvent event) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the stream after what is buffered; the first call wins, later ones have no effect.
  void Close(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

  // ---- reader side ----
  // `ready` is called, outside of any lock, whenever the stream goes from "nothing to take" to
  // "something to take" (an event or the end). It must not block. Set once, before Submit; call
  // with nullptr to detach (after which it is never called again; waits for a call under way).
  void SetReadyCallback(std::function<void()> ready) ABSL_LOCKS_EXCLUDED(mutex_);
  // The oldest event, if any.
  absl::optional<StreamEvent> Pop() ABSL_LOCKS_EXCLUDED(mutex_);
  // The terminal status, once every event was taken.
  absl::optional<absl::Status> Finished() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const size_t capacity_;
  mutable absl::Mutex mutex_;
  std::deque<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);
  absl::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> ready_ ABSL_GUARDED_BY(mutex_);
  bool calling_ready_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace slim

#endif  // SERVER_TOKEN_STREAM_H_
