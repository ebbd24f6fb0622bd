// One generation between a client and the worker, whatever the protocol: validates, tokenizes,
// submits, hands events on one at a time, cancels, and ends exactly once. No gRPC types.
//
// Life: Start -> Prepare (on a task thread when the prompt is long) -> events -> the stream's
// terminal status -> GenerateSink::Finish. Nothing calls the sink after Finish.
// Thread-safe; owned by shared_ptr, since tasks and the stream's callback refer to it.
#ifndef SERVER_GENERATE_SESSION_H_
#define SERVER_GENERATE_SESSION_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/metrics.h"
#include "server/prompt_codec.h"
#include "server/proto_events.h"
#include "server/request_registry.h"
#include "server/request_validator.h"
#include "server/task_pool.h"
#include "server/token_stream.h"
#include "server/worker.h"
#include "sliminfer/v1/inference.pb.h"

namespace slim {

// What every session needs; all pointers outlive the sessions.
struct GenerateDependencies {
  Worker* worker = nullptr;
  const PromptCodec* codec = nullptr;
  const Clock* clock = nullptr;
  Metrics* metrics = nullptr;
  RequestRegistry* registry = nullptr;
  TaskPool* prepare_pool = nullptr;   // tokenizes long prompts
  TaskPool* delivery_pool = nullptr;  // writes to clients on behalf of the worker
  ValidationContext validation;
};

// The protocol's end of a session. Called by one thread at a time.
class GenerateSink {
 public:
  virtual ~GenerateSink() = default;
  // Takes an event. True: a write is under way, OnWritten follows, no event comes before it.
  virtual bool Deliver(const StreamEvent& event, const EventContext& context) = 0;
  // The end. The sink may be gone when this returns.
  virtual void Finish(const absl::Status& status) = 0;
};

class GenerateSession : public std::enable_shared_from_this<GenerateSession> {
 public:
  // `sink` lives until its Finish was called.
  GenerateSession(const GenerateDependencies* dependencies, GenerateSink* sink)
      : deps_(*dependencies), sink_(sink), stream_(std::make_shared<TokenStream>()) {}

  // Checks the request and goes on. `deadline` is steady-clock time, `peer` gRPC's peer string.
  void Start(sliminfer::v1::GenerateRequest request, std::string peer, absl::Time deadline);
  // The write begun by Deliver ended; false: the client cannot be reached any more.
  void OnWritten(bool ok);
  // The client left, or its deadline passed.
  void Cancel(CancelCause cause);

 private:
  void Prepare();
  absl::Status PrepareAndSubmit();
  void Kick();        // from the worker: Pump on a delivery thread
  void Pump();        // moves what can be moved, unless another thread does so already
  void MoveEvents();  // by the one who set moving_
  bool broken();
  void SendCancel(const std::string& id, CancelCause cause);
  void End(const absl::Status& status);  // of a request that the worker does not have
  void Complete(const std::string& id, const absl::Status& status);  // after ended_ was set

  const GenerateDependencies& deps_;
  GenerateSink* const sink_;
  const std::shared_ptr<TokenStream> stream_;

  // Set by Start and Prepare, before the stream can call back.
  sliminfer::v1::GenerateRequest request_;
  std::string peer_;
  absl::Time deadline_;
  absl::Time arrival_;
  EventContext event_context_;

  absl::Mutex mutex_;
  std::string registered_id_ ABSL_GUARDED_BY(mutex_);  // empty: not in the registry
  bool submitted_ ABSL_GUARDED_BY(mutex_) = false;     // the worker has it
  bool moving_ ABSL_GUARDED_BY(mutex_) = false;        // a thread or a write is moving events
  bool again_ ABSL_GUARDED_BY(mutex_) = false;         // and has to look once more
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;        // a write failed: drop what is left
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelling_ ABSL_GUARDED_BY(mutex_) = false;  // Worker::Cancel is under way
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  CancelCause cause_ ABSL_GUARDED_BY(mutex_) = CancelCause::kClient;
};

}  // namespace slim

#endif  // SERVER_GENERATE_SESSION_H_
