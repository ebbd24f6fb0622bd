// A Worker without thread, scheduler or model: tests see what was submitted and push the events
// themselves. An Engine stands behind it for its facts only. Thread-safe.
#ifndef TESTS_SERVER_SCRIPTED_WORKER_H_
#define TESTS_SERVER_SCRIPTED_WORKER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/prompt_codec.h"
#include "server/status_reason.h"
#include "server/token_stream.h"
#include "server/worker.h"

namespace slim {

// Facts of a small model; computes nothing.
class FactsEngine final : public Engine {
 public:
  FactsEngine() {
    config_.architecture = "llama";
    config_.num_layers = 12;
    config_.width = 64;
    config_.num_heads = 4;
    config_.num_kv_heads = 2;
    config_.head_dim = 16;
    config_.ffn_width = 128;
    config_.vocab_size = 300;
    config_.context_tokens = 4096;
    backend_ = {"cpu", "test processor", "none", 1, KvType::kBF16};
  }
  const ModelConfig& model_config() const override { return config_; }
  const BackendInfo& backend_info() const override { return backend_; }
  const TensorSource& source() const override { std::abort(); }
  int block_tokens() const override { return 32; }
  int64_t weight_bytes() const override { return 12345; }
  int64_t capacity_slabs() const override { return 1200; }
  int64_t max_layer_slabs_per_step() const override { return 300; }
  KvDemand KvNeeded(const SequenceSpec&) const override { return {12, 3}; }
  std::vector<SegmentPlan> Plan(const PruneSchedule&, int64_t) const override { return {}; }
  EngineStats stats() const override { return {}; }
  absl::StatusOr<SequenceId> Add(SequenceSpec) override { return absl::InternalError("unused"); }
  void Remove(SequenceId) override {}
  PrefillWork NextPrefill(SequenceId) const override { return {}; }
  SequenceReport Report(SequenceId) const override { return {}; }
  absl::StatusOr<StepResult> Step(const StepPlan&) override { return StepResult(); }
  absl::Status CopyLastLogits(SequenceId, absl::Span<float>) override {
    return absl::NotFoundError("unused");
  }
  void ForceToken(SequenceId, int32_t) override {}

 private:
  ModelConfig config_;
  BackendInfo backend_;
};

class ScriptedWorker final : public Worker {
 public:
  // Called on the submitting thread after the request was taken and Accepted was pushed.
  using OnSubmit = std::function<void(const Request& request)>;

  void set_on_submit(OnSubmit on_submit) {
    absl::MutexLock lock(&mutex_);
    on_submit_ = std::move(on_submit);
  }
  void set_submit_status(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    submit_status_ = std::move(status);
  }
  void set_stats(WorkerStats stats) {
    absl::MutexLock lock(&mutex_);
    stats_ = std::move(stats);
  }

  absl::Status Submit(Request request) override {
    OnSubmit on_submit;
    {
      absl::MutexLock lock(&mutex_);
      ++submitted_;
      if (!submit_status_.ok()) return submit_status_;
      in_flight_[request.id] = request.stream;
      on_submit = on_submit_;
    }
    AcceptedEvent accepted;
    accepted.request_id = request.id;
    accepted.prompt_tokens = static_cast<int64_t>(request.spec.prompt.size());
    request.stream->Push(accepted);
    if (on_submit) on_submit(request);
    return absl::OkStatus();
  }

  bool Cancel(absl::string_view request_id, CancelCause cause) override {
    std::shared_ptr<TokenStream> stream;
    {
      absl::MutexLock lock(&mutex_);
      const auto entry = in_flight_.find(std::string(request_id));
      if (entry == in_flight_.end()) return false;
      stream = entry->second;
      in_flight_.erase(entry);
      cancelled_.emplace_back(std::string(request_id), cause);
    }
    stream->Close(ErrorWithReason(absl::StatusCode::kCancelled, reason::kCancelled, "cancelled"));
    return true;
  }

  // Pushes a Delta of `text` to a request in flight.
  static void Say(TokenStream* stream, std::string text, std::vector<int32_t> tokens = {}) {
    DeltaEvent delta;
    delta.text = std::move(text);
    delta.token_ids = std::move(tokens);
    stream->Push(std::move(delta));
  }
  // Pushes Finished and ends the stream.
  void Complete(const std::string& id, TokenStream* stream, int64_t tokens) {
    FinishedEvent finished;
    finished.reason = FinishReason::kStop;
    finished.completion_tokens = tokens;
    finished.report.prompt_tokens = 3;
    stream->Push(std::move(finished));
    Close(id, stream, absl::OkStatus());
  }
  void Close(const std::string& id, TokenStream* stream, const absl::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      in_flight_.erase(id);
    }
    stream->Close(status);
  }

  void BeginDrain() override {
    set_submit_status(ErrorWithReason(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                                      "shutting down", absl::Seconds(1)));
  }
  void Stop(absl::Duration) override {
    std::map<std::string, std::shared_ptr<TokenStream>> left;
    {
      absl::MutexLock lock(&mutex_);
      left.swap(in_flight_);
    }
    for (const auto& [id, stream] : left) {
      stream->Close(
          ErrorWithReason(absl::StatusCode::kUnavailable, reason::kShuttingDown, "stopped"));
    }
  }
  WorkerStats stats() const override {
    absl::MutexLock lock(&mutex_);
    return stats_;
  }
  const Engine& engine() const override { return engine_; }

  int submitted() const {
    absl::MutexLock lock(&mutex_);
    return submitted_;
  }
  std::vector<std::pair<std::string, CancelCause>> cancelled() const {
    absl::MutexLock lock(&mutex_);
    return cancelled_;
  }
  // Waits until so many requests were cancelled.
  bool AwaitCancelled(size_t count) const {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return cancelled_.size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20));
  }
  bool AwaitSubmitted(int count) const {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&]()
                             ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return submitted_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(20));
  }

 private:
  const FactsEngine engine_;
  mutable absl::Mutex mutex_;
  OnSubmit on_submit_ ABSL_GUARDED_BY(mutex_);
  absl::Status submit_status_ ABSL_GUARDED_BY(mutex_);
  WorkerStats stats_ ABSL_GUARDED_BY(mutex_);
  int submitted_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::shared_ptr<TokenStream>> in_flight_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, CancelCause>> cancelled_ ABSL_GUARDED_BY(mutex_);
};

// Every byte is a token; chat is "role: content" lines.
class ByteCodec final : public PromptCodec {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              absl::optional<bool> add_bos) const override {
    std::vector<int32_t> tokens;
    if (add_bos.value_or(false)) tokens.push_back(256);
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      absl::Span<const ChatMessage> messages) const override {
    std::vector<int32_t> tokens;
    for (const ChatMessage& message : messages) {
      const absl::StatusOr<std::vector<int32_t>> line =
          Encode(message.role + ": " + message.content + "\n", {});
      if (!line.ok()) return line.status();
      tokens.insert(tokens.end(), line->begin(), line->end());
    }
    return tokens;
  }
  std::string Decode(absl::Span<const int32_t> tokens) const override {
    std::string text;
    for (const int32_t token : tokens) {
      if (token < 128) text.push_back(static_cast<char>(token));
    }
    return text;
  }
  std::string TokenBytes(int32_t token) const override {
    return std::string(1, static_cast<char>(token));
  }
};

}  // namespace slim

#endif  // TESTS_SERVER_SCRIPTED_WORKER_H_
