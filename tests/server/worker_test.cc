#include "server/worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/status_reason.h"
#include "tests/server/worker_harness.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(WorkerTest, AnswersWithAcceptedDeltasFinishedAndOk) {
  WorkerHarness harness;
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 20, 8).ok());
  EXPECT_TRUE(answer.Await().ok());
  const std::vector<StreamEvent> events = answer.events();
  ASSERT_EQ(events.size(), 10u);
  const auto& accepted = absl::get<AcceptedEvent>(events[0]);
  EXPECT_EQ(accepted.request_id, "a");
  EXPECT_EQ(accepted.prompt_tokens, 20);
  EXPECT_EQ(accepted.queue_position, 0);
  EXPECT_EQ(answer.tokens(), harness.engine->Expected(MakePrompt("a", 20), 8));
  EXPECT_EQ(answer.finished().reason, FinishReason::kLength);
  EXPECT_EQ(answer.finished().completion_tokens, 8);
  EXPECT_EQ(answer.finished().report.prompt_tokens, 20);
  EXPECT_EQ(harness.observer.first_tokens(), 1);
  EXPECT_EQ(harness.observer.gaps(), 7);
  EXPECT_EQ(harness.observer.finished(), 1);
  EXPECT_EQ(harness.observer.steps(), 8);
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerTest, EverythingIsFreeWhenTheClientSeesTheEnd) {
  WorkerHarness harness;
  for (int i = 0; i < 20; ++i) {
    Answer answer;
    ASSERT_TRUE(harness.Submit("same id every time", answer).ok());
    ASSERT_TRUE(answer.Await().ok());
    EXPECT_EQ(harness.engine->used_slabs(), 0);
    EXPECT_EQ(harness.worker->stats().running_requests, 0);
    EXPECT_EQ(harness.observer.finished(), i + 1);
  }
}

TEST(WorkerTest, TimingAddsUp) {
  ManualClock* clock = nullptr;
  FakeEngineOptions engine;
  engine.on_step = [&clock](const FakeStep& step) {
    clock->Advance(step.rows[0].decode ? absl::Seconds(1) : absl::Seconds(10));
  };
  Gate gate;
  engine.step_failure = [&gate](const FakeStep&) {
    gate.Pass();
    return absl::OkStatus();
  };
  WorkerHarness harness(engine);
  clock = &harness.clock;
  gate.Open();
  Answer answer;
  Request request = harness.MakeRequest("a", answer, 300, 4);  // two units of prefill
  request.arrival = harness.clock.Now() - absl::Seconds(3);
  ASSERT_TRUE(harness.worker->Submit(std::move(request)).ok());
  ASSERT_TRUE(answer.Await().ok());
  const FinishedEvent event = answer.finished();
  EXPECT_EQ(event.queue_time, absl::Seconds(3));
  EXPECT_EQ(event.prefill_time, absl::Seconds(20));
  EXPECT_EQ(event.time_to_first_token, absl::Seconds(23));
  EXPECT_EQ(event.decode_time, absl::Seconds(3));
}

TEST(WorkerTest, ProgressIsReportedWhereAskedForAndReachesTheEnd) {
  WorkerHarness harness;
  Answer silent, talkative;
  ASSERT_TRUE(harness.Submit("silent", silent, 1000).ok());
  Request request = harness.MakeRequest("talkative", talkative, 1000);
  request.response.progress = true;
  ASSERT_TRUE(harness.worker->Submit(std::move(request)).ok());
  ASSERT_TRUE(silent.Await().ok());
  ASSERT_TRUE(talkative.Await().ok());
  std::vector<int64_t> done;
  for (const StreamEvent& event : talkative.events()) {
    if (const auto* progress = absl::get_if<ProgressEvent>(&event)) {
      done.push_back(progress->progress.done_tokens);
      EXPECT_EQ(progress->progress.total_tokens, 1000);
    }
  }
  EXPECT_THAT(done, ElementsAre(256, 512, 768, 1000));
  for (const StreamEvent& event : silent.events()) {
    EXPECT_FALSE(absl::holds_alternative<ProgressEvent>(event));
  }
}

TEST(WorkerTest, EndTokenStopsAndIsNotShown) {
  FakeEngineOptions engine;
  engine.next_token = [](const SequenceSpec&, int64_t i, uint64_t) { return Recite("Hello", i); };
  WorkerHarness harness(engine);
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 20, 100).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_EQ(answer.text(), "Hello");
  EXPECT_EQ(answer.tokens().size(), 5u);
  EXPECT_EQ(answer.finished().reason, FinishReason::kStop);
  EXPECT_EQ(answer.finished().completion_tokens, 6);
}

TEST(WorkerTest, IgnoreEosGoesOnToTheLength) {
  FakeEngineOptions engine;
  std::vector<int32_t> end_tokens = {-1};
  engine.next_token = [&](const SequenceSpec& spec, int64_t i, uint64_t) {
    end_tokens = spec.end_tokens;
    return Recite("Hello", i);
  };
  WorkerHarness harness(engine);
  Answer answer;
  Request request = harness.MakeRequest("a", answer, 20, 9);
  request.stop.ignore_end_tokens = true;
  ASSERT_TRUE(harness.worker->Submit(std::move(request)).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_EQ(answer.text(), "Hello");
  EXPECT_EQ(answer.finished().completion_tokens, 9);
  EXPECT_EQ(answer.finished().reason, FinishReason::kLength);
  EXPECT_THAT(end_tokens, IsEmpty()) << "the engine must not hold them back either";
}

TEST(WorkerTest, TheEngineLearnsWhichTokensEndAGeneration) {
  FakeEngineOptions engine;
  std::vector<int32_t> end_tokens;
  engine.next_token = [&](const SequenceSpec& spec, int64_t, uint64_t) {
    end_tokens = spec.end_tokens;
    return ByteToken('x');
  };
  WorkerHarness harness(engine);
  Answer answer;
  Request request = harness.MakeRequest("a", answer, 20, 1);
  request.stop.token_ids = {77};
  ASSERT_TRUE(harness.worker->Submit(std::move(request)).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_THAT(end_tokens, ::testing::Contains(77));
  EXPECT_THAT(end_tokens, ::testing::Contains(kEndToken));
}

TEST(WorkerTest, StopStringAcrossTokensEndsTheWork) {
  FakeEngineOptions engine;
  engine.next_token = [](const SequenceSpec&, int64_t i, uint64_t) {
    return Recite("one STO two STOP three", i);
  };
  WorkerHarness harness(engine);
  Answer answer;
  Request request = harness.MakeRequest("a", answer, 20, 1000);
  request.stop.strings = {"STOP"};
  ASSERT_TRUE(harness.worker->Submit(std::move(request)).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_EQ(answer.text(), "one STO two ");
  EXPECT_EQ(answer.finished().stop_match, "STOP");
  EXPECT_EQ(answer.finished().completion_tokens, 16);
  EXPECT_EQ(harness.engine->num_steps(), 16);
}

TEST(WorkerTest, ConcurrentStreamsEqualTheirSoloRuns) {
  FakeEngineOptions engine;
  engine.segments = {{3, 1}, {1, 2}};
  WorkerHarness harness(engine);
  constexpr int kStreams = 64;
  std::vector<std::unique_ptr<Answer>> answers;
  std::vector<int64_t> lengths;
  for (int i = 0; i < kStreams; ++i) {
    answers.push_back(std::make_unique<Answer>());
    lengths.push_back(10 + (i * 37) % 900);
    ASSERT_TRUE(harness.Submit(absl::StrCat("s", i), *answers.back(), lengths.back(), 32).ok());
  }
  for (int i = 0; i < kStreams; ++i) {
    ASSERT_TRUE(answers[i]->Await().ok());
    const std::vector<int32_t> prompt = MakePrompt(absl::StrCat("s", i), lengths[i]);
    EXPECT_EQ(answers[i]->tokens(), harness.engine->Expected(prompt, 32)) << i;
  }
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerTest, ShortRequestOvertakesALongPromptAndStreamsKeepMoving) {
  // Cost per step instead of time: the clock advances by it.
  ManualClock* clock = nullptr;
  Worker* worker = nullptr;
  WorkerHarness* shared = nullptr;
  Answer running, longest, shorter;
  double most_cost = 0;
  bool submitted = false;
  FakeEngineOptions engine;
  engine.attention_rows = 3000;
  engine.on_step = [&](const FakeStep& step) {
    double cost = 0;
    for (const FakeStepRow& row : step.rows) {
      cost += row.cost;
      // In the middle of the long prompt, in the middle of a unit, the short request comes.
      if (IsPromptOf(*row.spec, "long") && row.computed_rows > 4000 && !submitted) {
        submitted = true;
        EXPECT_TRUE(worker->Submit(shared->MakeRequest("short", shorter, 30, 4)).ok());
      }
    }
    most_cost = std::max(most_cost, cost);
    clock->Advance(absl::Microseconds(cost));
  };
  WorkerHarness harness(engine);
  clock = &harness.clock;
  worker = harness.worker.get();
  shared = &harness;
  Request stream = harness.MakeRequest("running", running, 20, 60);
  ASSERT_TRUE(harness.worker->Submit(harness.MakeRequest("long", longest, 8000, 1)).ok());
  ASSERT_TRUE(harness.worker->Submit(std::move(stream)).ok());
  ASSERT_TRUE(shorter.Await().ok());
  ASSERT_TRUE(longest.Await().ok());
  ASSERT_TRUE(running.Await().ok());
  const absl::Duration unit = absl::Microseconds(256 * 4);
  EXPECT_LE(most_cost, 256 * 4) << "units cost the same all along the prompt";
  const absl::Duration alone = absl::Microseconds(30 * 4);
  EXPECT_LE(shorter.finished().time_to_first_token, 3 * alone + unit);
  // The stream of 60 tokens was served in between: one token per unit of the long one.
  EXPECT_LE(running.finished().decode_time, 60 * (unit + 3 * alone));
  EXPECT_LT(running.finished().decode_time, longest.finished().prefill_time + 60 * alone);
}

TEST(WorkerTest, LogprobsComeWithTheirTokens) {
  FakeEngineOptions engine;
  engine.next_token = [](const SequenceSpec&, int64_t i, uint64_t) { return Recite("abcENx", i); };
  WorkerHarness harness(engine);
  Answer answer;
  Request request = harness.MakeRequest("a", answer, 20, 100);
  request.spec.top_logprobs = 2;
  request.stop.strings = {"END"};
  ASSERT_TRUE(harness.worker->Submit(std::move(request)).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_EQ(answer.text(), "abcENx");
  size_t shown = 0;
  for (const StreamEvent& event : answer.events()) {
    const auto* delta = absl::get_if<DeltaEvent>(&event);
    if (delta == nullptr) continue;
    ASSERT_EQ(delta->token_ids.size(), delta->logprobs.size());
    EXPECT_EQ(delta->text.size(), delta->token_ids.size()) << "a byte is a token here";
    for (size_t i = 0; i < delta->token_ids.size(); ++i) {
      EXPECT_EQ(delta->logprobs[i].token, delta->token_ids[i]);
      EXPECT_EQ(delta->logprobs[i].top.size(), 2u);
      ++shown;
    }
  }
  EXPECT_EQ(shown, 6u);
}

TEST(WorkerTest, SequencesOfAPrunedPlanRunThroughTheirSegments) {
  FakeEngineOptions engine;
  engine.segments = {{2, 1}, {1, 2}, {1, 4}};
  WorkerHarness harness(engine);
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 1000, 5).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_EQ(answer.tokens(), harness.engine->Expected(MakePrompt("a", 1000), 5));
}

TEST(WorkerTest, StatsCountWaitingAndRunning) {
  Gate gate;
  FakeEngineOptions engine;
  engine.on_step = [&gate](const FakeStep&) { gate.Pass(); };
  Worker::Options options;
  options.scheduler.max_running = 1;
  WorkerHarness harness(engine, options);
  EXPECT_TRUE(harness.worker->stats().accepting);
  EXPECT_TRUE(harness.worker->stats().healthy);
  Answer first, second;
  ASSERT_TRUE(harness.Submit("1", first).ok());
  ASSERT_TRUE(harness.Submit("2", second, 33).ok());
  gate.AwaitArrival();
  WorkerStats stats = harness.worker->stats();
  EXPECT_EQ(stats.running_requests, 1);
  EXPECT_EQ(stats.waiting_requests, 1);
  EXPECT_EQ(stats.waiting_prompt_tokens, 33);
  EXPECT_GT(stats.engine.kv.device.used_slabs, 0);
  harness.clock.Advance(absl::Seconds(11));
  EXPECT_FALSE(harness.worker->stats().healthy) << "the step does not come to an end";
  gate.Open();
  ASSERT_TRUE(first.Await().ok());
  stats = harness.worker->stats();
  EXPECT_TRUE(stats.healthy);
  EXPECT_GT(stats.prefill_tokens_per_second, 0);
}

TEST(WorkerTest, BadOptionsAreRefused) {
  const ManualClock clock;
  WorkerObserver observer;
  const auto create = [&](const Worker::Options& options) {
    return Worker::Create(options, std::make_unique<FakeEngine>(FakeEngineOptions()),
                          &TestTokenizer(), &clock, &observer)
        .status();
  };
  Worker::Options options;
  EXPECT_TRUE(create(options).ok());
  options.scheduler.max_running = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(create(options)));
  options = {};
  options.write_stall_timeout = absl::ZeroDuration();
  EXPECT_TRUE(absl::IsInvalidArgument(create(options)));
}

}  // namespace
}  // namespace slim
