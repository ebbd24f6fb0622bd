// The worker's thread: take what came in, start what was admitted, compute a step, deliver.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "server/status_reason.h"
#include "server/token_stream.h"
#include "server/worker_impl.h"

namespace slim {
namespace {

absl::Status ShuttingDown() {
  return ErrorWithReason(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                         "the server is shutting down", absl::Seconds(1));
}

absl::Status CancelledFor(CancelCause cause) {
  switch (cause) {
    case CancelCause::kClient:
    case CancelCause::kAbort:
      break;
    case CancelCause::kDeadline:
      return ErrorWithReason(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                             "the request's deadline passed");
    case CancelCause::kSlowConsumer:
      return ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kSlowConsumer,
                             "the client did not read its answer in time");
    case CancelCause::kShutdown:
      return ShuttingDown();
  }
  return ErrorWithReason(absl::StatusCode::kCancelled, reason::kCancelled,
                         cause == CancelCause::kAbort ? "the request was aborted"
                                                      : "the client cancelled the request");
}

absl::Status Bug(absl::string_view what) {
  return ErrorWithReason(absl::StatusCode::kInternal, reason::kBug, what);
}

// What the client is told of its sequence's failure; the engine's own words go to the log.
absl::Status SequenceFailure(const absl::Status& status) {
  if (absl::IsAborted(status) || absl::IsDataLoss(status)) {
    return ErrorWithReason(status.code(), reason::kKvTransfer,
                           "cached keys and values of the request were lost on the way",
                           absl::Milliseconds(100));
  }
  if (absl::IsInternal(status)) {
    return ErrorWithReason(absl::StatusCode::kInternal, reason::kNumeric,
                           "the model gave no usable numbers for this request");
  }
  return Bug("the request could not be computed");
}

}  // namespace

void WorkerImpl::Run() {
  for (;;) {
    Commands commands = TakeCommands();
    for (LiveRequest* live : commands.arrived) Announce(live);
    for (Ending& ending : commands.endings) {
      End(ending.live, std::move(ending.status), ending.cancellation);
    }
    if (commands.stop) break;
    StartAdmitted();
    const Step step = NextStep();
    if (!step.plan.empty()) RunStep(step);
  }
  EndAll(ShuttingDown(), Cancellation{CancelCause::kShutdown, clock_->Now()});
}

WorkerImpl::Commands WorkerImpl::TakeCommands() {
  Commands commands;
  MutexLock lock(&mutex_);
  wake_ = false;
  commands.stop = stop_;
  for (const RequestKey key : std::exchange(arrived_, {})) {
    // One that came while others were started may have been started and ended with them.
    if (LiveRequest* const live = FindLive(key)) commands.arrived.push_back(live);
  }
  CollectEndings(clock_->Now(), &commands.endings);
  return commands;
}

void WorkerImpl::CollectEndings(absl::Time now, std::vector<Ending>* endings) {
  const auto add = [&](LiveRequest* live, absl::Status status, CancelCause cause, absl::Time when) {
    const bool known = std::any_of(endings->begin(), endings->end(),
                                   [live](const Ending& ending) { return ending.live == live; });
    if (live != nullptr && !known) endings->push_back({live, std::move(status), {cause, when}});
  };
  for (const CancelOrder& order : std::exchange(cancels_, {})) {
    add(FindLive(order.key), CancelledFor(order.cause), order.cause, order.when);
  }
  for (const Scheduler::Expired& expired : scheduler_.FindExpired(now)) {
    LiveRequest* const live = FindLive(expired.key);
    if (expired.expiry == Scheduler::Expiry::kQueueWait) {
      absl::Status status =
          ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kQueueTimeout,
                          absl::StrCat("the request waited longer than the allowed ",
                                       absl::FormatDuration(options_.scheduler.max_queue_wait)),
                          RetryDelay(now));
      add(live, std::move(status), CancelCause::kDeadline, now);
      continue;
    }
    const absl::Time limit = live->request.arrival + options_.max_request_time;
    absl::Status status = CancelledFor(CancelCause::kDeadline);
    if (live->request.deadline > limit) {
      status = ErrorWithReason(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                               absl::StrCat("the request took longer than the allowed ",
                                            absl::FormatDuration(options_.max_request_time)));
    }
    add(live, std::move(status), CancelCause::kDeadline, std::min(live->request.deadline, limit));
  }
  for (const auto& [key, live] : live_) {
    if (!live->stalled_since.has_value()) continue;
    if (live->request.stream->HasRoom()) {
      live->stalled_since.reset();
    } else if (*live->stalled_since + options_.write_stall_timeout <= now) {
      add(live.get(), CancelledFor(CancelCause::kSlowConsumer), CancelCause::kSlowConsumer,
          *live->stalled_since + options_.write_stall_timeout);
    }
  }
  if (!draining_) return;
  for (const RequestKey key : scheduler_.Waiting()) {
    add(FindLive(key), ShuttingDown(), CancelCause::kShutdown, now);
  }
}

LiveRequest* WorkerImpl::FindLive(RequestKey key) {
  const auto it = live_.find(key);
  return it == live_.end() ? nullptr : it->second.get();
}

void WorkerImpl::StartAdmitted() {
  for (;;) {
    std::vector<LiveRequest*> admitted;
    {
      MutexLock lock(&mutex_);
      for (const RequestKey key : scheduler_.TakeAdmitted()) admitted.push_back(FindLive(key));
    }
    if (admitted.empty()) return;
    for (LiveRequest* live : admitted) Start(live);
  }
}

void WorkerImpl::Start(LiveRequest* live) {
  Announce(live);
  // A copy: an engine without room now will be asked again.
  absl::StatusOr<SequenceId> sequence = engine_->Add(live->request.spec);
  if (absl::IsResourceExhausted(sequence.status())) {
    {
      MutexLock lock(&mutex_);
      if (scheduler_.Defer(live->key)) return;
    }
    return End(live, ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kOverload,
                                     "no room in the KV cache", absl::Seconds(1)));
  }
  if (absl::IsInvalidArgument(sequence.status())) {
    return End(live, ErrorWithReason(absl::StatusCode::kInvalidArgument, reason::kBadField,
                                     sequence.status().message()));
  }
  if (!sequence.ok()) {
    Log(LogLevel::kError, "request_start_failed", {{"status", sequence.status().ToString()}});
    return End(live, Bug("the request could not be started"));
  }
  live->sequence = *sequence;
  const PrefillWork work = engine_->NextPrefill(*sequence);
  live->in_prefill = work.rows > 0;
  MutexLock lock(&mutex_);
  scheduler_.StartPrefill(live->key, work);
}

bool WorkerImpl::CanDecode(RequestKey key, absl::Time now) {
  LiveRequest* const live = FindLive(key);
  if (live->request.stream->HasRoom()) {
    live->stalled_since.reset();
    return true;
  }
  if (!live->stalled_since.has_value()) live->stalled_since = now;
  return false;
}

WorkerImpl::Step WorkerImpl::NextStep() {
  MutexLock lock(&mutex_);
  const absl::Time now = clock_->Now();
  const auto can_decode = [&](RequestKey key)
                              ABSL_NO_THREAD_SAFETY_ANALYSIS { return CanDecode(key, now); };
  const Scheduler::Plan plan = scheduler_.NextStep(can_decode, now);
  Step step;
  for (const Scheduler::PrefillUnit& unit : plan.prefill) {
    step.requests.push_back(FindLive(unit.key));
    step.plan.prefill.push_back({*step.requests.back()->sequence, unit.rows});
  }
  for (const RequestKey key : plan.decode) {
    step.requests.push_back(FindLive(key));
    step.plan.decode.push_back(*step.requests.back()->sequence);
  }
  if (!step.plan.empty()) {
    step_started_ = now;
  } else if (!wake_) {
    mutex_.WaitWithTimeout(NextWake() - now);
  }
  return step;
}

absl::Time WorkerImpl::NextWake() {
  absl::Time next = scheduler_.NextExpiry();
  for (const auto& [key, live] : live_) {
    if (!live->stalled_since.has_value()) continue;
    next = std::min(next, *live->stalled_since + options_.write_stall_timeout);
  }
  return next;
}

void WorkerImpl::RunStep(const Step& step) {
  const absl::Time begin = clock_->Now();
  for (size_t i = 0; i < step.plan.prefill.size(); ++i) {
    LiveRequest* const live = step.requests[i];
    if (!live->first_unit.has_value()) live->first_unit = begin;
  }
  absl::StatusOr<StepResult> result = engine_->Step(step.plan);
  const absl::Time end = clock_->Now();
  {
    MutexLock lock(&mutex_);
    step_started_.reset();
    scheduler_.StepTook(end - begin);
    if (result.ok()) {
      prefill_rate_.Add(end, result->prefill_rows);
      decode_rate_.Add(end, result->decode_rows);
    }
  }
  if (!result.ok()) return FailForGood(result.status());
  observer_->OnStep(*result, end - begin);
  absl::flat_hash_map<SequenceId, SequenceOutput*> outputs;
  for (SequenceOutput& output : result->outputs) outputs[output.sequence] = &output;
  for (LiveRequest* live : step.requests) {
    const auto it = outputs.find(*live->sequence);
    if (it == outputs.end()) {
      End(live, Bug("the engine gave no result for the request"));
    } else {
      Deliver(live, it->second, end);
    }
  }
}

void WorkerImpl::Deliver(LiveRequest* live, SequenceOutput* output, absl::Time now) {
  if (!output->status.ok()) {
    Log(LogLevel::kWarning, "sequence_failed",
        {{"request_id", live->request.id}, {"status", output->status.ToString()}});
    return End(live, SequenceFailure(output->status));
  }
  if (live->in_prefill) {
    if (live->request.response.progress) {
      live->request.stream->Push(ProgressEvent{output->progress});
    }
    const PrefillWork work =
        output->in_prefill ? engine_->NextPrefill(*live->sequence) : PrefillWork{};
    if (output->in_prefill && work.rows <= 0) {
      return End(live, Bug("prefill stopped before its end"));
    }
    live->in_prefill = output->in_prefill;
    MutexLock lock(&mutex_);
    scheduler_.UpdatePrefill(live->key, work);
  }
  if (output->token.has_value()) DeliverToken(live, output, now);
}

void WorkerImpl::DeliverToken(LiveRequest* live, SequenceOutput* output, absl::Time now) {
  if (!live->first_token.has_value()) {
    live->first_token = now;
    observer_->OnFirstToken(now - live->request.arrival);
  } else {
    observer_->OnInterTokenGap(now - live->last_token);
  }
  live->last_token = now;
  OutputProcessor::Result result = live->output.Add(*output->token, std::move(output->logprobs));
  if (result.delta.has_value()) live->request.stream->Push(*std::move(result.delta));
  if (result.finished.has_value()) Finish(live, *result.finished, std::move(result.stop_match));
}

void WorkerImpl::Announce(LiveRequest* live) {
  if (live->announced) return;
  live->announced = true;
  AcceptedEvent accepted;
  accepted.request_id = live->request.id;
  accepted.prompt_tokens = live->prompt_tokens;
  accepted.queue_position = live->queue_position;
  live->request.stream->Push(std::move(accepted));
}

void WorkerImpl::Finish(LiveRequest* live, FinishReason finish_reason, std::string stop_match) {
  FinishedEvent event;
  event.reason = finish_reason;
  event.stop_match = std::move(stop_match);
  event.completion_tokens = live->output.completion_tokens();
  event.report = engine_->Report(*live->sequence);
  const absl::Time arrival = live->request.arrival;
  const absl::Time first_token = *live->first_token;
  const absl::Time first_unit = live->first_unit.value_or(first_token);
  event.queue_time = first_unit - arrival;
  event.prefill_time = first_token - first_unit;
  event.time_to_first_token = first_token - arrival;
  event.decode_time = live->last_token - first_token;
  const std::unique_ptr<LiveRequest> released = Release(live);
  observer_->OnFinished(released->request, event);
  const std::shared_ptr<TokenStream>& stream = released->request.stream;
  stream->Push(std::move(event));
  stream->Close(absl::OkStatus());
}

void WorkerImpl::End(LiveRequest* live, absl::Status status,
                     const absl::optional<Cancellation>& cancellation) {
  Announce(live);
  const char* const phase = live->phase();
  const std::unique_ptr<LiveRequest> released = Release(live);
  if (ReasonOf(status) == reason::kQueueTimeout) {
    observer_->OnRejected(reason::kQueueTimeout);
  } else if (cancellation.has_value()) {
    observer_->OnCancelled(phase, cancellation->cause, clock_->Now() - cancellation->when);
  }
  released->request.stream->Close(std::move(status));
}

std::unique_ptr<LiveRequest> WorkerImpl::Release(LiveRequest* live) {
  if (live->sequence.has_value()) engine_->Remove(*live->sequence);
  std::unique_ptr<LiveRequest> released;
  {
    MutexLock lock(&mutex_);
    scheduler_.Remove(live->key);
    keys_.erase(live->request.id);
    const auto it = live_.find(live->key);
    SLIM_CHECK(it != live_.end());
    released = std::move(it->second);
    live_.erase(it);
    if (live_.empty()) mutex_.NotifyAll();  // for Stop
  }
  // After this the stream, which may outlive the worker, no longer knows it. Not under the mutex: a
  // call under way wants it.
  released->request.stream->SetRoomCallback(nullptr);
  return released;
}

void WorkerImpl::EndAll(const absl::Status& status,
                        const absl::optional<Cancellation>& cancellation) {
  std::vector<std::pair<uint64_t, LiveRequest*>> left;
  {
    MutexLock lock(&mutex_);
    for (const auto& [key, live] : live_) {
      left.emplace_back(static_cast<uint64_t>(key), live.get());
    }
  }
  std::sort(left.begin(), left.end());
  for (const auto& [key, live] : left) End(live, status, cancellation);
}

void WorkerImpl::FailForGood(const absl::Status& status) {
  Log(LogLevel::kError, "backend_failed", {{"status", status.ToString()}});
  const absl::Status told =
      ErrorWithReason(absl::StatusCode::kUnavailable, reason::kBackendFatal,
                      "the backend failed, the server cannot compute any more", absl::Seconds(1));
  {
    MutexLock lock(&mutex_);
    fatal_ = told;
  }
  EndAll(told, absl::nullopt);
  if (options_.on_fatal) options_.on_fatal(status);
}

}  // namespace slim
