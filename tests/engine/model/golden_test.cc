// The default model against stored reference values: hidden states layer by layer, logits, and the
// greedy continuation, on the plain backend, on every variant of the CPU backend, and on CUDA where
// a GPU is (else these cases skip and say why).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/load/open_model.h"
#include "engine/model/llama.h"
#include "kvcache/block_copier.h"
#include "nlohmann/json.hpp"
#include "tests/testing/backends.h"

namespace slim {
namespace {

using Json = nlohmann::json;

const SteadyClock kClock;

// Where the files are; tests/gpu.sh takes this program to machines without the source tree.
std::string PathOf(const char* variable, const char* in_tree) {
  const char* path = std::getenv(variable);
  return path != nullptr ? path : in_tree;
}
std::string DataFile(const std::string& name) {
  return PathOf("SLIM_TEST_DATA", SLIM_TEST_DATA) + "/reference/" + name;
}
std::string ModelPath() { return PathOf("SLIM_TEST_MODEL", SLIM_MODEL_PATH); }

Json ReadJson(const std::string& name) {
  std::ifstream file(DataFile(name));
  return Json::parse(file);
}

std::vector<float> ReadFloats(const std::string& name) {
  std::ifstream file(DataFile(name), std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

bool ModelIsThere() {
  struct stat info;
  return ::stat(ModelPath().c_str(), &info) == 0;
}

double RelativeError(const float* a, const float* b, size_t n) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < n; ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

double Cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(double{a[i]} - b[i]));
  return largest;
}

int64_t ArgMax(const std::vector<float>& v) {
  return std::max_element(v.begin(), v.end()) - v.begin();
}

// Mean of -log p(token after row r) over the rows of `hidden` but the last.
double MeanNll(Llama& model, TensorView hidden, const std::vector<int32_t>& tokens) {
  constexpr int64_t kRows = 64;
  const int64_t vocabulary = model.config().vocab_size, last = hidden.rows - 1;
  const auto buffer = model.backend().Allocate(kRows * vocabulary * int64_t{sizeof(float)});
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  std::vector<float> logits(kRows * vocabulary);
  double sum = 0;
  for (int64_t first = 0; first < last; first += kRows) {
    const int64_t rows = std::min(kRows, last - first);
    const TensorView view{buffer->data(), rows, vocabulary};
    EXPECT_TRUE(model.Logits(hidden.Rows(first, rows), view).ok());
    EXPECT_TRUE(model.backend().CopyToHost(view.data, logits.data(), rows * view.row_bytes()).ok());
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = &logits[r * vocabulary];
      const double largest = *std::max_element(row, row + vocabulary);
      double total = 0;
      for (int64_t i = 0; i < vocabulary; ++i) total += std::exp(row[i] - largest);
      sum += largest + std::log(total) - row[tokens[first + r + 1]];
    }
  }
  return sum / static_cast<double>(last);
}

struct PromptRun {
  std::vector<float>
      states;           // of the last token after the embedding and each layer [layers + 1][d]
  double mean_nll = 0;  // when asked for
};

// The prompt layer by layer, its rows as the engine marks them.
PromptRun RunPrompt(std::unique_ptr<Backend> backend, const std::vector<int32_t>& tokens,
                    bool with_nll) {
  auto source = OpenModel(ModelPath());
  EXPECT_TRUE(source.ok()) << source.status();
  const ModelConfig config = *ReadModelConfig(**source);
  const KvLayout layout{config.num_kv_heads, config.head_dim, 32, backend->info().kv_type};
  auto model = Llama::Create(**source, config, layout, backend.get());
  EXPECT_TRUE(model.ok()) << model.status();
  KvManager::Options options;
  options.layout = layout;
  options.num_layers = config.num_layers;
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t blocks = (n + 31) / 32;
  options.device_bytes = layout.slab_bytes() * blocks * config.num_layers;
  const auto sizes = KvMemorySizesOf(options);
  EXPECT_TRUE(sizes.ok()) << sizes.status();
  auto memories = backend->CreateKvMemories(*sizes);
  EXPECT_TRUE(memories.ok()) << memories.status();
  auto kv = CreateKvManager(options, &kClock, *std::move(memories));
  EXPECT_TRUE(kv.ok()) << kv.status();
  const auto sequence = (*kv)->AddSequence({KvSegmentSpec{0, config.num_layers, blocks}});
  std::vector<int32_t> ids(blocks);
  std::iota(ids.begin(), ids.end(), 0);
  EXPECT_TRUE((*kv)->AppendBlocks(*sequence, 0, ids).ok());
  EXPECT_TRUE((*kv)->BeginStep({KvUse{*sequence, 0, config.num_layers, 0}}).ok());

  const auto hidden = backend->Allocate(n * config.width * static_cast<int64_t>(sizeof(float)));
  EXPECT_TRUE(hidden.ok()) << hidden.status();
  const TensorView view{hidden->data(), n, config.width};
  PromptRun run;
  std::vector<float>& states = run.states;
  const int64_t exact =
      backend->info().prompt_rows_apart ? std::min<int64_t>(n, kExactPositions) : n;
  const PromptRowRange prompt_range{exact, n};
  const auto append_last_row = [&] {
    states.resize(states.size() + config.width);
    EXPECT_TRUE(backend
                    ->CopyToHost(view.Rows(n - 1, 1).data, &states[states.size() - config.width],
                                 view.row_bytes())
                    .ok());
  };
  EXPECT_TRUE((*model)->Embed(tokens, view).ok());
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), 0);
  append_last_row();
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const auto pages = (*kv)->AcquireLayer(*sequence, layer);
    EXPECT_TRUE(pages.ok()) << pages.status();
    std::vector<KvSlot> slots;
    for (int64_t t = 0; t < n; ++t) {
      slots.push_back({pages->slabs[t / 32], static_cast<int32_t>(t % 32)});
    }
    const std::vector<AttentionSequence> sequences = {{0, n, pages->slabs, pages->block_ids}};
    LayerBatch batch;
    batch.hidden = view;
    batch.full_rows = n;
    batch.positions = positions;
    batch.slots = slots;
    batch.sequences = sequences;
    if (exact < n) batch.prompt_ranges = absl::MakeConstSpan(&prompt_range, 1);
    EXPECT_TRUE((*model)->RunLayer(layer, batch).ok());
    (*kv)->ReleaseLayer(*sequence, layer);
    append_last_row();
  }
  (*kv)->EndStep();
  (*kv)->RemoveSequence(*sequence);
  if (with_nll) run.mean_nll = MeanNll(**model, view, tokens);
  return run;
}

struct Generation {
  std::vector<float> first_logits;
  std::vector<int32_t> tokens;
};

Generation Generate(std::unique_ptr<Backend> backend, const std::vector<int32_t>& prompt,
                    int64_t count, int64_t chunk) {
  auto source = OpenModel(ModelPath());
  EXPECT_TRUE(source.ok()) << source.status();
  Engine::Options options;
  options.kv_device_bytes = int64_t{512} << 20;
  auto engine = Engine::Create(options, *std::move(source), std::move(backend), &kClock);
  EXPECT_TRUE(engine.ok()) << engine.status();
  SequenceSpec spec;
  spec.prompt = prompt;
  spec.max_new_tokens = count;
  spec.sampling.temperature = 0;
  const auto id = (*engine)->Add(spec);
  EXPECT_TRUE(id.ok()) << id.status();
  Generation result;
  while (static_cast<int64_t>(result.tokens.size()) < count) {
    StepPlan plan;
    if ((*engine)->NextPrefill(*id).rows > 0) {
      plan.prefill.push_back({*id, chunk});
    } else {
      plan.decode.push_back(*id);
    }
    const auto step = (*engine)->Step(plan);
    EXPECT_TRUE(step.ok()) << step.status();
    EXPECT_TRUE(step->outputs[0].status.ok()) << step->outputs[0].status;
    if (!step->outputs[0].token) continue;
    if (result.tokens.empty()) {
      result.first_logits.resize((*engine)->model_config().vocab_size);
      EXPECT_TRUE((*engine)->CopyLastLogits(*id, absl::MakeSpan(result.first_logits)).ok());
    }
    result.tokens.push_back(*step->outputs[0].token);
  }
  (*engine)->Remove(*id);
  EXPECT_EQ((*engine)->stats().kv.device.used_slabs, 0);
  return result;
}

struct Case {
  BackendFactory backend;
  std::string prompt;
};

class GoldenTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!GetParam().backend.missing.empty()) GTEST_SKIP() << GetParam().backend.missing;
    if (!ModelIsThere()) GTEST_SKIP() << "no model file at " << ModelPath();
    prompt_ = ReadJson("prompts.json")[GetParam().prompt]["ids"].get<std::vector<int32_t>>();
    reference_ = ReadJson("logits_reference.json")[GetParam().prompt];
  }
  bool exact() const { return GetParam().backend.exact; }
  std::vector<int32_t> prompt_;
  Json reference_;
};

TEST_P(GoldenTest, HiddenStatesAgreeLayerByLayer) {
  if (prompt_.size() > 1000) GTEST_SKIP() << "layer by layer only for the shorter prompts";
  const std::vector<float> expected = ReadFloats("hidden_fp32_" + GetParam().prompt + ".f32");
  const std::vector<float> states =
      RunPrompt(GetParam().backend.make(), prompt_, /*with_nll=*/false).states;
  ASSERT_EQ(states.size(), expected.size());
  const double tolerance = exact() ? 1e-3 : 6e-2;
  const size_t width = 576;
  for (size_t layer = 0; layer * width < expected.size(); ++layer) {
    EXPECT_LT(RelativeError(&states[layer * width], &expected[layer * width], width), tolerance)
        << "after layer " << layer;
  }
}

TEST_P(GoldenTest, PerplexityOfALongTextAgrees) {
  if (prompt_.size() < 1000 || exact()) GTEST_SKIP() << "for the fast paths, on the longest prompt";
  const double nll = RunPrompt(GetParam().backend.make(), prompt_, /*with_nll=*/true).mean_nll;
  const double expected = reference_["mean_nll_fp32"].get<double>();
  std::cout << "mean NLL " << nll << ", fp32 " << expected << "\n";
  EXPECT_NEAR(nll, expected, 0.005);  // half a per cent of perplexity
}

TEST_P(GoldenTest, LogitsAndGreedyTextAgree) {
  const std::vector<float> expected = ReadFloats("logits_fp32_" + GetParam().prompt + ".f32");
  const auto greedy = reference_["greedy_fp32"].get<std::vector<int32_t>>();
  const auto margins = reference_["margins_fp32"].get<std::vector<double>>();
  const int64_t count = exact() && prompt_.size() > 1000 ? 2 : 32;
  const Generation run = Generate(GetParam().backend.make(), prompt_, count, 256);
  ASSERT_EQ(run.first_logits.size(), expected.size());
  const double cosine = Cosine(run.first_logits, expected);
  const double largest = LargestDifference(run.first_logits, expected);
  std::cout << "cosine " << cosine << ", max |d| " << largest << ", relative "
            << RelativeError(run.first_logits.data(), expected.data(), expected.size()) << "\n";
  EXPECT_EQ(ArgMax(run.first_logits), ArgMax(expected));
  if (exact()) {
    EXPECT_LT(RelativeError(run.first_logits.data(), expected.data(), expected.size()), 1e-3);
  } else {
    EXPECT_GE(cosine, 0.9998);
    EXPECT_LE(largest, 0.8);
  }
  // Equal up to the first step at which another token is nearly as likely.
  for (size_t i = 0; i < run.tokens.size() && margins[i] >= (exact() ? 0.01 : 0.8); ++i) {
    EXPECT_EQ(run.tokens[i], greedy[i]) << "token " << i;
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const BackendFactory& backend : EngineBackends()) {
    for (const std::string prompt : {"short", "p500", "p4000"}) {
      // Minutes of scalar code would add nothing to what the shorter prompts show.
      if (backend.name == "cpu_portable" && prompt == "p4000") continue;
      cases.push_back({backend, prompt});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Backends, GoldenTest, ::testing::ValuesIn(Cases()),
                         [](const ::testing::TestParamInfo<Case>& info) {
                           return info.param.backend.name + "_" + info.param.prompt;
                         });

}  // namespace
}  // namespace slim
