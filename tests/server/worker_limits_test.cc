// Bounds, deadlines, slow readers, drain and failures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/status_reason.h"
#include "tests/server/worker_harness.h"

namespace slim {
namespace {

using ::testing::ElementsAre;

void ExpectError(const absl::Status& status, absl::StatusCode code, absl::string_view why) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_EQ(ReasonOf(status), why) << status;
}

// ---- refusals ----

TEST(WorkerSubmitTest, IdInFlightIsRefusedAndTheFirstGoesOn) {
  Gate gate;
  FakeEngineOptions engine;
  engine.on_step = [&gate](const FakeStep&) { gate.Pass(); };
  WorkerHarness harness(engine);
  Answer first, second;
  ASSERT_TRUE(harness.Submit("a", first).ok());
  ExpectError(harness.Submit("a", second), absl::StatusCode::kAlreadyExists, reason::kDuplicate);
  EXPECT_THAT(harness.observer.rejected(), ElementsAre(reason::kDuplicate));
  gate.Open();
  EXPECT_TRUE(first.Await().ok());
  EXPECT_TRUE(second.events().empty()) << "its stream is left untouched";
  EXPECT_FALSE(second.ended());
}

TEST(WorkerSubmitTest, QueueBoundIsExact) {
  Gate gate;
  FakeEngineOptions engine;
  engine.on_step = [&gate](const FakeStep&) { gate.Pass(); };
  Worker::Options options;
  options.scheduler.max_running = 1;
  options.scheduler.max_queued_requests = 5;
  WorkerHarness harness(engine, options);
  std::vector<std::unique_ptr<Answer>> answers;
  int taken = 0;
  for (int i = 0; i < 60; ++i) {
    answers.push_back(std::make_unique<Answer>());
    const absl::Status status = harness.Submit(absl::StrCat("r", i), *answers.back());
    if (status.ok()) {
      ++taken;
      continue;
    }
    ExpectError(status, absl::StatusCode::kResourceExhausted, reason::kOverload);
    EXPECT_GE(*RetryAfterOf(status), absl::Milliseconds(100));
    EXPECT_LE(*RetryAfterOf(status), absl::Seconds(10));
  }
  EXPECT_EQ(taken, 6) << "one runs, five wait";
  gate.Open();
  for (int i = 0; i < 6; ++i) {
    EXPECT_TRUE(answers[i]->Await().ok());
    const auto accepted = absl::get<AcceptedEvent>(answers[i]->events().at(0));
    EXPECT_EQ(accepted.queue_position, std::max(0, i - 1));
  }
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerSubmitTest, WhatCanNeverBeServedIsRefused) {
  FakeEngineOptions engine;
  engine.capacity_slabs = 8;
  WorkerHarness harness(engine);
  Answer answer;
  ExpectError(harness.Submit("large", answer, 64, 1), absl::StatusCode::kInvalidArgument,
              reason::kExceedsCapacity);
  Request late = harness.MakeRequest("late", answer);
  late.deadline = harness.clock.Now();
  ExpectError(harness.worker->Submit(late), absl::StatusCode::kDeadlineExceeded, reason::kDeadline);
  Request empty = harness.MakeRequest("empty", answer);
  empty.spec.prompt.clear();
  ExpectError(harness.worker->Submit(empty), absl::StatusCode::kInvalidArgument, reason::kBadField);
  Request silent = harness.MakeRequest("silent", answer);
  silent.stream = nullptr;
  ExpectError(harness.worker->Submit(silent), absl::StatusCode::kInternal, reason::kBug);
  EXPECT_TRUE(harness.Submit("fits", answer, 56, 8).ok());
  EXPECT_TRUE(answer.Await().ok());
}

TEST(WorkerSubmitTest, MoreThanTheCacheHoldsIsServedInTurn) {
  FakeEngineOptions engine;
  engine.capacity_slabs = 32;  // two requests at a time
  WorkerHarness harness(engine);
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 20; ++i) {
    answers.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("r", i), *answers.back(), 100, 20).ok());
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(answers[i]->Await().ok());
    EXPECT_EQ(answers[i]->tokens(),
              harness.engine->Expected(MakePrompt(absl::StrCat("r", i), 100), 20));
  }
}

TEST(WorkerSubmitTest, MoreThanTheArenaHoldsAtATimeIsServedInTurn) {
  FakeEngineOptions engine;
  engine.max_layer_slabs_per_step = 9;  // two requests of 4 blocks; a step with three fails
  WorkerHarness harness(engine);
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 12; ++i) {
    answers.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("r", i), *answers.back(), 100, 20).ok());
  }
  for (int i = 0; i < 12; ++i) {
    EXPECT_TRUE(answers[i]->Await().ok());
    EXPECT_EQ(answers[i]->tokens(),
              harness.engine->Expected(MakePrompt(absl::StrCat("r", i), 100), 20));
  }
  Answer large;
  ExpectError(harness.Submit("large", large, 300, 20), absl::StatusCode::kInvalidArgument,
              reason::kExceedsCapacity);
}

TEST(WorkerSubmitTest, EngineWithoutRoomIsAskedAgain) {
  std::atomic<int> refusals{0};
  FakeEngineOptions engine;
  Gate gate;
  engine.on_step = [&gate](const FakeStep&) { gate.Pass(); };
  engine.add_failure = [&](const SequenceSpec& spec) {
    if (IsPromptOf(spec, "second") && refusals++ == 0) {
      return absl::ResourceExhaustedError("not now");
    }
    return absl::OkStatus();
  };
  WorkerHarness harness(engine);
  Answer first, second;
  ASSERT_TRUE(harness.Submit("first", first).ok());
  gate.AwaitArrival();
  ASSERT_TRUE(harness.Submit("second", second).ok());
  gate.Open();
  EXPECT_TRUE(first.Await().ok());
  EXPECT_TRUE(second.Await().ok());
  EXPECT_EQ(refusals.load(), 2);
}

TEST(WorkerSubmitTest, EngineThatRefusesForGoodEndsTheRequestOnly) {
  FakeEngineOptions engine;
  engine.add_failure = [](const SequenceSpec& spec) -> absl::Status {
    if (IsPromptOf(spec, "full")) return absl::ResourceExhaustedError("never");
    if (IsPromptOf(spec, "bad")) return absl::InvalidArgumentError("token id 9 of 5");
    if (IsPromptOf(spec, "broken")) return absl::InternalError("secret detail");
    return absl::OkStatus();
  };
  WorkerHarness harness(engine);
  Answer full, bad, broken, good;
  ASSERT_TRUE(harness.Submit("full", full).ok());
  ExpectError(full.Await(), absl::StatusCode::kResourceExhausted, reason::kOverload);
  ASSERT_TRUE(harness.Submit("bad", bad).ok());
  ExpectError(bad.Await(), absl::StatusCode::kInvalidArgument, reason::kBadField);
  ASSERT_TRUE(harness.Submit("broken", broken).ok());
  ExpectError(broken.Await(), absl::StatusCode::kInternal, reason::kBug);
  EXPECT_FALSE(absl::StrContains(broken.Await().message(), "secret"));
  ASSERT_TRUE(harness.Submit("good", good).ok());
  EXPECT_TRUE(good.Await().ok());
  harness.StopAndExpectNothingLeft();
}

// ---- time ----

TEST(WorkerTimeTest, DeadlineEndsARequestInQueuePrefillAndDecode) {
  ManualClock* clock = nullptr;
  FakeEngineOptions engine;
  Gate gate;
  engine.on_step = [&](const FakeStep& step) {
    gate.Pass();
    if (step.index == 5) clock->Advance(absl::Seconds(5));
  };
  Worker::Options options;
  options.scheduler.max_running = 2;
  WorkerHarness harness(engine, options);
  clock = &harness.clock;
  Answer decode, prefill, queued, patient;
  const absl::Time deadline = harness.clock.Now() + absl::Seconds(5);
  const auto submit = [&](const std::string& id, const Answer& answer, int64_t prompt) {
    Request request = harness.MakeRequest(id, answer, prompt, 500);
    if (id != "patient") request.deadline = deadline;
    return harness.worker->Submit(std::move(request));
  };
  ASSERT_TRUE(submit("decode", decode, 20).ok());
  ASSERT_TRUE(submit("prefill", prefill, 100000).ok());
  ASSERT_TRUE(submit("queued", queued, 20).ok());
  ASSERT_TRUE(submit("patient", patient, 20).ok());
  gate.Open();
  for (Answer* answer : {&decode, &prefill, &queued}) {
    ExpectError(answer->Await(), absl::StatusCode::kDeadlineExceeded, reason::kDeadline);
  }
  EXPECT_GT(decode.num_deltas(), 0);
  EXPECT_EQ(prefill.num_deltas(), 0);
  EXPECT_TRUE(patient.Await().ok());
  std::vector<std::string> phases;
  for (const auto& cancelled : harness.observer.cancelled()) {
    phases.push_back(cancelled.phase);
    EXPECT_EQ(cancelled.cause, CancelCause::kDeadline);
  }
  EXPECT_THAT(phases, ::testing::UnorderedElementsAre("decode", "prefill", "queued"));
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerTimeTest, QueueWaitIsBounded) {
  ManualClock* clock = nullptr;
  FakeEngineOptions engine;
  Gate gate;
  engine.on_step = [&](const FakeStep& step) {
    gate.Pass();
    if (step.index == 3) clock->Advance(absl::Seconds(10));
  };
  Worker::Options options;
  options.scheduler.max_running = 1;
  WorkerHarness harness(engine, options);
  clock = &harness.clock;
  Answer running, queued;
  ASSERT_TRUE(harness.Submit("running", running, 20, 50).ok());
  ASSERT_TRUE(harness.Submit("queued", queued).ok());
  gate.Open();
  const absl::Status status = queued.Await();
  ExpectError(status, absl::StatusCode::kResourceExhausted, reason::kQueueTimeout);
  EXPECT_TRUE(RetryAfterOf(status).has_value());
  EXPECT_TRUE(running.Await().ok());
  EXPECT_THAT(harness.observer.rejected(), ElementsAre(reason::kQueueTimeout));
}

TEST(WorkerTimeTest, RequestTimeIsBounded) {
  ManualClock* clock = nullptr;
  FakeEngineOptions engine;
  engine.on_step = [&](const FakeStep&) { clock->Advance(absl::Seconds(1)); };
  Worker::Options options;
  options.max_request_time = absl::Seconds(30);
  Gate gate;
  engine.step_failure = [&gate](const FakeStep&) {
    gate.Pass();
    return absl::OkStatus();
  };
  WorkerHarness harness(engine, options);
  clock = &harness.clock;
  gate.Open();
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 20, 100000).ok());
  const absl::Status status = answer.Await();
  ExpectError(status, absl::StatusCode::kDeadlineExceeded, reason::kDeadline);
  EXPECT_TRUE(absl::StrContains(status.message(), "30s")) << status;
  EXPECT_EQ(answer.num_deltas(), 30);
}

TEST(WorkerTimeTest, WaitsForTheNearestDeadlineWithoutWork) {
  // A real clock: nothing else happens, the thread itself must wake up.
  const SteadyClock clock;
  CountingObserver observer;
  Worker::Options options;
  options.write_stall_timeout = absl::Milliseconds(20);
  auto worker = Worker::Create(options, std::make_unique<FakeEngine>(FakeEngineOptions()),
                               &TestTokenizer(), &clock, &observer);
  ASSERT_TRUE(worker.ok());
  Answer answer(1, /*reads=*/false);
  Request request;
  request.id = "a";
  request.spec.prompt = MakePrompt("a", 20);
  request.spec.max_new_tokens = 100;
  request.arrival = clock.Now();
  request.stream = answer.stream();
  ASSERT_TRUE((*worker)->Submit(std::move(request)).ok());
  (*worker)->Stop(absl::Seconds(60));
  answer.Read();
  ExpectError(answer.Await(), absl::StatusCode::kResourceExhausted, reason::kSlowConsumer);
}

// ---- slow readers ----

TEST(WorkerSlowReaderTest, OthersGoOnAndItIsEnded) {
  ManualClock* clock = nullptr;
  FakeEngineOptions engine;
  engine.on_step = [&](const FakeStep&) { clock->Advance(absl::Milliseconds(100)); };
  Gate gate;
  engine.step_failure = [&gate](const FakeStep&) {
    gate.Pass();
    return absl::OkStatus();
  };
  WorkerHarness harness(engine);
  clock = &harness.clock;
  Answer slow(10, /*reads=*/false);
  Answer quick;
  ASSERT_TRUE(harness.Submit("slow", slow, 20, 1000).ok());
  ASSERT_TRUE(harness.Submit("quick", quick, 20, 1000).ok());
  gate.Open();
  EXPECT_TRUE(quick.Await().ok());
  EXPECT_EQ(quick.tokens(), harness.engine->Expected(MakePrompt("quick", 20), 1000));
  slow.Read();
  ExpectError(slow.Await(), absl::StatusCode::kResourceExhausted, reason::kSlowConsumer);
  EXPECT_LE(slow.events().size(), 11u) << "what is buffered is bounded";
  ASSERT_EQ(harness.observer.cancelled().size(), 1u);
  EXPECT_EQ(harness.observer.cancelled()[0].cause, CancelCause::kSlowConsumer);
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerSlowReaderTest, ReaderThatComesBackLosesNothing) {
  WorkerHarness harness;
  Answer slow(5, /*reads=*/false);
  ASSERT_TRUE(harness.Submit("slow", slow, 20, 300).ok());
  Answer other;
  ASSERT_TRUE(harness.Submit("other", other, 20, 50).ok());
  ASSERT_TRUE(other.Await().ok());
  slow.Read();
  EXPECT_TRUE(slow.Await().ok());
  EXPECT_EQ(slow.tokens(), harness.engine->Expected(MakePrompt("slow", 20), 300));
}

TEST(WorkerSlowReaderTest, CancelReachesAStalledStream) {
  WorkerHarness harness;
  Answer slow(3, /*reads=*/false);
  ASSERT_TRUE(harness.Submit("slow", slow, 20, 300).ok());
  Answer other;
  ASSERT_TRUE(harness.Submit("other", other, 20, 50).ok());
  ASSERT_TRUE(other.Await().ok());
  EXPECT_TRUE(harness.worker->Cancel("slow", CancelCause::kClient));
  slow.Read();
  EXPECT_EQ(slow.Await().code(), absl::StatusCode::kCancelled);
  harness.StopAndExpectNothingLeft();
}

// ---- drain ----

TEST(WorkerDrainTest, RunningOnesFinishQueuedOnesEndNewOnesAreRefused) {
  Gate gate;
  FakeEngineOptions engine;
  engine.on_step = [&gate](const FakeStep&) { gate.Pass(); };
  Worker::Options options;
  options.scheduler.max_running = 8;
  WorkerHarness harness(engine, options);
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 10; ++i) {
    answers.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("r", i), *answers.back(), 20, 40).ok());
  }
  gate.AwaitArrival();
  harness.worker->BeginDrain();
  Answer late;
  const absl::Status refused = harness.Submit("late", late);
  ExpectError(refused, absl::StatusCode::kUnavailable, reason::kShuttingDown);
  EXPECT_TRUE(RetryAfterOf(refused).has_value());
  EXPECT_FALSE(harness.worker->stats().accepting);
  gate.Open();
  harness.StopAndExpectNothingLeft();
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(answers[i]->Await().ok()) << i;
  for (int i = 8; i < 10; ++i) {
    ExpectError(answers[i]->Await(), absl::StatusCode::kUnavailable, reason::kShuttingDown);
  }
}

// A stream that nobody reads never comes to its end by itself (the clock stands still).
TEST(WorkerDrainTest, TimeoutEndsWhatIsLeft) {
  WorkerHarness harness;
  Answer endless(4, /*reads=*/false);
  ASSERT_TRUE(harness.Submit("endless", endless, 20, 1000).ok());
  harness.worker->Stop(absl::Milliseconds(20));
  endless.Read();
  ExpectError(endless.Await(), absl::StatusCode::kUnavailable, reason::kShuttingDown);
  EXPECT_EQ(harness.engine->used_slabs(), 0);
  ASSERT_EQ(harness.observer.cancelled().size(), 1u);
  EXPECT_EQ(harness.observer.cancelled()[0].cause, CancelCause::kShutdown);
  harness.worker->Stop(absl::ZeroDuration());
}

TEST(WorkerDrainTest, ASecondStopCutsTheFirstShort) {
  WorkerHarness harness;
  Answer endless(4, /*reads=*/false);
  ASSERT_TRUE(harness.Submit("endless", endless, 20, 1000).ok());
  std::thread first([&] { harness.worker->Stop(absl::Hours(1)); });
  harness.worker->Stop(absl::ZeroDuration());
  first.join();
  endless.Read();
  ExpectError(endless.Await(), absl::StatusCode::kUnavailable, reason::kShuttingDown);
}

TEST(WorkerDrainTest, DestructionEndsWhatRuns) {
  Answer stalled(1, /*reads=*/false);
  {
    WorkerHarness harness;
    ASSERT_TRUE(harness.Submit("stalled", stalled, 20, 1000).ok());
  }
  stalled.Read();  // its callback must not reach the worker that is gone
  EXPECT_EQ(stalled.Await().code(), absl::StatusCode::kUnavailable);
}

// ---- failures ----

TEST(WorkerFailureTest, NanOfOneSequenceEndsThatOneOnly) {
  FakeEngineOptions engine;
  engine.sequence_failure = [](const FakeStepRow& row) -> absl::Status {
    if (IsPromptOf(*row.spec, "r3") && row.generated == 5) {
      return absl::InternalError("logit 17 is NaN");
    }
    if (IsPromptOf(*row.spec, "r5") && row.computed_rows >= 256) {
      return absl::AbortedError("copy of slab 4 failed");
    }
    return absl::OkStatus();
  };
  WorkerHarness harness(engine);
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 8; ++i) {
    answers.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("r", i), *answers.back(), 600, 30).ok());
  }
  for (int i = 0; i < 8; ++i) {
    const absl::Status status = answers[i]->Await();
    if (i == 3) {
      ExpectError(status, absl::StatusCode::kInternal, reason::kNumeric);
      EXPECT_EQ(answers[i]->num_deltas(), 5);
      EXPECT_FALSE(absl::StrContains(status.message(), "17")) << "no internal detail";
    } else if (i == 5) {
      ExpectError(status, absl::StatusCode::kAborted, reason::kKvTransfer);
    } else {
      EXPECT_TRUE(status.ok());
      EXPECT_EQ(answers[i]->tokens(),
                harness.engine->Expected(MakePrompt(absl::StrCat("r", i), 600), 30));
    }
  }
  EXPECT_TRUE(harness.worker->stats().healthy);
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerFailureTest, FatalStepEndsEverythingOnceAndForAll) {
  std::atomic<int> fatal_calls{0};
  FakeEngineOptions engine;
  engine.step_failure = [](const FakeStep& step) {
    return step.index == 6 ? absl::InternalError("device lost") : absl::OkStatus();
  };
  Worker::Options options;
  options.scheduler.max_running = 3;
  options.on_fatal = [&](const absl::Status& status) {
    ++fatal_calls;
    EXPECT_EQ(status.message(), "device lost");
  };
  Gate gate;
  engine.on_step = [&gate](const FakeStep&) { gate.Pass(); };
  WorkerHarness harness(engine, options);
  std::vector<std::unique_ptr<Answer>> answers;
  for (int i = 0; i < 5; ++i) {
    answers.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("r", i), *answers.back(), 600, 30).ok());
  }
  gate.Open();
  for (const auto& answer : answers) {
    ExpectError(answer->Await(), absl::StatusCode::kUnavailable, reason::kBackendFatal);
  }
  EXPECT_FALSE(harness.worker->stats().healthy);
  EXPECT_FALSE(harness.worker->stats().accepting);
  Answer late;
  ExpectError(harness.Submit("late", late), absl::StatusCode::kUnavailable, reason::kBackendFatal);
  harness.StopAndExpectNothingLeft();
  EXPECT_EQ(fatal_calls.load(), 1);
  EXPECT_EQ(harness.engine->num_steps(), 7);
}

}  // namespace
}  // namespace slim
