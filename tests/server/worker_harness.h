// What the worker's tests share: a worker over a fake engine with a manual clock, readers that
// collect an answer, gates that hold a step. Waiting is by condition; nothing sleeps.
#ifndef TESTS_SERVER_WORKER_HARNESS_H_
#define TESTS_SERVER_WORKER_HARNESS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "engine/base/mutex.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/token_stream.h"
#include "server/worker.h"
#include "tests/testing/fake_engine.h"

namespace slim {

// Holds whoever passes until it is opened. Thread-safe.
class Gate {
 public:
  void Pass();
  void Open();
  // Waits until somebody is held (or has passed).
  void AwaitArrival();

 private:
  Mutex mutex_;
  bool arrived_ ABSL_GUARDED_BY(mutex_) = false;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

// Takes a stream's events as they come, on the thread that pushes them. Thread-safe.
class Answer {
 public:
  // `reads` false: takes nothing until Read() (a client that does not read).
  explicit Answer(size_t capacity = 256, bool reads = true);
  ~Answer();

  std::shared_ptr<TokenStream> stream() const { return stream_; }
  // Starts reading.
  void Read();
  // Waits for the end; returns the terminal status.
  absl::Status Await();
  // Waits until so many Delta events came, or the end.
  void AwaitDeltas(int64_t count);
  void AwaitAccepted();

  // After Await.
  std::string text() const;
  std::vector<int32_t> tokens() const;
  std::vector<StreamEvent> events() const;
  // The last event; aborts where it is no Finished.
  FinishedEvent finished() const;
  int64_t num_deltas() const;
  bool ended() const;

 private:
  void Drain();

  const std::shared_ptr<TokenStream> stream_;
  mutable Mutex mutex_;
  std::vector<StreamEvent> events_ ABSL_GUARDED_BY(mutex_);
  int64_t num_deltas_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
};

// Counts what the worker reports. Thread-safe.
class CountingObserver final : public WorkerObserver {
 public:
  struct Cancelled {
    std::string phase;
    CancelCause cause;
    absl::Duration latency;
  };
  void OnRejected(absl::string_view reason) override;
  void OnFirstToken(absl::Duration) override;
  void OnInterTokenGap(absl::Duration) override;
  void OnFinished(const Request&, const FinishedEvent&) override;
  void OnCancelled(absl::string_view phase, CancelCause cause, absl::Duration latency) override;
  void OnStep(const StepResult&, absl::Duration) override;

  std::vector<std::string> rejected() const;
  std::vector<Cancelled> cancelled() const;
  int64_t first_tokens() const;
  int64_t gaps() const;
  int64_t finished() const;
  int64_t steps() const;

 private:
  mutable Mutex mutex_;
  std::vector<std::string> rejected_ ABSL_GUARDED_BY(mutex_);
  std::vector<Cancelled> cancelled_ ABSL_GUARDED_BY(mutex_);
  int64_t first_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t gaps_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t steps_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The tokenizer of the tiny test vocabulary: token 3 + b is the byte b, 2 ends a generation.
const Tokenizer& TestTokenizer();
inline constexpr int32_t kEndToken = 2;
inline int32_t ByteToken(char c) { return 3 + static_cast<unsigned char>(c); }
// Emits the bytes of `text`, then end tokens.
int32_t Recite(absl::string_view text, int64_t index);

struct WorkerHarness {
  explicit WorkerHarness(FakeEngineOptions engine_options = {}, Worker::Options options = {});

  // A request with a prompt of `prompt_tokens` tokens, made of its id.
  Request MakeRequest(const std::string& id, const Answer& answer, int64_t prompt_tokens = 20,
                      int64_t max_new_tokens = 8) const;
  absl::Status Submit(const std::string& id, const Answer& answer, int64_t prompt_tokens = 20,
                      int64_t max_new_tokens = 8);
  // Joins the thread; then everything must have been given back.
  void StopAndExpectNothingLeft();

  ManualClock clock;
  CountingObserver observer;
  FakeEngine* engine = nullptr;  // owned by the worker
  std::unique_ptr<Worker> worker;
};

std::vector<int32_t> MakePrompt(absl::string_view id, int64_t tokens);
// Whose request a row is (by its prompt).
bool IsPromptOf(const SequenceSpec& spec, absl::string_view id);

}  // namespace slim

#endif  // TESTS_SERVER_WORKER_HARNESS_H_
