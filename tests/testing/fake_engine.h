// An Engine without a model: the next token is a hash of everything the sequence has read, so that
// a lost, repeated or foreign row changes the output and no tolerance is needed. Delays and
// failures are scripted by hooks, which run on the worker's thread. Misuse by the caller (unknown
// or repeated sequence, decode before the end of prefill) aborts. Thread rule: as Engine; counters
// are thread-safe, options are fixed after construction.
#ifndef TESTS_TESTING_FAKE_ENGINE_H_
#define TESTS_TESTING_FAKE_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"

namespace slim {

// A clock that tests move by hand. Thread-safe.
class ManualClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixNanos(nanoseconds_.load()); }
  void Advance(absl::Duration duration) { nanoseconds_ += absl::ToInt64Nanoseconds(duration); }

 private:
  std::atomic<int64_t> nanoseconds_{int64_t{3600} * 1000 * 1000 * 1000};
};

// What a step does for one sequence.
struct FakeStepRow {
  const SequenceSpec* spec = nullptr;
  bool decode = false;
  int64_t rows = 1;
  double cost = 0;            // in row-layers
  int64_t generated = 0;      // tokens before this step
  int64_t computed_rows = 0;  // rows before this step, all segments together
};
struct FakeStep {
  int64_t index = 0;  // 0, 1, ...
  std::vector<FakeStepRow> rows;
};

struct FakeEngineOptions {
  int num_layers = 4;
  int64_t vocab_size = 320;
  int64_t context_tokens = 1 << 20;
  int64_t capacity_slabs = 1 << 20;
  int64_t max_layer_slabs_per_step = 1 << 20;  // a step that needs more is refused as a whole
  int block_tokens = 32;
  // A prompt runs through these in turn; `tokens_divisor` 2: half of its tokens are left.
  struct Segment {
    int layers = 4;
    int64_t tokens_divisor = 1;
  };
  std::vector<Segment> segments = {Segment()};
  // A row costs `layers * (1 + row / attention_rows)`; 0: just `layers`.
  double attention_rows = 0;
  // The token number `index` (0, 1, ...) of a sequence; `hash` covers all that it has read.
  std::function<int32_t(const SequenceSpec& spec, int64_t index, uint64_t hash)> next_token;
  // Before a step computes.
  std::function<void(const FakeStep& step)> on_step;
  // Not OK: the whole step fails with it.
  std::function<absl::Status(const FakeStep& step)> step_failure;
  // Not OK: this sequence fails in this step.
  std::function<absl::Status(const FakeStepRow& row)> sequence_failure;
  // Not OK: Add fails with it.
  std::function<absl::Status(const SequenceSpec& spec)> add_failure;
};

class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(FakeEngineOptions options);

  // A printable ASCII character as a token of the tiny test vocabulary
  // (tests/testing/tiny_model.h).
  static int32_t PrintableToken(uint64_t hash);
  // What a sequence of this prompt generates, without any engine.
  std::vector<int32_t> Expected(const std::vector<int32_t>& prompt, int64_t count) const;

  const ModelConfig& model_config() const override { return config_; }
  const BackendInfo& backend_info() const override { return backend_; }
  const TensorSource& source() const override;
  int block_tokens() const override { return options_.block_tokens; }
  int64_t weight_bytes() const override { return 1; }
  int64_t capacity_slabs() const override { return options_.capacity_slabs; }
  int64_t max_layer_slabs_per_step() const override { return options_.max_layer_slabs_per_step; }
  KvDemand KvNeeded(const SequenceSpec& spec) const override;
  std::vector<SegmentPlan> Plan(const PruneSchedule& schedule, int64_t tokens) const override;
  EngineStats stats() const override;
  absl::StatusOr<SequenceId> Add(SequenceSpec spec) override;
  void Remove(SequenceId sequence) override;
  PrefillWork NextPrefill(SequenceId sequence) const override;
  SequenceReport Report(SequenceId sequence) const override;
  absl::StatusOr<StepResult> Step(const StepPlan& plan) override;
  absl::Status CopyLastLogits(SequenceId, absl::Span<float>) override;
  void ForceToken(SequenceId, int32_t) override {}

  // Thread-safe.
  int64_t used_slabs() const { return used_slabs_.load(); }
  int64_t num_sequences() const { return num_sequences_.load(); }
  int64_t num_added() const { return num_added_.load(); }
  int64_t num_steps() const { return num_steps_.load(); }

 private:
  struct State {
    SequenceSpec spec;
    int64_t slabs = 0;
    size_t segment = 0;
    int64_t row = 0;  // in the segment
    int64_t computed_rows = 0;
    bool prefill_done = false;
    uint64_t hash = 0;
    int64_t generated = 0;
    int32_t last_token = -1;
  };

  const State& Find(SequenceId sequence) const;
  int64_t SegmentRows(const State& state, size_t segment) const;
  double RowCost(const State& state) const;
  FakeStep Describe(const StepPlan& plan) const;
  void Sample(State* state, SequenceOutput* output);
  void ComputePrefill(State* state, int64_t rows, SequenceOutput* output);

  const FakeEngineOptions options_;
  ModelConfig config_;
  BackendInfo backend_;
  absl::flat_hash_map<SequenceId, State> sequences_;
  uint64_t next_sequence_ = 1;
  std::atomic<int64_t> used_slabs_{0};
  std::atomic<int64_t> num_sequences_{0};
  std::atomic<int64_t> num_added_{0};
  std::atomic<int64_t> num_steps_{0};
};

}  // namespace slim

#endif  // TESTS_TESTING_FAKE_ENGINE_H_
