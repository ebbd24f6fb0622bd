// The engine against the oracle (tests/testing/plain_model.h) on small random models: dense, pruned
// in every mode, batched, chunked, with the prefix cache, and in every KV tier, on every backend.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <tuple>

#include "engine/load/gguf_reader.h"
#include "kvcache/block_copier.h"
#include "tests/testing/backends.h"
#include "tests/testing/plain_model.h"
#include "tests/testing/reference_backend.h"
#include "tests/testing/tiny_model.h"

namespace slim {
namespace {

const SteadyClock kClock;
constexpr int kBlock = 32;

TinyModelOptions ModelOptions() {
  TinyModelOptions options;
  options.num_layers = 8;
  options.context_tokens = 2048;
  options.weight_dtypes = {DType::kF32};
  options.embedding_dtype = DType::kF32;
  return options;
}

const std::string& ModelBytes() {
  static const std::string* const bytes = new std::string(MakeTinyModel(ModelOptions()));
  return *bytes;
}

std::vector<int32_t> RandomPrompt(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt(n);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random() % 320);
  return prompt;
}

PruneSchedule TestSchedule() {
  PruneSchedule schedule;
  schedule.stages = {{2, 512}, {4, 416}, {6, 384}};
  schedule.window_tokens = 8;
  schedule.local_tokens = 32;
  return schedule;
}

std::unique_ptr<Engine> MakeEngine(std::unique_ptr<Backend> backend, Engine::Options options = {}) {
  auto source = GgufReader::Parse(ModelBytes());
  EXPECT_TRUE(source.ok()) << source.status();
  options.block_tokens = kBlock;
  if (options.kv_device_bytes == 0) options.kv_device_bytes = int64_t{64} << 20;
  auto engine = Engine::Create(options, *std::move(source), std::move(backend), &kClock);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

SequenceSpec Spec(std::vector<int32_t> prompt, int64_t new_tokens, PruneSchedule schedule = {}) {
  SequenceSpec spec;
  spec.prompt = std::move(prompt);
  spec.max_new_tokens = new_tokens;
  spec.sampling.temperature = 0;
  spec.pruning = std::move(schedule);
  spec.report_scores = true;
  return spec;
}

struct Output {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  SequenceReport report;
};

// Runs sequences together to their ends; each step computes at most `chunk` rows per prompt and one
// token per stream. `forced[i]`, where given, are fed in place of the sampled tokens.
std::vector<Output> RunAll(Engine& engine, const std::vector<SequenceSpec>& specs, int64_t chunk,
                           const std::vector<std::vector<int32_t>>& forced = {}) {
  std::vector<SequenceId> ids;
  std::vector<Output> outputs(specs.size());
  for (const SequenceSpec& spec : specs) {
    const auto id = engine.Add(spec);
    EXPECT_TRUE(id.ok()) << id.status();
    ids.push_back(*id);
  }
  while (true) {
    StepPlan plan;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (engine.NextPrefill(ids[i]).rows > 0) {
        plan.prefill.push_back({ids[i], chunk});
      } else if (static_cast<int64_t>(outputs[i].tokens.size()) < specs[i].max_new_tokens) {
        plan.decode.push_back(ids[i]);
      }
    }
    if (plan.empty()) break;
    const auto step = engine.Step(plan);
    EXPECT_TRUE(step.ok()) << step.status();
    for (const SequenceOutput& out : step->outputs) {
      const size_t i = std::find(ids.begin(), ids.end(), out.sequence) - ids.begin();
      EXPECT_TRUE(out.status.ok()) << out.status;
      if (!out.status.ok()) return outputs;
      if (!out.token) continue;
      std::vector<float> logits(engine.model_config().vocab_size);
      EXPECT_TRUE(engine.CopyLastLogits(ids[i], absl::MakeSpan(logits)).ok());
      outputs[i].logits.push_back(std::move(logits));
      outputs[i].tokens.push_back(*out.token);
      const size_t t = outputs[i].tokens.size() - 1;
      if (!forced.empty() && t < forced[i].size()) engine.ForceToken(ids[i], forced[i][t]);
    }
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    outputs[i].report = engine.Report(ids[i]);
    engine.Remove(ids[i]);
  }
  const KvTierStats kv = engine.stats().kv.device;
  EXPECT_EQ(kv.used_slabs, 0);
  EXPECT_EQ(kv.reserved_slabs, 0);
  return outputs;
}

Output RunOne(Engine& engine, const SequenceSpec& spec, int64_t chunk = 256,
              const std::vector<int32_t>& forced = {}) {
  return RunAll(engine, {spec}, chunk, {forced})[0];
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

class EngineTest : public ::testing::TestWithParam<BackendFactory> {
 protected:
  void SetUp() override {
    if (!GetParam().missing.empty()) GTEST_SKIP() << GetParam().missing;
  }
  static const PlainModel& Plain() {
    static const PlainModel* const model = [] {
      auto source = GgufReader::Parse(ModelBytes());
      return new PlainModel(*PlainModel::Load(**source));
    }();
    return *model;
  }
  // The oracle is slow, and the same for every backend.
  static const PlainRun& Oracle(const std::vector<int32_t>& prompt, const PruneSchedule& schedule,
                                int tokens) {
    using Key = std::tuple<std::vector<int32_t>, int, int, double, int>;
    static auto* const runs = new std::map<Key, PlainRun>;
    const Key key{prompt, static_cast<int>(schedule.score_kind),
                  static_cast<int>(schedule.decode_mode), schedule.gamma,
                  static_cast<int>(schedule.stages.size())};
    const auto found = runs->find(key);
    if (found != runs->end()) return found->second;
    return runs->emplace(key, RunPlain(Plain(), prompt, schedule, kBlock, tokens)).first->second;
  }
  std::unique_ptr<Engine> Make(Engine::Options options = {}) {
    return MakeEngine(GetParam().make(), options);
  }
  // Float weights: what differs is summation order, and a cache of bf16 or bytes where the backend
  // has one.
  double tolerance() const { return GetParam().exact ? 2e-4 : 4e-2; }

  // The oracle follows the engine's decisions by its own scores. Where the cache is rounded, two
  // blocks of nearly equal score may change places; such a seed says nothing, so the sets must
  // agree first.
  void ExpectLikeOracle(Engine& engine, const std::vector<int32_t>& prompt,
                        const PruneSchedule& schedule, int tokens, int64_t chunk) {
    const PlainRun& plain = Oracle(prompt, schedule, tokens);
    const Output run = RunOne(engine, Spec(prompt, tokens, schedule), chunk, plain.tokens);
    ASSERT_EQ(run.report.stages.size() + 1, plain.retained.size());
    for (size_t s = 0; s < run.report.stages.size(); ++s) {
      const std::vector<int32_t>& got = run.report.stages[s].block_ids;
      if (GetParam().exact) {
        EXPECT_EQ(got, plain.retained[s + 1]) << "stage " << s;
      } else if (got != plain.retained[s + 1]) {
        ++near_ties_;
        return;
      }
    }
    ASSERT_EQ(run.logits.size(), plain.logits.size());
    for (size_t t = 0; t < run.logits.size(); ++t) {
      EXPECT_LT(Distance(run.logits[t], plain.logits[t]), tolerance()) << "token " << t;
    }
    ++compared_;
  }
  int compared_ = 0;
  int near_ties_ = 0;
};

TEST_P(EngineTest, DenseAgreesWithTheOracle) {
  auto engine = Make();
  for (const int64_t n : {1, 31, 32, 33, 200}) {
    ExpectLikeOracle(*engine, RandomPrompt(n, n), PruneSchedule{}, 4, 64);
  }
  EXPECT_EQ(compared_, 5);
}

TEST_P(EngineTest, FrozenPruningAgreesWithTheMaskedOracleForEveryScore) {
  auto engine = Make();
  for (const ScoreKind kind : {ScoreKind::kUnitMax, ScoreKind::kUnitSigned, ScoreKind::kMeanPool,
                               ScoreKind::kMaxPool, ScoreKind::kWindowAttention}) {
    PruneSchedule schedule = TestSchedule();
    schedule.score_kind = kind;
    schedule.dilation = kind == ScoreKind::kWindowAttention;
    const int before = compared_;
    for (uint32_t seed = 1; seed <= 6 && compared_ == before; ++seed) {
      ExpectLikeOracle(*engine, RandomPrompt(801, seed), schedule, 3, 256);
    }
    EXPECT_GT(compared_, before) << "score kind " << static_cast<int>(kind);
  }
}

TEST_P(EngineTest, ReselectAgreesWithTheOracleStepByStep) {
  auto engine = Make();
  PruneSchedule schedule = TestSchedule();
  schedule.stages = {{2, 512}, {5, 416}};
  schedule.decode_mode = DecodeMode::kReselect;
  schedule.decode_budget_tokens = 160;
  int swaps = 0;
  for (const double gamma : {1.0, 0.6}) {
    schedule.gamma = gamma;
    const int before = compared_;
    for (uint32_t seed = 1; seed <= 4 && compared_ == before; ++seed) {
      const std::vector<int32_t> prompt = RandomPrompt(701, seed);
      const PlainRun& plain = Oracle(prompt, schedule, 5);
      const Output run = RunOne(*engine, Spec(prompt, 5, schedule), 256, plain.tokens);
      double worst = 0;
      for (size_t t = 0; t < run.logits.size(); ++t) {
        worst = std::max(worst, Distance(run.logits[t], plain.logits[t]));
      }
      // With a rounded cache, blocks of nearly equal score may change places: take another prompt.
      const bool same = run.report.reselect_swaps == plain.swaps && worst < tolerance();
      if (!GetParam().exact && !same) continue;
      EXPECT_EQ(run.report.reselect_swaps, plain.swaps);
      EXPECT_LT(worst, tolerance());
      swaps += static_cast<int>(plain.swaps);
      ++compared_;
    }
    EXPECT_GT(compared_, before) << "gamma " << gamma;
  }
  EXPECT_GT(swaps, 0);
}

constexpr char kRoundsByBatch[] = "how many rows are computed together changes the rounding";

TEST_P(EngineTest, ChunkSizeHasNoEffect) {
  if (!GetParam().batch_invariant) GTEST_SKIP() << kRoundsByBatch;
  auto engine = Make();
  const SequenceSpec spec = Spec(RandomPrompt(801, 3), 3, TestSchedule());
  const Output whole = RunOne(*engine, spec, 4096);
  for (const int64_t chunk : {1, 37, 64, 256}) {
    if (GetParam().name == "reference" && chunk == 1) continue;  // only slow there
    const Output cut = RunOne(*engine, spec, chunk);
    EXPECT_EQ(cut.tokens, whole.tokens);
    EXPECT_EQ(cut.logits, whole.logits) << "chunk " << chunk;
    EXPECT_EQ(cut.report.digest, whole.report.digest);
  }
}

TEST_P(EngineTest, CompanyHasNoEffect) {
  if (!GetParam().batch_invariant) GTEST_SKIP() << kRoundsByBatch;
  auto engine = Make();
  std::vector<SequenceSpec> specs;
  specs.push_back(Spec(RandomPrompt(801, 1), 4, TestSchedule()));
  specs.push_back(Spec(RandomPrompt(20, 2), 9));
  PruneSchedule other = TestSchedule();
  other.stages = {{3, 448}};
  other.score_kind = ScoreKind::kUnitMax;
  specs.push_back(Spec(RandomPrompt(650, 3), 5, other));
  PruneSchedule reselect = TestSchedule();
  reselect.decode_mode = DecodeMode::kReselect;
  specs.push_back(Spec(RandomPrompt(900, 4), 6, reselect));
  specs.push_back(Spec(RandomPrompt(333, 5), 3));
  const std::vector<Output> together = RunAll(*engine, specs, 96);
  for (size_t i = 0; i < specs.size(); ++i) {
    const Output alone = RunOne(*engine, specs[i], 256);
    EXPECT_EQ(together[i].tokens, alone.tokens) << i;
    EXPECT_EQ(together[i].logits, alone.logits) << i;
    EXPECT_EQ(together[i].report.digest, alone.report.digest) << i;
  }
}

TEST_P(EngineTest, AScheduleThatPrunesNothingIsDenseBitForBit) {
  auto engine = Make();
  PruneSchedule large = TestSchedule();
  for (PruneStage& stage : large.stages) stage.budget_tokens = 1024;
  const std::vector<int32_t> prompt = RandomPrompt(801, 7);
  const Output dense = RunOne(*engine, Spec(prompt, 3));
  const Output same = RunOne(*engine, Spec(prompt, 3, large));
  EXPECT_EQ(same.logits, dense.logits);
  EXPECT_EQ(same.report.pruned_tokens, 0);
  EXPECT_TRUE(same.report.stages.empty());
}

TEST_P(EngineTest, TheReportCountsWhatWasKept) {
  auto engine = Make();
  const Output run = RunOne(*engine, Spec(RandomPrompt(801, 8), 2, TestSchedule()));
  ASSERT_EQ(run.report.stages.size(), 3u);
  // 26 blocks, the last with one token; budgets of 16, 13 and 12 blocks.
  EXPECT_EQ(run.report.stages[0].layer, 2);
  EXPECT_EQ(run.report.stages[0].retained_blocks, 16);
  EXPECT_EQ(run.report.stages[0].retained_tokens, 512 - 31);
  EXPECT_EQ(run.report.stages[2].retained_tokens, 384 - 31);
  EXPECT_EQ(run.report.pruned_tokens, 801 - (384 - 31));
  EXPECT_EQ(run.report.kept_token_layers, 2 * (801 + 481 + 385 + 353));
  EXPECT_EQ(run.report.pruned_token_layers, 8 * 801 - 2 * (801 + 481 + 385 + 353));
  EXPECT_EQ(run.report.stages[0].scores.size(), 26u);
  EXPECT_EQ(run.report.stages[1].scores.size(), 16u);
}

TEST_P(EngineTest, APrefixHitGivesTheLogitsOfAColdRun) {
  if (!GetParam().batch_invariant) GTEST_SKIP() << kRoundsByBatch;
  Engine::Options options;
  options.prefix_cache_bytes = int64_t{32} << 20;
  for (const bool pruned : {false, true}) {
    auto cold = Make();
    auto warm = Make(options);
    const PruneSchedule schedule = pruned ? TestSchedule() : PruneSchedule{};
    std::vector<int32_t> first = RandomPrompt(900, 1), second = first;
    for (size_t i = 860; i < second.size(); ++i) second[i] = (second[i] + 7) % 320;
    EXPECT_EQ(RunOne(*warm, Spec(first, 2, schedule)).report.cached_tokens, 0);
    const Output hit = RunOne(*warm, Spec(second, 4, schedule));
    EXPECT_EQ(hit.report.cached_tokens, 832);  // 26 whole blocks of the first 860 tokens
    const Output reference = RunOne(*cold, Spec(second, 4, schedule));
    EXPECT_EQ(hit.logits, reference.logits) << "pruned " << pruned;
    EXPECT_EQ(hit.report.digest, reference.report.digest);
    EXPECT_EQ(warm->stats().prefix_cache_hit_tokens, 832);
    // Another tenant and a request that asks not to, share nothing.
    SequenceSpec other = Spec(second, 1, schedule);
    other.cache_salt = "tenant";
    EXPECT_EQ(RunOne(*warm, other).report.cached_tokens, 0);
    other = Spec(second, 1, schedule);
    other.bypass_prefix_cache = true;
    EXPECT_EQ(RunOne(*warm, other).report.cached_tokens, 0);
  }
}

TEST_P(EngineTest, TheCacheGivesWayToRequests) {
  Engine::Options options;
  options.prefix_cache_bytes = int64_t{256} << 20;
  const KvLayout layout{2, 32, kBlock, GetParam().make()->info().kv_type};
  options.kv_device_bytes = layout.slab_bytes() * 8 * 40;  // 40 dense blocks
  auto engine = Make(options);
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const Output run = RunOne(*engine, Spec(RandomPrompt(900, seed), 2));
    EXPECT_EQ(run.tokens.size(), 2u);
  }
  const KvTierStats kv = engine->stats().kv.device;
  EXPECT_GT(kv.cached_slabs, 0);
  EXPECT_EQ(kv.free_slabs + kv.used_slabs + kv.cached_slabs + kv.held_by_transfer_slabs,
            kv.total_slabs);
}

TEST_P(EngineTest, TheDiscreteTierGivesTheSameTokensAsUnified) {
  auto unified = Make();
  const KvLayout layout{2, 32, kBlock, GetParam().make()->info().kv_type};
  Engine::Options options;
  options.kv_tier = KvTier::kDiscrete;
  options.kv_host_bytes = int64_t{64} << 20;
  // A quarter of what a dense prompt of 900 tokens needs.
  options.kv_device_bytes = layout.slab_bytes() * 8 * 29 / 4;
  auto discrete = Make(options);
  PruneSchedule reselect = TestSchedule();
  reselect.decode_mode = DecodeMode::kReselect;
  reselect.gamma = 1.0;
  const std::vector<PruneSchedule> schedules = {PruneSchedule{}, TestSchedule(), reselect};
  for (size_t i = 0; i < schedules.size(); ++i) {
    const SequenceSpec spec = Spec(RandomPrompt(900, 11 + i), 8, schedules[i]);
    const Output expected = RunOne(*unified, spec);
    const Output got = RunOne(*discrete, spec);
    EXPECT_EQ(got.logits, expected.logits) << i;
    EXPECT_EQ(got.report.digest, expected.report.digest) << i;
  }
  EXPECT_GT(discrete->stats().kv.bytes_to_device, 0);
  EXPECT_EQ(unified->stats().kv.bytes_to_device, 0);
}

TEST_P(EngineTest, RefusesWhatCannotBeComputed) {
  auto engine = Make();
  EXPECT_EQ(engine->Add(Spec({}, 1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Add(Spec({320}, 1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Add(Spec({-1}, 1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Add(Spec({1}, 0)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->Add(Spec({1}, 2048)).status().code(), absl::StatusCode::kInvalidArgument);
  PruneSchedule bad = TestSchedule();
  bad.stages[0].layer = 8;
  EXPECT_EQ(engine->Add(Spec(RandomPrompt(900, 1), 1, bad)).status().code(),
            absl::StatusCode::kInvalidArgument);
  Engine::Options small;
  const KvLayout layout{2, 32, kBlock, GetParam().make()->info().kv_type};
  small.kv_device_bytes = layout.slab_bytes() * 8 * 4;
  auto tight = Make(small);
  EXPECT_EQ(tight->Add(Spec(RandomPrompt(200, 1), 8)).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tight->stats().kv.device.reserved_slabs, 0);
  EXPECT_TRUE(tight->Add(Spec(RandomPrompt(100, 1), 8)).ok());
}

TEST_P(EngineTest, ASequenceMayBeRemovedAtAnyPoint) {
  auto engine = Make();
  for (int steps = 0; steps < 9; ++steps) {
    const auto id = engine->Add(Spec(RandomPrompt(900, 5), 8, TestSchedule()));
    ASSERT_TRUE(id.ok());
    for (int s = 0; s < steps; ++s) {
      StepPlan plan;
      if (engine->NextPrefill(*id).rows > 0) {
        plan.prefill.push_back({*id, 300});
      } else {
        plan.decode.push_back(*id);
      }
      ASSERT_TRUE(engine->Step(plan).ok());
    }
    engine->Remove(*id);
    EXPECT_EQ(engine->stats().kv.device.used_slabs, 0);
    EXPECT_EQ(engine->stats().kv.device.reserved_slabs, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, EngineTest, ::testing::ValuesIn(EngineBackends()),
                         [](const ::testing::TestParamInfo<BackendFactory>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace slim
