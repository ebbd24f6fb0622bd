// Cancelling, at every point of a request's life, and that it touches nobody else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/status_reason.h"
#include "tests/server/worker_harness.h"

namespace slim {
namespace {

TEST(WorkerCancelTest, UnknownRequestIsNotFound) {
  WorkerHarness harness;
  EXPECT_FALSE(harness.worker->Cancel("nobody", CancelCause::kClient));
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer).ok());
  ASSERT_TRUE(answer.Await().ok());
  EXPECT_FALSE(harness.worker->Cancel("a", CancelCause::kClient)) << "it is over";
}

TEST(WorkerCancelTest, QueuedRequestEndsWithoutAnyWork) {
  Gate gate;
  std::atomic<int> rows_of_queued{0};
  FakeEngineOptions engine;
  engine.on_step = [&](const FakeStep& step) {
    for (const FakeStepRow& row : step.rows) rows_of_queued += IsPromptOf(*row.spec, "queued");
    gate.Pass();
  };
  Worker::Options options;
  options.scheduler.max_running = 1;
  WorkerHarness harness(engine, options);
  Answer running, queued;
  ASSERT_TRUE(harness.Submit("running", running, 20, 30).ok());
  ASSERT_TRUE(harness.Submit("queued", queued).ok());
  gate.AwaitArrival();
  EXPECT_TRUE(harness.worker->Cancel("queued", CancelCause::kClient));
  gate.Open();
  const absl::Status status = queued.Await();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ReasonOf(status), reason::kCancelled);
  EXPECT_TRUE(absl::holds_alternative<AcceptedEvent>(queued.events().at(0)));
  EXPECT_EQ(rows_of_queued.load(), 0);
  ASSERT_EQ(harness.observer.cancelled().size(), 1u);
  EXPECT_EQ(harness.observer.cancelled()[0].phase, "queued");
  EXPECT_TRUE(running.Await().ok());
  EXPECT_EQ(running.tokens(), harness.engine->Expected(MakePrompt("running", 20), 30));
  EXPECT_EQ(harness.engine->num_added(), 1);
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerCancelTest, PrefillStopsWithinTheUnit) {
  Worker* worker = nullptr;
  std::atomic<int> steps_after{-1};
  FakeEngineOptions engine;
  engine.on_step = [&](const FakeStep& step) {
    if (steps_after.load() >= 0) ++steps_after;
    if (step.index == 3) {
      EXPECT_TRUE(worker->Cancel("a", CancelCause::kAbort));
      steps_after = 0;
    }
  };
  WorkerHarness harness(engine);
  worker = harness.worker.get();
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 100000).ok());
  EXPECT_EQ(answer.Await().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(harness.engine->used_slabs(), 0) << "back before the client knows";
  EXPECT_EQ(steps_after.load(), 0);
  ASSERT_EQ(harness.observer.cancelled().size(), 1u);
  EXPECT_EQ(harness.observer.cancelled()[0].phase, "prefill");
  EXPECT_EQ(harness.observer.cancelled()[0].cause, CancelCause::kAbort);
  EXPECT_EQ(answer.num_deltas(), 0);
  harness.StopAndExpectNothingLeft();
}

TEST(WorkerCancelTest, DecodeTakesNoFurtherStep) {
  Worker* worker = nullptr;
  ManualClock* clock = nullptr;
  FakeEngineOptions engine;
  engine.on_step = [&](const FakeStep& step) {
    if (step.rows[0].generated == 5) {
      EXPECT_TRUE(worker->Cancel("a", CancelCause::kClient));
      EXPECT_TRUE(worker->Cancel("a", CancelCause::kClient)) << "twice is as good as once";
      clock->Advance(absl::Milliseconds(250));
    }
  };
  WorkerHarness harness(engine);
  worker = harness.worker.get();
  clock = &harness.clock;
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 20, 1000).ok());
  EXPECT_EQ(answer.Await().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(harness.engine->num_steps(), 6);
  ASSERT_EQ(harness.observer.cancelled().size(), 1u);
  EXPECT_EQ(harness.observer.cancelled()[0].phase, "decode");
  EXPECT_EQ(harness.observer.cancelled()[0].latency, absl::Milliseconds(250));
  EXPECT_EQ(harness.engine->used_slabs(), 0);
}

TEST(WorkerCancelTest, CancelTogetherWithTheLastTokenFinishes) {
  Worker* worker = nullptr;
  FakeEngineOptions engine;
  engine.on_step = [&](const FakeStep& step) {
    if (step.rows[0].generated == 7) {
      EXPECT_TRUE(worker->Cancel("a", CancelCause::kClient));
    }
  };
  WorkerHarness harness(engine);
  worker = harness.worker.get();
  Answer answer;
  ASSERT_TRUE(harness.Submit("a", answer, 20, 8).ok());
  EXPECT_TRUE(answer.Await().ok()) << "the answer was complete";
  EXPECT_TRUE(harness.observer.cancelled().empty());
  // The order that came too late must not reach the next request of that name.
  Answer next;
  ASSERT_TRUE(harness.Submit("a", next, 20, 7).ok());
  EXPECT_TRUE(next.Await().ok());
}

TEST(WorkerCancelTest, OthersAreNotTouched) {
  FakeEngineOptions engine;
  Worker::Options options;
  options.scheduler.max_running = 12;
  options.scheduler.max_queued_requests = 500;
  Gate gate;
  engine.on_step = [&](const FakeStep&) { gate.Pass(); };
  WorkerHarness harness(engine, options);
  std::vector<std::unique_ptr<Answer>> kept, dropped;
  for (int i = 0; i < 8; ++i) {
    kept.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("keep", i), *kept.back(), 40 + i, 200).ok());
  }
  for (int i = 0; i < 200; ++i) {
    dropped.push_back(std::make_unique<Answer>());
    ASSERT_TRUE(harness.Submit(absl::StrCat("drop", i), *dropped.back(), 500, 50).ok());
  }
  gate.Open();
  for (int i = 0; i < 200; ++i) {
    kept[static_cast<size_t>(i % 8)]->AwaitDeltas(i / 4);
    harness.worker->Cancel(absl::StrCat("drop", (i * 7) % 200), CancelCause::kClient);
  }
  for (const auto& answer : dropped) {
    const absl::Status status = answer->Await();
    EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
  }
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(kept[i]->Await().ok());
    const std::vector<int32_t> prompt = MakePrompt(absl::StrCat("keep", i), 40 + i);
    EXPECT_EQ(kept[i]->tokens(), harness.engine->Expected(prompt, 200));
  }
  harness.StopAndExpectNothingLeft();
}

constexpr int kStormRunning = 6;

// One client after another sends a request and drops it at some point, on several threads; each
// also reads the statistics.
void Storm(WorkerHarness* harness, int thread, int requests, std::atomic<int64_t>* ended) {
  std::minstd_rand random(static_cast<uint32_t>(thread + 1));
  for (int i = 0; i < requests; ++i) {
    const std::string id = absl::StrCat("t", thread, "-", i);
    Answer answer(4);
    const int64_t prompt = 16 + static_cast<int64_t>(random() % 700);
    const int64_t tokens = 1 + static_cast<int64_t>(random() % 12);
    const absl::Status submitted = harness->Submit(id, answer, prompt, tokens);
    ASSERT_TRUE(submitted.ok()) << submitted;
    const uint32_t point = random() % 5;
    if (point == 1) answer.AwaitAccepted();
    if (point == 2) answer.AwaitDeltas(1);
    if (point == 3) answer.AwaitDeltas(tokens / 2);
    if (point == 4) answer.AwaitDeltas(tokens);
    const WorkerStats stats = harness->worker->stats();
    EXPECT_TRUE(stats.accepting);
    EXPECT_LE(stats.running_requests, kStormRunning);
    harness->worker->Cancel(id, CancelCause::kClient);
    const absl::Status status = answer.Await();
    ASSERT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
    ++*ended;
  }
}

TEST(WorkerCancelTest, StormConservesEverything) {
  constexpr int kThreads = 8;
  constexpr int kRequests = 500;
  FakeEngineOptions engine;
  engine.capacity_slabs = 400;  // 4 to 6 requests of the larger kind
  engine.segments = {{3, 1}, {1, 2}};
  Worker::Options options;
  options.scheduler.max_running = kStormRunning;
  WorkerHarness harness(engine, options);
  std::atomic<int64_t> ended{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] { Storm(&harness, t, kRequests, &ended); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ended.load(), kThreads * kRequests);
  EXPECT_EQ(harness.engine->used_slabs(), 0) << "at once, not only after the stop";
  const auto cancelled = static_cast<int64_t>(harness.observer.cancelled().size());
  EXPECT_EQ(harness.observer.finished() + cancelled, kThreads * kRequests);
  EXPECT_GT(cancelled, 0);
  harness.StopAndExpectNothingLeft();
}

}  // namespace
}  // namespace slim
