#include "tests/testing/fake_engine.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/base/check.h"

namespace slim {
namespace {

constexpr uint64_t kHashSeed = 0x9e3779b97f4a7c15;

// One round of a 64-bit mixer over the state and what is read next.
uint64_t Fold(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0xff51afd7ed558ccd;
  hash ^= hash >> 32;
  return hash * 0xc4ceb9fe1a85ec53 ^ (hash >> 29);
}

uint64_t FoldRow(uint64_t hash, int32_t token, size_t segment, int64_t row) {
  return Fold(Fold(Fold(hash, static_cast<uint64_t>(token)), segment), static_cast<uint64_t>(row));
}

}  // namespace

FakeEngine::FakeEngine(FakeEngineOptions options) : options_(std::move(options)) {
  SLIM_CHECK(!options_.segments.empty());
  config_.architecture = "fake";
  config_.num_layers = options_.num_layers;
  config_.vocab_size = options_.vocab_size;
  config_.context_tokens = options_.context_tokens;
  backend_.name = "fake";
}

int32_t FakeEngine::PrintableToken(uint64_t hash) {
  return 3 + 32 + static_cast<int32_t>(hash % 95);  // three special tokens, then the bytes
}

std::vector<int32_t> FakeEngine::Expected(const std::vector<int32_t>& prompt, int64_t count) const {
  State state;
  state.spec.prompt = prompt;
  state.hash = kHashSeed;
  for (size_t segment = 0; segment < options_.segments.size(); ++segment) {
    for (int64_t row = 0; row < SegmentRows(state, segment); ++row) {
      state.hash = FoldRow(state.hash, prompt[static_cast<size_t>(row)], segment, row);
    }
  }
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) state.hash = Fold(state.hash, static_cast<uint64_t>(tokens.back()));
    tokens.push_back(options_.next_token ? options_.next_token(state.spec, i, state.hash)
                                         : PrintableToken(state.hash));
  }
  return tokens;
}

const TensorSource& FakeEngine::source() const {
  CheckFailed(__FILE__, __LINE__, "a fake engine has no source");
}

KvDemand FakeEngine::KvNeeded(const SequenceSpec& spec) const {
  const int64_t tokens = static_cast<int64_t>(spec.prompt.size()) + spec.max_new_tokens;
  const int64_t blocks = (tokens + options_.block_tokens - 1) / options_.block_tokens;
  return {options_.num_layers * blocks, blocks};
}

std::vector<SegmentPlan> FakeEngine::Plan(const PruneSchedule&, int64_t tokens) const {
  SegmentPlan plan;
  plan.end_layer = options_.num_layers;
  plan.num_tokens = tokens;
  return {plan};
}

EngineStats FakeEngine::stats() const {
  EngineStats stats;
  stats.kv.device.total_slabs = options_.capacity_slabs;
  stats.kv.device.used_slabs = used_slabs_.load();
  stats.kv.device.free_slabs = options_.capacity_slabs - stats.kv.device.used_slabs;
  return stats;
}

const FakeEngine::State& FakeEngine::Find(SequenceId sequence) const {
  const auto it = sequences_.find(sequence);
  SLIM_CHECK(it != sequences_.end());
  return it->second;
}

absl::StatusOr<SequenceId> FakeEngine::Add(SequenceSpec spec) {
  if (options_.add_failure) {
    absl::Status status = options_.add_failure(spec);
    if (!status.ok()) return status;
  }
  SLIM_CHECK(!spec.prompt.empty() && spec.max_new_tokens >= 1);
  const int64_t slabs = KvNeeded(spec).slabs;
  if (used_slabs_.load() + slabs > options_.capacity_slabs) {
    return absl::ResourceExhaustedError("the fake cache is full");
  }
  const SequenceId id{next_sequence_++};
  State& state = sequences_[id];
  state.spec = std::move(spec);
  state.slabs = slabs;
  state.hash = kHashSeed;
  used_slabs_ += slabs;
  ++num_sequences_;
  ++num_added_;
  return id;
}

void FakeEngine::Remove(SequenceId sequence) {
  used_slabs_ -= Find(sequence).slabs;
  --num_sequences_;
  sequences_.erase(sequence);
}

int64_t FakeEngine::SegmentRows(const State& state, size_t segment) const {
  const auto tokens = static_cast<int64_t>(state.spec.prompt.size());
  return std::max<int64_t>(1, tokens / options_.segments[segment].tokens_divisor);
}

double FakeEngine::RowCost(const State& state) const {
  const double layers = options_.segments[state.segment].layers;
  if (options_.attention_rows <= 0) return layers;
  return layers * (1 + static_cast<double>(state.row) / options_.attention_rows);
}

PrefillWork FakeEngine::NextPrefill(SequenceId sequence) const {
  const State& state = Find(sequence);
  if (state.prefill_done) return PrefillWork();
  PrefillWork work;
  work.rows = SegmentRows(state, state.segment) - state.row;
  work.row_cost = RowCost(state);
  return work;
}

SequenceReport FakeEngine::Report(SequenceId sequence) const {
  SequenceReport report;
  report.prompt_tokens = static_cast<int64_t>(Find(sequence).spec.prompt.size());
  return report;
}

FakeStep FakeEngine::Describe(const StepPlan& plan) const {
  FakeStep step;
  step.index = num_steps_.load();
  absl::flat_hash_set<SequenceId> seen;
  for (const PrefillItem& item : plan.prefill) {
    const State& state = Find(item.sequence);
    SLIM_CHECK(seen.insert(item.sequence).second && !state.prefill_done && item.max_rows >= 1);
    const int64_t rows = std::min(item.max_rows, SegmentRows(state, state.segment) - state.row);
    const double cost = static_cast<double>(rows) * RowCost(state);
    step.rows.push_back({&state.spec, false, rows, cost, state.generated, state.computed_rows});
  }
  for (const SequenceId sequence : plan.decode) {
    const State& state = Find(sequence);
    SLIM_CHECK(seen.insert(sequence).second && state.prefill_done);
    SLIM_CHECK(state.generated < state.spec.max_new_tokens);
    const auto cost = static_cast<double>(options_.num_layers);
    step.rows.push_back({&state.spec, true, 1, cost, state.generated, state.computed_rows});
  }
  return step;
}

void FakeEngine::Sample(State* state, SequenceOutput* output) {
  const int32_t token = options_.next_token
                            ? options_.next_token(state->spec, state->generated, state->hash)
                            : PrintableToken(state->hash);
  state->last_token = token;
  ++state->generated;
  output->token = token;
  if (state->spec.top_logprobs < 0) return;
  TokenLogprobs logprobs;
  logprobs.token = token;
  logprobs.logprob = -0.25f * static_cast<float>(state->generated);
  for (int i = 0; i < state->spec.top_logprobs; ++i) {
    logprobs.top.emplace_back(token + i, logprobs.logprob - static_cast<float>(i));
  }
  output->logprobs = std::move(logprobs);
}

void FakeEngine::ComputePrefill(State* state, int64_t rows, SequenceOutput* output) {
  for (int64_t i = 0; i < rows; ++i, ++state->row, ++state->computed_rows) {
    const int32_t token = state->spec.prompt[static_cast<size_t>(state->row)];
    state->hash = FoldRow(state->hash, token, state->segment, state->row);
  }
  if (state->row == SegmentRows(*state, state->segment)) {
    state->row = 0;
    state->prefill_done = ++state->segment == options_.segments.size();
  }
  int64_t all_rows = 0;
  for (size_t s = 0; s < options_.segments.size(); ++s) all_rows += SegmentRows(*state, s);
  const auto tokens = static_cast<int64_t>(state->spec.prompt.size());
  output->progress = {tokens * state->computed_rows / all_rows, tokens, tokens};
  output->in_prefill = !state->prefill_done;
  if (state->prefill_done) Sample(state, output);
}

absl::StatusOr<StepResult> FakeEngine::Step(const StepPlan& plan) {
  SLIM_CHECK(!plan.empty());
  const FakeStep step = Describe(plan);
  ++num_steps_;
  if (options_.on_step) options_.on_step(step);
  if (options_.step_failure) {
    absl::Status status = options_.step_failure(step);
    if (!status.ok()) return status;
  }
  int64_t layer_slabs = 0;
  for (const PrefillItem& item : plan.prefill) {
    layer_slabs += KvNeeded(Find(item.sequence).spec).layer_slabs;
  }
  for (const SequenceId id : plan.decode) layer_slabs += KvNeeded(Find(id).spec).layer_slabs;
  if (layer_slabs > options_.max_layer_slabs_per_step) {
    return absl::ResourceExhaustedError("the step needs more slabs of a layer than allowed");
  }
  StepResult result;
  for (size_t i = 0; i < step.rows.size(); ++i) {
    const bool prefill = i < plan.prefill.size();
    SequenceOutput output;
    output.sequence = prefill ? plan.prefill[i].sequence : plan.decode[i - plan.prefill.size()];
    State& state = sequences_.at(output.sequence);
    if (options_.sequence_failure) output.status = options_.sequence_failure(step.rows[i]);
    if (!output.status.ok()) {
      output.in_prefill = prefill;
    } else if (prefill) {
      ComputePrefill(&state, step.rows[i].rows, &output);
      result.prefill_rows += step.rows[i].rows;
    } else {
      state.hash = Fold(state.hash, static_cast<uint64_t>(state.last_token));
      Sample(&state, &output);
      ++result.decode_rows;
    }
    result.outputs.push_back(std::move(output));
  }
  return result;
}

absl::Status FakeEngine::CopyLastLogits(SequenceId, absl::Span<float>) {
  return absl::NotFoundError("a fake engine has no logits");
}

}  // namespace slim
