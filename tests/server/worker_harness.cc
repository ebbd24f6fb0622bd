#include "tests/server/worker_harness.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/base/check.h"
#include "engine/load/gguf_reader.h"
#include "tests/testing/tiny_model.h"

namespace slim {

void Gate::Pass() {
  MutexLock lock(&mutex_);
  arrived_ = true;
  mutex_.NotifyAll();
  while (!open_) mutex_.Wait();
}

void Gate::Open() {
  MutexLock lock(&mutex_);
  open_ = true;
  mutex_.NotifyAll();
}

void Gate::AwaitArrival() {
  MutexLock lock(&mutex_);
  while (!arrived_) mutex_.Wait();
}

Answer::Answer(size_t capacity, bool reads) : stream_(std::make_shared<TokenStream>(capacity)) {
  if (reads) Read();
}

Answer::~Answer() { stream_->SetReadyCallback(nullptr); }

void Answer::Read() {
  stream_->SetReadyCallback([this] { Drain(); });
  Drain();
}

void Answer::Drain() {
  // One at a time in order: the first call (by the test) and a callback may meet.
  MutexLock lock(&mutex_);
  while (absl::optional<StreamEvent> event = stream_->Pop()) {
    if (absl::holds_alternative<DeltaEvent>(*event)) ++num_deltas_;
    events_.push_back(*std::move(event));
  }
  if (!end_.has_value()) end_ = stream_->Finished();
  mutex_.NotifyAll();
}

absl::Status Answer::Await() {
  MutexLock lock(&mutex_);
  while (!end_.has_value()) mutex_.Wait();
  return *end_;
}

void Answer::AwaitDeltas(int64_t count) {
  MutexLock lock(&mutex_);
  while (num_deltas_ < count && !end_.has_value()) mutex_.Wait();
}

void Answer::AwaitAccepted() {
  MutexLock lock(&mutex_);
  while (events_.empty()) mutex_.Wait();
}

std::string Answer::text() const {
  std::string text;
  for (const StreamEvent& event : events()) {
    if (const auto* delta = absl::get_if<DeltaEvent>(&event)) text += delta->text;
  }
  return text;
}

std::vector<int32_t> Answer::tokens() const {
  std::vector<int32_t> tokens;
  for (const StreamEvent& event : events()) {
    if (const auto* delta = absl::get_if<DeltaEvent>(&event)) {
      tokens.insert(tokens.end(), delta->token_ids.begin(), delta->token_ids.end());
    }
  }
  return tokens;
}

std::vector<StreamEvent> Answer::events() const {
  MutexLock lock(&mutex_);
  return events_;
}

FinishedEvent Answer::finished() const {
  MutexLock lock(&mutex_);
  SLIM_CHECK(!events_.empty() && absl::holds_alternative<FinishedEvent>(events_.back()));
  return absl::get<FinishedEvent>(events_.back());
}

int64_t Answer::num_deltas() const {
  MutexLock lock(&mutex_);
  return num_deltas_;
}

bool Answer::ended() const {
  MutexLock lock(&mutex_);
  return end_.has_value();
}

void CountingObserver::OnRejected(absl::string_view reason) {
  MutexLock lock(&mutex_);
  rejected_.emplace_back(reason);
}
void CountingObserver::OnFirstToken(absl::Duration) {
  MutexLock lock(&mutex_);
  ++first_tokens_;
}
void CountingObserver::OnInterTokenGap(absl::Duration) {
  MutexLock lock(&mutex_);
  ++gaps_;
}
void CountingObserver::OnFinished(const Request&, const FinishedEvent&) {
  MutexLock lock(&mutex_);
  ++finished_;
}
void CountingObserver::OnCancelled(absl::string_view phase, CancelCause cause,
                                   absl::Duration latency) {
  MutexLock lock(&mutex_);
  cancelled_.push_back({std::string(phase), cause, latency});
}
void CountingObserver::OnStep(const StepResult&, absl::Duration) {
  MutexLock lock(&mutex_);
  ++steps_;
}
std::vector<std::string> CountingObserver::rejected() const {
  MutexLock lock(&mutex_);
  return rejected_;
}
std::vector<CountingObserver::Cancelled> CountingObserver::cancelled() const {
  MutexLock lock(&mutex_);
  return cancelled_;
}
int64_t CountingObserver::first_tokens() const {
  MutexLock lock(&mutex_);
  return first_tokens_;
}
int64_t CountingObserver::gaps() const {
  MutexLock lock(&mutex_);
  return gaps_;
}
int64_t CountingObserver::finished() const {
  MutexLock lock(&mutex_);
  return finished_;
}
int64_t CountingObserver::steps() const {
  MutexLock lock(&mutex_);
  return steps_;
}

const Tokenizer& TestTokenizer() {
  static const Tokenizer* const tokenizer = [] {
    auto source = GgufReader::Parse(MakeTinyModel());
    SLIM_CHECK(source.ok());
    auto made = Tokenizer::Create(**source);
    SLIM_CHECK(made.ok());
    return made->release();
  }();
  return *tokenizer;
}

int32_t Recite(absl::string_view text, int64_t index) {
  if (index >= static_cast<int64_t>(text.size())) return kEndToken;
  return ByteToken(text[static_cast<size_t>(index)]);
}

WorkerHarness::WorkerHarness(FakeEngineOptions engine_options, Worker::Options options) {
  auto owned = std::make_unique<FakeEngine>(std::move(engine_options));
  engine = owned.get();
  auto made =
      Worker::Create(std::move(options), std::move(owned), &TestTokenizer(), &clock, &observer);
  SLIM_CHECK(made.ok());
  worker = *std::move(made);
}

std::vector<int32_t> MakePrompt(absl::string_view id, int64_t tokens) {
  std::vector<int32_t> prompt;
  for (const char c : id) prompt.push_back(ByteToken(c));
  prompt.push_back(ByteToken('\n'));
  SLIM_CHECK(static_cast<int64_t>(prompt.size()) <= tokens);
  while (static_cast<int64_t>(prompt.size()) < tokens) {
    prompt.push_back(static_cast<int32_t>(3 + prompt.size() % 200));
  }
  return prompt;
}

bool IsPromptOf(const SequenceSpec& spec, absl::string_view id) {
  const std::vector<int32_t> head = MakePrompt(id, static_cast<int64_t>(id.size()) + 1);
  return spec.prompt.size() >= head.size() &&
         std::equal(head.begin(), head.end(), spec.prompt.begin());
}

Request WorkerHarness::MakeRequest(const std::string& id, const Answer& answer,
                                   int64_t prompt_tokens, int64_t max_new_tokens) const {
  Request request;
  request.id = id;
  request.spec.prompt = MakePrompt(id, prompt_tokens);
  request.spec.max_new_tokens = max_new_tokens;
  request.response.token_ids = true;
  request.arrival = clock.Now();
  request.stream = answer.stream();
  return request;
}

absl::Status WorkerHarness::Submit(const std::string& id, const Answer& answer,
                                   int64_t prompt_tokens, int64_t max_new_tokens) {
  return worker->Submit(MakeRequest(id, answer, prompt_tokens, max_new_tokens));
}

void WorkerHarness::StopAndExpectNothingLeft() {
  worker->Stop(absl::Seconds(60));
  EXPECT_EQ(engine->used_slabs(), 0);
  EXPECT_EQ(engine->num_sequences(), 0);
  const WorkerStats stats = worker->stats();
  EXPECT_EQ(stats.running_requests, 0);
  EXPECT_EQ(stats.waiting_requests, 0);
  EXPECT_EQ(stats.waiting_prompt_tokens, 0);
  EXPECT_FALSE(stats.accepting);
}

}  // namespace slim
