// The part of the worker that any thread may call. See worker_loop.cc for the thread itself.
#include "server/worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/status_reason.h"
#include "server/token_stream.h"
#include "server/worker_impl.h"

namespace slim {

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(Options options,
                                                       std::unique_ptr<Engine> engine,
                                                       const Tokenizer* tokenizer,
                                                       const Clock* clock,
                                                       WorkerObserver* observer) {
  SchedulerOptions& scheduler = options.scheduler;
  if (scheduler.kv_capacity_slabs == 0) scheduler.kv_capacity_slabs = engine->capacity_slabs();
  if (scheduler.max_layer_slabs_per_step == 0) {
    scheduler.max_layer_slabs_per_step = engine->max_layer_slabs_per_step();
  }
  if (scheduler.prefill_step_cost == 0) {
    scheduler.prefill_step_cost =
        static_cast<double>(scheduler.prefill_chunk_tokens) * engine->model_config().num_layers;
  }
  SLIM_RETURN_IF_ERROR(ValidateSchedulerOptions(scheduler));
  for (const absl::Duration limit :
       {options.write_stall_timeout, options.max_request_time, options.stuck_step_time}) {
    if (limit <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a time limit of the worker is ", absl::FormatDuration(limit), ", allowed: > 0"));
    }
  }
  return std::unique_ptr<Worker>(
      new WorkerImpl(std::move(options), std::move(engine), tokenizer, clock, observer));
}

WorkerImpl::WorkerImpl(Options options, std::unique_ptr<Engine> engine, const Tokenizer* tokenizer,
                       const Clock* clock, WorkerObserver* observer)
    : options_(std::move(options)),
      engine_(std::move(engine)),
      tokenizer_(tokenizer),
      clock_(clock),
      observer_(observer),
      scheduler_(options_.scheduler) {
  thread_ = std::thread([this] { Run(); });
}

WorkerImpl::~WorkerImpl() { Stop(absl::ZeroDuration()); }

absl::Status WorkerImpl::Submit(Request request) {
  absl::Status status;
  if (request.stream == nullptr) {
    status = ErrorWithReason(absl::StatusCode::kInternal, reason::kBug, "request without a stream");
  } else if (request.spec.prompt.empty()) {
    status = ErrorWithReason(absl::StatusCode::kInvalidArgument, reason::kBadField,
                             "prompt has 0 tokens, allowed: at least 1");
  } else {
    const KvDemand kv = engine_->KvNeeded(request.spec);
    MutexLock lock(&mutex_);
    status = Refusal(request.id);
    if (status.ok()) status = Take(std::move(request), kv);
  }
  if (!status.ok()) observer_->OnRejected(ReasonOf(status));
  return status;
}

absl::Status WorkerImpl::Refusal(const std::string& id) const {
  if (!fatal_.ok()) return fatal_;
  if (draining_ || stop_) {
    return ErrorWithReason(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                           "the server is shutting down", absl::Seconds(1));
  }
  if (keys_.contains(id)) {
    return ErrorWithReason(absl::StatusCode::kAlreadyExists, reason::kDuplicate,
                           absl::StrCat("request_id '", id, "' is in flight already"));
  }
  return absl::OkStatus();
}

absl::Status WorkerImpl::Take(Request request, const KvDemand& kv) {
  const absl::Time now = clock_->Now();
  Scheduler::Entry entry;
  entry.key = RequestKey{next_key_++};
  entry.priority = request.priority;
  entry.prompt_tokens = static_cast<int64_t>(request.spec.prompt.size());
  entry.kv = kv;
  entry.arrival = request.arrival;
  entry.deadline = std::min(request.deadline, request.arrival + options_.max_request_time);
  const absl::StatusOr<int64_t> position = scheduler_.Enqueue(entry, now);
  if (absl::IsResourceExhausted(position.status())) {
    return ErrorWithReason(position.status().code(), ReasonOf(position.status()),
                           position.status().message(), RetryDelay(now));
  }
  if (!position.ok()) return position.status();

  request.stop.end_tokens = tokenizer_->end_tokens();
  request.stop.max_tokens = request.spec.max_new_tokens;
  request.stop.ignore_end_tokens |= request.spec.ignore_eos;
  request.spec.end_tokens = request.stop.token_ids;
  if (!request.stop.ignore_end_tokens) {
    request.spec.end_tokens.insert(request.spec.end_tokens.end(), request.stop.end_tokens.begin(),
                                   request.stop.end_tokens.end());
  }
  request.stream->SetRoomCallback([this] { Wake(); });
  keys_.emplace(request.id, entry.key);
  auto live = std::make_unique<LiveRequest>(entry.key, std::move(request), tokenizer_);
  live->queue_position = *position;
  live_.emplace(entry.key, std::move(live));
  arrived_.push_back(entry.key);
  WakeLocked();
  return absl::OkStatus();
}

// The time in which the queue's prompts will be computed at the present speed.
absl::Duration WorkerImpl::RetryDelay(absl::Time now) const {
  const double rate = prefill_rate_.PerSecond(now);
  const auto waiting = static_cast<double>(scheduler_.waiting_prompt_tokens());
  const absl::Duration drain = rate > 0 ? absl::Seconds(waiting / rate) : absl::Seconds(1);
  const absl::Duration least = absl::Milliseconds(100);
  return std::clamp(drain, least, std::max(least, options_.scheduler.max_queue_wait));
}

bool WorkerImpl::Cancel(absl::string_view request_id, CancelCause cause) {
  MutexLock lock(&mutex_);
  const auto it = keys_.find(request_id);
  if (it == keys_.end()) return false;
  cancels_.push_back({it->second, cause, clock_->Now()});
  WakeLocked();
  return true;
}

void WorkerImpl::BeginDrain() {
  MutexLock lock(&mutex_);
  draining_ = true;
  WakeLocked();
}

void WorkerImpl::Stop(absl::Duration timeout) {
  BeginDrain();
  {
    // Real time, whatever clock the requests live by: somebody waits for this process to end.
    const SteadyClock clock;
    const absl::Time give_up = clock.Now() + timeout;
    MutexLock lock(&mutex_);
    while (!live_.empty() && !stop_) {
      const absl::Duration left = give_up - clock.Now();
      if (left <= absl::ZeroDuration()) break;
      mutex_.WaitWithTimeout(left);
    }
    stop_ = true;
    WakeLocked();
  }
  MutexLock lock(&join_mutex_);
  if (joined_) return;
  thread_.join();
  joined_ = true;
}

WorkerStats WorkerImpl::stats() const {
  WorkerStats stats;
  stats.engine = engine_->stats();
  MutexLock lock(&mutex_);
  const absl::Time now = clock_->Now();
  stats.running_requests = scheduler_.num_running();
  stats.waiting_requests = scheduler_.num_waiting();
  stats.waiting_prompt_tokens = scheduler_.waiting_prompt_tokens();
  stats.prefill_tokens_per_second = prefill_rate_.PerSecond(now);
  stats.decode_tokens_per_second = decode_rate_.PerSecond(now);
  stats.accepting = fatal_.ok() && !draining_ && !stop_;
  const bool stuck = step_started_.has_value() && now - *step_started_ > options_.stuck_step_time;
  stats.healthy = fatal_.ok() && !stuck;
  return stats;
}

void WorkerImpl::Wake() {
  MutexLock lock(&mutex_);
  WakeLocked();
}

void WorkerImpl::WakeLocked() {
  wake_ = true;
  mutex_.NotifyAll();
}

}  // namespace slim
