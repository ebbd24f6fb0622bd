#include "server/generate_session.h"

#include <utility>

#include "absl/types/optional.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "server/incident.h"
#include "server/status_reason.h"

namespace slim {
namespace {

// Prompts up to this size are tokenized where they arrive: it takes less than a thread switch
// costs under load, and a short request never queues behind a long one's tokenization.
constexpr size_t kInlinePromptBytes = 4096;

size_t PromptBytes(const sliminfer::v1::GenerateRequest& request) {
  if (request.has_text()) return request.text().size();
  size_t bytes = 0;
  if (request.has_chat()) {
    for (const auto& message : request.chat().messages()) bytes += message.content().size();
  }
  return bytes;
}

}  // namespace

void GenerateSession::Start(sliminfer::v1::GenerateRequest request, std::string peer,
                            absl::Time deadline) {
  arrival_ = deps_.clock->Now();
  deadline_ = deadline;
  peer_ = std::move(peer);
  request_ = std::move(request);
  if (deadline_ <= arrival_) {
    return End(ErrorWithReason(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                               "the deadline had passed when the request arrived"));
  }
  const absl::Status valid =
      Guarded("Generate", [this] { return ValidateGenerateRequest(request_, deps_.validation); });
  if (!valid.ok()) {
    deps_.metrics->OnRejected(ReasonOf(valid));
    return End(valid);
  }
  if (PromptBytes(request_) <= kInlinePromptBytes) return Prepare();
  if (!deps_.prepare_pool->TryPost([self = shared_from_this()] { self->Prepare(); })) {
    deps_.metrics->OnRejected(reason::kOverload);
    End(ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kOverload,
                        "too many prompts wait to be tokenized", absl::Seconds(1)));
  }
}

void GenerateSession::Prepare() {
  const absl::Status status = Guarded("Generate", [this] { return PrepareAndSubmit(); });
  if (!status.ok()) return End(status);
  bool cancel = false;
  CancelCause cause = CancelCause::kClient;
  std::string id;
  {
    absl::MutexLock lock(&mutex_);
    submitted_ = true;
    cancel = cancelled_;  // the client left while we were tokenizing
    cancelling_ = cancel;
    cause = cause_;
    id = registered_id_;
  }
  if (cancel) SendCancel(id, cause);
  Pump();
}

absl::Status GenerateSession::PrepareAndSubmit() {
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) {
      return ErrorWithReason(absl::StatusCode::kCancelled, reason::kCancelled,
                             "cancelled by the client");
    }
  }
  absl::StatusOr<Request> built = [&]() -> absl::StatusOr<Request> {
    SLIM_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, EncodePrompt(request_, *deps_.codec));
    return BuildRequest(request_, std::move(prompt), deps_.validation);
  }();
  if (built.ok()) {
    const absl::Status acquired = deps_.registry->Acquire(built->id, peer_);
    if (!acquired.ok()) built = acquired;
  }
  if (!built.ok()) {
    deps_.metrics->OnRejected(ReasonOf(built.status()));
    return built.status();
  }
  Request request = *std::move(built);
  request_.Clear();  // the prompt's text is not needed any more
  {
    absl::MutexLock lock(&mutex_);
    registered_id_ = request.id;
  }
  event_context_.codec = deps_.codec;
  event_context_.block_tokens = deps_.validation.pruning.block_tokens;
  event_context_.pruning_report = request.response.pruning_report;
  event_context_.profile = request.spec.pruning.profile;
  request.arrival = arrival_;
  request.deadline = deadline_;
  request.stream = stream_;
  stream_->SetReadyCallback([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Kick();
  });
  return deps_.worker->Submit(std::move(request));
}

void GenerateSession::Kick() {
  // The queue holds one task per stream that has something to take, far less than its bound; a
  // refusal is answered by doing the work here.
  if (!deps_.delivery_pool->TryPost([self = shared_from_this()] { self->Pump(); })) Pump();
}

void GenerateSession::Pump() {
  {
    absl::MutexLock lock(&mutex_);
    if (!submitted_ || ended_) return;
    if (moving_) {
      again_ = true;
      return;
    }
    moving_ = true;
  }
  MoveEvents();
}

void GenerateSession::MoveEvents() {
  for (;;) {
    // Not under the lock: taking an event may call back into the worker.
    const absl::optional<StreamEvent> event = stream_->Pop();
    if (event.has_value()) {
      if (!broken() && sink_->Deliver(*event, event_context_)) return;  // OnWritten goes on
      continue;
    }
    const absl::optional<absl::Status> end = stream_->Finished();
    std::string id;
    {
      absl::MutexLock lock(&mutex_);
      // Worker::Cancel names the request by its id: the id must stay ours until it returns.
      if (!end.has_value() || cancelling_) {
        moving_ = std::exchange(again_, false);
        if (moving_) continue;
        return;
      }
      ended_ = true;
      id.swap(registered_id_);
    }
    return Complete(id, *end);
  }
}

bool GenerateSession::broken() {
  absl::MutexLock lock(&mutex_);
  return broken_;
}

void GenerateSession::OnWritten(bool ok) {
  if (!ok) {
    {
      absl::MutexLock lock(&mutex_);
      broken_ = true;
    }
    Cancel(CancelCause::kClient);
  }
  MoveEvents();
}

void GenerateSession::Cancel(CancelCause cause) {
  std::string id;
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_ || ended_) return;
    cancelled_ = true;
    cause_ = cause;
    if (!submitted_) return;  // Prepare sees the flag
    cancelling_ = true;
    id = registered_id_;
  }
  SendCancel(id, cause);
  Pump();
}

void GenerateSession::SendCancel(const std::string& id, CancelCause cause) {
  deps_.worker->Cancel(id, cause);
  absl::MutexLock lock(&mutex_);
  cancelling_ = false;
}

void GenerateSession::End(const absl::Status& status) {
  std::string id;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    id.swap(registered_id_);
  }
  Complete(id, status);
}

void GenerateSession::Complete(const std::string& id, const absl::Status& status) {
  // Before the client learns of the end: it may use the id again at once.
  if (!id.empty()) deps_.registry->Release(id);
  sink_->Finish(status);
}

}  // namespace slim
