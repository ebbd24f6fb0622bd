#include "server/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "server/status_reason.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr double kLayers = 10;

SchedulerOptions SmallOptions() {
  SchedulerOptions options;
  options.max_running = 4;
  options.max_queued_requests = 3;
  options.max_queued_tokens = 1000;
  options.kv_capacity_slabs = 100;
  options.max_layer_slabs_per_step = 100;
  options.prefill_chunk_tokens = 256;
  options.prefill_step_cost = 256 * kLayers;
  options.lone_step_factor = 1;
  options.max_bypasses = 2;
  return options;
}

const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

Scheduler::Entry MakeEntry(uint64_t key, int64_t prompt_tokens = 10, int64_t slabs = 1,
                           int priority = 0) {
  Scheduler::Entry entry;
  entry.key = RequestKey{key};
  entry.priority = priority;
  entry.prompt_tokens = prompt_tokens;
  entry.kv = {slabs, slabs};
  entry.arrival = kStart;
  return entry;
}

std::vector<uint64_t> Numbers(const std::vector<RequestKey>& keys) {
  std::vector<uint64_t> numbers;
  for (const RequestKey key : keys) numbers.push_back(static_cast<uint64_t>(key));
  return numbers;
}

std::vector<uint64_t> Admitted(Scheduler& scheduler) { return Numbers(scheduler.TakeAdmitted()); }

bool Always(RequestKey) { return true; }

// ---- queue and admission ----

TEST(SchedulerQueueTest, AdmitsAtOnceWhileThereIsRoom) {
  Scheduler scheduler(SmallOptions());
  for (uint64_t key = 1; key <= 4; ++key) {
    EXPECT_EQ(*scheduler.Enqueue(MakeEntry(key), kStart), 0);
  }
  EXPECT_THAT(Admitted(scheduler), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(scheduler.num_running(), 4);
  EXPECT_EQ(scheduler.num_waiting(), 0);
  EXPECT_EQ(scheduler.reserved_slabs(), 4);
}

TEST(SchedulerQueueTest, BoundOfRequestsIsExact) {
  Scheduler scheduler(SmallOptions());
  for (uint64_t key = 1; key <= 4; ++key)
    ASSERT_TRUE(scheduler.Enqueue(MakeEntry(key), kStart).ok());
  for (uint64_t key = 5; key <= 7; ++key) {
    EXPECT_EQ(*scheduler.Enqueue(MakeEntry(key), kStart), static_cast<int64_t>(key) - 5);
  }
  const absl::Status full = scheduler.Enqueue(MakeEntry(8), kStart).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), reason::kOverload);
  EXPECT_EQ(scheduler.num_waiting(), 3);
  EXPECT_EQ(scheduler.waiting_prompt_tokens(), 30);
  scheduler.Remove(RequestKey{6});
  EXPECT_TRUE(scheduler.Enqueue(MakeEntry(9), kStart).ok());
}

TEST(SchedulerQueueTest, BoundOfTokensIsExactAndSparesTheFirst) {
  SchedulerOptions options = SmallOptions();
  options.max_running = 1;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1), kStart).ok());
  EXPECT_TRUE(scheduler.Enqueue(MakeEntry(2, 5000), kStart).ok()) << "the first one always waits";
  EXPECT_FALSE(scheduler.Enqueue(MakeEntry(3, 1), kStart).ok());
  scheduler.Remove(RequestKey{2});
  EXPECT_TRUE(scheduler.Enqueue(MakeEntry(4, 400), kStart).ok());
  EXPECT_TRUE(scheduler.Enqueue(MakeEntry(5, 600), kStart).ok());
  EXPECT_FALSE(scheduler.Enqueue(MakeEntry(6, 1), kStart).ok());
  EXPECT_EQ(scheduler.waiting_prompt_tokens(), 1000);
}

TEST(SchedulerQueueTest, RefusesWhatCanNeverFit) {
  Scheduler scheduler(SmallOptions());
  EXPECT_TRUE(scheduler.Enqueue(MakeEntry(1, 10, 100), kStart).ok());
  const absl::Status status = scheduler.Enqueue(MakeEntry(2, 10, 101), kStart).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), reason::kExceedsCapacity);
  EXPECT_THAT(std::string(status.message()), HasSubstr("101"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("100"));
}

TEST(SchedulerQueueTest, OrdersByPriorityThenArrival) {
  SchedulerOptions options = SmallOptions();
  options.max_running = 1;
  options.max_queued_requests = 10;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1), kStart).ok());
  EXPECT_EQ(*scheduler.Enqueue(MakeEntry(2, 10, 1, 0), kStart), 0);
  EXPECT_EQ(*scheduler.Enqueue(MakeEntry(3, 10, 1, -5), kStart), 1);
  EXPECT_EQ(*scheduler.Enqueue(MakeEntry(4, 10, 1, 7), kStart), 0);
  EXPECT_EQ(*scheduler.Enqueue(MakeEntry(5, 10, 1, 0), kStart), 2);
  EXPECT_THAT(Numbers(scheduler.Waiting()), ElementsAre(4, 2, 5, 3));
  Admitted(scheduler);
  for (const uint64_t next : {4, 2, 5, 3}) {
    const uint64_t running = next == 4 ? 1 : next == 2 ? 4 : next == 5 ? 2 : 5;
    scheduler.Remove(RequestKey{running});
    EXPECT_THAT(Admitted(scheduler), ElementsAre(next));
  }
}

TEST(SchedulerQueueTest, ReservationsNeverExceedTheCache) {
  Scheduler scheduler(SmallOptions());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1, 10, 60), kStart).ok());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(2, 10, 40), kStart).ok());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(3, 10, 1), kStart).ok());
  EXPECT_THAT(Admitted(scheduler), ElementsAre(1, 2));
  EXPECT_EQ(scheduler.reserved_slabs(), 100);
  scheduler.Remove(RequestKey{2});
  EXPECT_THAT(Admitted(scheduler), ElementsAre(3));
  EXPECT_EQ(scheduler.reserved_slabs(), 61);
}

TEST(SchedulerQueueTest, SmallOnesPassABigOneButNotForEver) {
  SchedulerOptions options = SmallOptions();
  options.max_queued_requests = 10;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1, 10, 60), kStart).ok());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(2, 10, 80), kStart).ok());  // has to wait for 1
  for (uint64_t key = 3; key <= 5; ++key) {
    ASSERT_TRUE(scheduler.Enqueue(MakeEntry(key, 10, 5), kStart).ok());
  }
  EXPECT_THAT(Admitted(scheduler), ElementsAre(1, 3, 4)) << "two may pass, the third may not";
  scheduler.Remove(RequestKey{3});
  EXPECT_THAT(Admitted(scheduler), IsEmpty()) << "what becomes free is kept for the big one";
  scheduler.Remove(RequestKey{1});
  EXPECT_THAT(Admitted(scheduler), ElementsAre(2, 5));
}

TEST(SchedulerQueueTest, DeferredRequestKeepsItsPlaceUntilSomethingIsFreed) {
  Scheduler scheduler(SmallOptions());
  for (uint64_t key = 1; key <= 3; ++key)
    ASSERT_TRUE(scheduler.Enqueue(MakeEntry(key), kStart).ok());
  EXPECT_THAT(Admitted(scheduler), ElementsAre(1, 2, 3));
  EXPECT_TRUE(scheduler.Defer(RequestKey{2}));
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(4), kStart).ok());
  EXPECT_THAT(Admitted(scheduler), IsEmpty());
  EXPECT_THAT(Numbers(scheduler.Waiting()), ElementsAre(2, 4));
  EXPECT_EQ(scheduler.reserved_slabs(), 2);
  scheduler.Remove(RequestKey{1});
  EXPECT_THAT(Admitted(scheduler), ElementsAre(2, 4));
}

TEST(SchedulerQueueTest, DeferIsRefusedWhenNothingElseRuns) {
  Scheduler scheduler(SmallOptions());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1), kStart).ok());
  EXPECT_THAT(Admitted(scheduler), ElementsAre(1));
  EXPECT_FALSE(scheduler.Defer(RequestKey{1}));
  EXPECT_EQ(scheduler.num_running(), 1);
}

TEST(SchedulerExpiryTest, QueueWaitAndDeadlineExpireInTheQueue) {
  SchedulerOptions options = SmallOptions();
  options.max_running = 1;
  options.max_queue_wait = absl::Seconds(10);
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1), kStart).ok());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(2), kStart).ok());
  Scheduler::Entry with_deadline = MakeEntry(3);
  with_deadline.deadline = kStart + absl::Seconds(4);
  ASSERT_TRUE(scheduler.Enqueue(with_deadline, kStart).ok());

  EXPECT_EQ(scheduler.NextExpiry(), kStart + absl::Seconds(4));
  EXPECT_THAT(scheduler.FindExpired(kStart + absl::Seconds(3)), IsEmpty());
  std::vector<Scheduler::Expired> expired = scheduler.FindExpired(kStart + absl::Seconds(4));
  ASSERT_EQ(expired.size(), 1u);
  EXPECT_EQ(expired[0].key, RequestKey{3});
  EXPECT_EQ(expired[0].expiry, Scheduler::Expiry::kDeadline);
  scheduler.Remove(RequestKey{3});

  EXPECT_EQ(scheduler.NextExpiry(), kStart + absl::Seconds(10));
  expired = scheduler.FindExpired(kStart + absl::Seconds(10));
  ASSERT_EQ(expired.size(), 1u) << "a running request does not expire by queue wait";
  EXPECT_EQ(expired[0].key, RequestKey{2});
  EXPECT_EQ(expired[0].expiry, Scheduler::Expiry::kQueueWait);
}

TEST(SchedulerExpiryTest, DeadlineExpiresInEveryState) {
  Scheduler scheduler(SmallOptions());
  for (uint64_t key = 1; key <= 3; ++key) {
    Scheduler::Entry entry = MakeEntry(key);
    entry.deadline = kStart + absl::Seconds(1);
    ASSERT_TRUE(scheduler.Enqueue(entry, kStart).ok());
  }
  Admitted(scheduler);
  scheduler.StartPrefill(RequestKey{2}, {10, kLayers});
  scheduler.StartPrefill(RequestKey{3}, {0, 0});
  EXPECT_EQ(scheduler.FindExpired(kStart + absl::Seconds(1)).size(), 3u);
}

TEST(SchedulerExpiryTest, PastDeadlineIsRefused) {
  Scheduler scheduler(SmallOptions());
  Scheduler::Entry entry = MakeEntry(1);
  entry.deadline = kStart;
  const absl::Status status = scheduler.Enqueue(entry, kStart).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), reason::kDeadline);
  EXPECT_EQ(scheduler.NextExpiry(), absl::InfiniteFuture());
}

TEST(SchedulerOptionsTest, EveryFieldIsChecked) {
  EXPECT_TRUE(ValidateSchedulerOptions(SmallOptions()).ok());
  const std::vector<void (*)(SchedulerOptions&)> breakers = {
      [](SchedulerOptions& o) { o.max_running = 0; },
      [](SchedulerOptions& o) { o.max_queued_requests = 0; },
      [](SchedulerOptions& o) { o.max_queued_tokens = -1; },
      [](SchedulerOptions& o) { o.max_queue_wait = absl::ZeroDuration(); },
      [](SchedulerOptions& o) { o.kv_capacity_slabs = 0; },
      [](SchedulerOptions& o) { o.max_layer_slabs_per_step = 0; },
      [](SchedulerOptions& o) { o.prefill_chunk_tokens = 0; },
      [](SchedulerOptions& o) { o.prefill_step_cost = NAN; },
      [](SchedulerOptions& o) { o.min_chunk_tokens = 0; },
      [](SchedulerOptions& o) { o.chunk_multiple_tokens = 0; },
      [](SchedulerOptions& o) { o.lone_step_factor = 0.5; },
      [](SchedulerOptions& o) { o.lone_step_factor = NAN; },
      [](SchedulerOptions& o) { o.lone_step_time = -absl::Seconds(1); },
      [](SchedulerOptions& o) { o.company_memory = -absl::Seconds(1); },
      [](SchedulerOptions& o) { o.max_bypasses = -1; },
  };
  for (size_t i = 0; i < breakers.size(); ++i) {
    SchedulerOptions options = SmallOptions();
    breakers[i](options);
    EXPECT_EQ(ValidateSchedulerOptions(options).code(), absl::StatusCode::kInvalidArgument) << i;
  }
}

TEST(SchedulerQueueTest, RefusesWhatTheArenaCanNeverHold) {
  SchedulerOptions options = SmallOptions();
  options.max_layer_slabs_per_step = 7;
  Scheduler scheduler(options);
  EXPECT_TRUE(scheduler.Enqueue(MakeEntry(1, 10, 7), kStart).ok());
  const absl::Status status = scheduler.Enqueue(MakeEntry(2, 10, 8), kStart).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), reason::kExceedsCapacity);
  EXPECT_THAT(std::string(status.message()), HasSubstr("8 slabs of a layer"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("allows 7"));
}

// ---- steps ----

// Runs the policy against prompts whose rows cost `kLayers` each, and counts cost instead of time.
class StepSimulator {
 public:
  explicit StepSimulator(const SchedulerOptions& options) : scheduler_(options) {}

  // `row_growth`: a row costs kLayers * (1 + row * row_growth).
  void Arrive(uint64_t key, int64_t rows, int priority = 0, double row_growth = 0) {
    ASSERT_TRUE(scheduler_.Enqueue(MakeEntry(key, rows, 1, priority), kStart).ok());
    for (const RequestKey admitted : scheduler_.TakeAdmitted()) {
      Prompt& prompt = prompts_[static_cast<uint64_t>(admitted)];
      prompt = {rows, 0, row_growth, now_, -1};
      scheduler_.StartPrefill(admitted, WorkOf(prompt));
    }
  }
  // One step; its cost is added to now(). Decode steps cost kLayers per stream.
  Scheduler::Plan RunStep() {
    Scheduler::Plan plan = scheduler_.NextStep(Always, kStart);
    for (const Scheduler::PrefillUnit& unit : plan.prefill) {
      Prompt& prompt = prompts_.at(static_cast<uint64_t>(unit.key));
      now_ += static_cast<double>(unit.rows) * WorkOf(prompt).row_cost;
      prompt.done += unit.rows;
    }
    now_ += kLayers * static_cast<double>(plan.decode.size());
    for (const Scheduler::PrefillUnit& unit : plan.prefill) {
      Prompt& prompt = prompts_.at(static_cast<uint64_t>(unit.key));
      if (prompt.done == prompt.rows) prompt.first_token = now_;
      scheduler_.UpdatePrefill(unit.key, WorkOf(prompt));
    }
    for (const RequestKey key : plan.decode) ++tokens_[static_cast<uint64_t>(key)];
    return plan;
  }
  double now() const { return now_; }
  int64_t done(uint64_t key) const { return prompts_.at(key).done; }
  bool finished(uint64_t key) const { return prompts_.at(key).first_token >= 0; }
  // Cost from the arrival to the first token.
  double latency(uint64_t key) const {
    return prompts_.at(key).first_token - prompts_.at(key).arrival;
  }
  int64_t tokens(uint64_t key) { return tokens_[key]; }
  Scheduler& scheduler() { return scheduler_; }
  void Leave(uint64_t key) { scheduler_.Remove(RequestKey{key}); }

 private:
  struct Prompt {
    int64_t rows = 0;
    int64_t done = 0;
    double growth = 0;
    double arrival = 0;
    double first_token = -1;
  };
  static PrefillWork WorkOf(const Prompt& prompt) {
    return {prompt.rows - prompt.done,
            kLayers * (1 + static_cast<double>(prompt.done) * prompt.growth)};
  }
  Scheduler scheduler_;
  std::map<uint64_t, Prompt> prompts_;
  std::map<uint64_t, int64_t> tokens_;
  double now_ = 0;
};

SchedulerOptions StepOptions() {
  SchedulerOptions options = SmallOptions();
  options.max_running = 1000;
  options.kv_capacity_slabs = 100000;
  return options;
}

constexpr double kUnit = 256 * kLayers;

TEST(SchedulerStepTest, NothingToDoIsAnEmptyPlan) {
  Scheduler scheduler(StepOptions());
  EXPECT_TRUE(scheduler.NextStep(Always, kStart).empty());
  ASSERT_TRUE(scheduler.Enqueue(MakeEntry(1), kStart).ok());
  EXPECT_TRUE(scheduler.NextStep(Always, kStart).empty()) << "admitted, not started";
}

TEST(SchedulerStepTest, ABoundedArenaDecodesInTurn) {
  SchedulerOptions options = StepOptions();
  options.max_layer_slabs_per_step = 5;
  Scheduler scheduler(options);
  for (const auto& [key, slabs] : std::map<uint64_t, int64_t>{{1, 2}, {2, 2}, {3, 4}, {4, 1}}) {
    ASSERT_TRUE(scheduler.Enqueue(MakeEntry(key, 10, slabs), kStart).ok());
  }
  for (const RequestKey key : scheduler.TakeAdmitted()) scheduler.StartPrefill(key, PrefillWork{});
  EXPECT_THAT(Numbers(scheduler.NextStep(Always, kStart).decode), ElementsAre(1, 2));
  EXPECT_THAT(Numbers(scheduler.NextStep(Always, kStart).decode), ElementsAre(3, 4));
  EXPECT_THAT(Numbers(scheduler.NextStep(Always, kStart).decode), ElementsAre(1, 2));
  // The one whose turn it is left: the next one begins.
  scheduler.Remove(RequestKey{3});
  EXPECT_THAT(Numbers(scheduler.NextStep(Always, kStart).decode), ElementsAre(4, 1, 2));
  // A stream that takes nothing does not hold up the others.
  const auto not_two = [](RequestKey key) { return key != RequestKey{2}; };
  EXPECT_THAT(Numbers(scheduler.NextStep(not_two, kStart).decode), ElementsAre(1, 4));
}

TEST(SchedulerStepTest, ABoundedArenaPrefillsOnlyWhatItHolds) {
  SchedulerOptions options = StepOptions();
  options.max_layer_slabs_per_step = 5;
  Scheduler scheduler(options);
  for (uint64_t key = 1; key <= 3; ++key) {
    ASSERT_TRUE(scheduler.Enqueue(MakeEntry(key, 10, 2), kStart).ok());
  }
  for (const RequestKey key : scheduler.TakeAdmitted()) scheduler.StartPrefill(key, {10, kLayers});
  const Scheduler::Plan plan = scheduler.NextStep(Always, kStart);
  ASSERT_EQ(plan.prefill.size(), 2u);
  EXPECT_EQ(plan.prefill[0].rows, 10);
}

TEST(SchedulerStepTest, PrefillAndDecodeTakeTurns) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 10);
  simulator.RunStep();  // prefill of 1
  simulator.Arrive(2, 2560);
  for (int unit = 1; unit <= 10; ++unit) {
    const Scheduler::Plan first = simulator.RunStep();
    const Scheduler::Plan second = simulator.RunStep();
    EXPECT_NE(first.prefill.empty(), second.prefill.empty());
    EXPECT_NE(first.decode.empty(), second.decode.empty());
    EXPECT_EQ(simulator.tokens(1), unit) << "one token per unit";
  }
  EXPECT_TRUE(simulator.finished(2));
  EXPECT_EQ(simulator.RunStep().decode.size(), 2u);
  EXPECT_EQ(simulator.RunStep().decode.size(), 2u) << "back to back without prefill";
}

TEST(SchedulerStepTest, StalledStreamsSitOutAndPrefillGoesOn) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 10);
  simulator.RunStep();
  simulator.Arrive(2, 1024);
  const auto never = [](RequestKey) { return false; };
  EXPECT_EQ(simulator.scheduler().NextStep(never, kStart).prefill.size(), 1u);
  EXPECT_EQ(simulator.scheduler().NextStep(never, kStart).prefill.size(), 1u);
}

TEST(SchedulerStepTest, ShortPromptsArePackedIntoOneStep) {
  StepSimulator simulator(StepOptions());
  for (uint64_t key = 1; key <= 9; ++key) simulator.Arrive(key, 30);
  EXPECT_EQ(simulator.RunStep().prefill.size(), 8u) << "8 x 30 <= 256 < 9 x 30";
  for (uint64_t key = 1; key <= 8; ++key) EXPECT_TRUE(simulator.finished(key));
  EXPECT_FALSE(simulator.finished(9));
}

TEST(SchedulerStepTest, AShortPromptIsNotPackedWithAPieceOfALongOne) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 8000);
  simulator.RunStep();
  simulator.Arrive(2, 30);
  const Scheduler::Plan plan = simulator.RunStep();
  ASSERT_EQ(plan.prefill.size(), 1u);
  EXPECT_EQ(plan.prefill[0].key, RequestKey{2});
}

TEST(SchedulerStepTest, ShortPromptWaitsAtMostOneUnitBehindALongOne) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 8000);
  double worst = 0;
  for (uint64_t key = 2; !simulator.finished(1); ++key) {
    simulator.RunStep();  // a unit is under way: arrive at its end, the wait for it is added below
    if (simulator.finished(1)) break;
    simulator.Arrive(key, 30);
    while (!simulator.finished(key)) simulator.RunStep();
    worst = std::max(worst, simulator.latency(key));
    simulator.Leave(key);
  }
  // 30 rows alone cost 300; up to one unit under way comes on top where it arrives in the middle.
  EXPECT_LE(worst, 30 * kLayers);
}

TEST(SchedulerStepTest, ShortPromptThatComesDuringAnotherShortOneWaitsForOneUnit) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 8000);
  simulator.RunStep();
  for (uint64_t key = 2; key < 20; ++key) {
    simulator.Arrive(key, 30);  // right after the one before was planned
    while (!simulator.finished(key)) simulator.RunStep();
    EXPECT_LE(simulator.latency(key), kUnit + 3 * 30 * kLayers + 20 * kLayers) << key;
    simulator.Leave(key);
  }
}

TEST(SchedulerStepTest, AnEndlessFlowOfShortPromptsDoesNotStarveALongOne) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 100000);
  uint64_t next = 2;
  // Before every prefill step comes as much new work as one can do: the flow alone fills them all.
  bool arrive = true;
  for (int step = 0; step < 800; ++step) {
    if (arrive) simulator.Arrive(next++, 250);
    const Scheduler::Plan plan = simulator.RunStep();
    arrive = !plan.prefill.empty();
    for (const RequestKey key : plan.decode) simulator.Leave(static_cast<uint64_t>(key));
  }
  // It shares with a backlog that grows by one prompt per unit it gets.
  EXPECT_GT(simulator.done(1), 10 * 256);
  EXPECT_GT(next, 300u) << "and the short ones are served meanwhile";
}

TEST(SchedulerStepTest, EqualPromptsShareEqually) {
  StepSimulator simulator(StepOptions());
  for (uint64_t key = 1; key <= 4; ++key) simulator.Arrive(key, 4096);
  for (int step = 0; step < 32; ++step) simulator.RunStep();
  for (uint64_t key = 1; key <= 4; ++key) EXPECT_EQ(simulator.done(key), 2048) << key;
}

TEST(SchedulerStepTest, ShareIsOfCostNotOfRows) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 100000);
  simulator.Arrive(2, 100000, 0, /*row_growth=*/1.0 / 256);
  for (int step = 0; step < 60; ++step) simulator.RunStep();
  // Rows of the second get dearer (attention); it gets fewer of them for the same cost.
  EXPECT_GT(simulator.done(1), 3 * simulator.done(2));
}

TEST(SchedulerStepTest, PriorityWeighsTheShare) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 100000, /*priority=*/100);
  simulator.Arrive(2, 100000, /*priority=*/0);
  for (int step = 0; step < 100; ++step) simulator.RunStep();
  EXPECT_EQ(simulator.done(1), 80 * 256);
  EXPECT_EQ(simulator.done(2), 20 * 256);
}

TEST(SchedulerStepTest, ChunksShrinkAsRowsGetDearer) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 8000, 0, /*row_growth=*/1.0 / 2000);
  int64_t last = 256;
  while (!simulator.finished(1)) {
    const double before = simulator.now();
    const Scheduler::Plan plan = simulator.RunStep();
    ASSERT_EQ(plan.prefill.size(), 1u);
    const int64_t rows = plan.prefill[0].rows;
    EXPECT_LE(rows, last);
    EXPECT_TRUE(simulator.finished(1) || (rows % 32 == 0 && rows >= 64)) << rows;
    EXPECT_TRUE(rows == 64 || simulator.now() - before <= kUnit) << rows;
    last = rows;
  }
  EXPECT_LE(last, 64);
}

TEST(SchedulerStepTest, RemovedPromptIsNotPlannedAgain) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 8000);
  simulator.Arrive(2, 8000);
  simulator.RunStep();
  simulator.Leave(1);
  for (int step = 0; step < 5; ++step) {
    const Scheduler::Plan plan = simulator.RunStep();
    ASSERT_EQ(plan.prefill.size(), 1u);
    EXPECT_EQ(plan.prefill[0].key, RequestKey{2});
  }
  simulator.Leave(2);
  EXPECT_TRUE(simulator.scheduler().NextStep(Always, kStart).empty());
  EXPECT_EQ(simulator.scheduler().num_running(), 0);
  EXPECT_EQ(simulator.scheduler().reserved_slabs(), 0);
}

TEST(SchedulerStepTest, NewcomerIsNotOwedThePast) {
  StepSimulator simulator(StepOptions());
  simulator.Arrive(1, 100000);
  for (int step = 0; step < 100; ++step) simulator.RunStep();
  const int64_t before = simulator.done(1);
  simulator.Arrive(2, 100000);
  for (int step = 0; step < 20; ++step) simulator.RunStep();
  EXPECT_NEAR(static_cast<double>(simulator.done(1) - before),
              static_cast<double>(simulator.done(2)), 2 * 256);
}

}  // namespace
}  // namespace slim
