#include "tools/common/local_engine.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/load/open_model.h"
#include "engine/model/model_config.h"
#include "tools/common/random_model.h"

namespace slim {
namespace {

absl::StatusOr<absl::optional<CpuIsa>> FindIsa(const std::string& name) {
  if (name.empty()) return absl::optional<CpuIsa>();
  std::string known;
  for (const CpuIsa isa : SupportedIsas(DetectCpuFeatures())) {
    if (CpuIsaName(isa) == name) return absl::optional<CpuIsa>(isa);
    absl::StrAppend(&known, known.empty() ? "" : ", ", CpuIsaName(isa));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--isa is '", name, "', this processor has ", known));
}

absl::StatusOr<absl::optional<PruneProfile>> FindProfile(const std::string& path,
                                                         const ModelConfig& config) {
  if (path.empty()) return BuiltInProfile(config);
  SLIM_ASSIGN_OR_RETURN(PruneProfile profile, ReadProfile(path));
  if (!profile.Matches(config)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--profile ", path, ": '", profile.name, "' is for another model"));
  }
  return absl::optional<PruneProfile>(std::move(profile));
}

// KV bytes of `streams` dense sequences, and one block more each for the partly filled ends.
int64_t KvBytesNeeded(const LocalModelOptions& options, const ModelConfig& config,
                      const KvLayout& layout) {
  const int64_t tokens =
      options.tokens_per_stream > 0 ? options.tokens_per_stream : config.context_tokens;
  const int64_t blocks = (tokens + layout.block_tokens - 1) / layout.block_tokens + 1;
  return options.streams * blocks * config.num_layers * layout.slab_bytes();
}

Engine::Options EngineOptions(const LocalModelOptions& options, const ModelConfig& config,
                              const KvLayout& layout) {
  Engine::Options engine;
  engine.block_tokens = layout.block_tokens;
  engine.prefix_cache_bytes = options.prefix_cache_bytes;
  engine.kv_tier = options.kv_tier;
  engine.kv_prefetch = options.kv_prefetch;
  const int64_t needed = KvBytesNeeded(options, config, layout) + options.prefix_cache_bytes;
  engine.kv_device_bytes = needed;
  if (options.kv_tier == KvTier::kDiscrete) {
    engine.kv_host_bytes = needed;
    engine.kv_device_bytes =
        static_cast<int64_t>(options.device_share * static_cast<double>(needed));
  }
  return engine;
}

absl::StatusOr<std::unique_ptr<TensorSource>> OpenSource(const LocalModelOptions& options) {
  if (options.geometry.empty()) return OpenModel(options.model);
  SLIM_ASSIGN_OR_RETURN(const ModelGeometry geometry, FindGeometry(options.geometry));
  return MakeRandomModel(geometry, /*seed=*/1);
}

}  // namespace

MachineInfo LocalModel::Machine() const {
  const BackendInfo& backend = engine->backend_info();
  MachineInfo machine;
  machine.cpu = DetectCpuFeatures().model_name;
  machine.isa = backend.isa;
  machine.threads = backend.num_threads;
  if (backend.name == "cuda") machine.gpu = backend.device;
  machine.commit = BuildCommit();
  machine.load_seconds = absl::ToDoubleSeconds(load_time);
  return machine;
}

absl::StatusOr<std::vector<int32_t>> LocalModel::EncodeUserMessage(const std::string& text) const {
  SLIM_ASSIGN_OR_RETURN(const std::vector<PromptPiece> pieces,
                        chat_template.Render({ChatMessage{"user", text}}));
  return tokenizer->EncodePieces(pieces);
}

absl::StatusOr<std::unique_ptr<LocalModel>> OpenLocalModel(const LocalModelOptions& options) {
  auto model = std::make_unique<LocalModel>();
  const absl::Time begin = model->clock.Now();
  SLIM_ASSIGN_OR_RETURN(const absl::optional<CpuIsa> isa, FindIsa(options.isa));
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, OpenSource(options));
  SLIM_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(*source));
  if (options.geometry.empty()) {
    SLIM_ASSIGN_OR_RETURN(model->tokenizer, Tokenizer::Create(*source));
    model->chat_template = ChatTemplate::FromSource(*source);
  }
  SLIM_ASSIGN_OR_RETURN(model->profile, FindProfile(options.profile, config));
  BackendOptions backend_options;
  backend_options.kind = options.backend;
  backend_options.num_threads = options.threads;
  backend_options.isa = isa;
  SLIM_ASSIGN_OR_RETURN(BackendChoice choice, CreateBackend(backend_options));
  std::unique_ptr<Backend> backend = std::move(choice.backend);
  model->backend = backend.get();
  const int block_tokens = model->profile.has_value() ? model->profile->block_tokens : 64;
  const KvLayout layout{config.num_kv_heads, config.head_dim, block_tokens,
                        backend->info().kv_type};
  SLIM_ASSIGN_OR_RETURN(model->engine,
                        Engine::Create(EngineOptions(options, config, layout), std::move(source),
                                       std::move(backend), &model->clock));
  model->load_time = model->clock.Now() - begin;
  return model;
}

absl::StatusOr<PrefillResult> RunPrefill(LocalModel& model, SequenceSpec spec,
                                         int64_t chunk_tokens) {
  Engine& engine = *model.engine;
  const absl::Time begin = model.clock.Now();
  SLIM_ASSIGN_OR_RETURN(const SequenceId id, engine.Add(std::move(spec)));
  PrefillResult result{ScopedSequence(&engine, id), -1, absl::ZeroDuration()};
  StepPlan plan;
  plan.prefill.push_back(PrefillItem{id, chunk_tokens});
  while (result.token < 0) {
    SLIM_ASSIGN_OR_RETURN(const StepResult step, engine.Step(plan));
    const SequenceOutput& output = step.outputs.at(0);
    SLIM_RETURN_IF_ERROR(output.status);
    if (output.token.has_value()) result.token = *output.token;
  }
  result.time = model.clock.Now() - begin;
  return result;
}

absl::StatusOr<std::vector<int32_t>> RunDecodeStep(LocalModel& model,
                                                   absl::Span<const SequenceId> sequences) {
  StepPlan plan;
  plan.decode.assign(sequences.begin(), sequences.end());
  SLIM_ASSIGN_OR_RETURN(const StepResult step, model.engine->Step(plan));
  std::vector<int32_t> tokens;
  for (const SequenceOutput& output : step.outputs) {
    SLIM_RETURN_IF_ERROR(output.status);
    if (!output.token.has_value()) return absl::InternalError("a decode step sampled no token");
    tokens.push_back(*output.token);
  }
  return tokens;
}

std::vector<int32_t> LocalModel::RandomPrompt(int64_t num_tokens, uint64_t seed) const {
  std::mt19937_64 generator(seed);
  const auto vocab_size = static_cast<uint64_t>(
      tokenizer != nullptr ? tokenizer->vocab_size() : engine->model_config().vocab_size);
  std::vector<int32_t> tokens;
  tokens.reserve(num_tokens);
  while (static_cast<int64_t>(tokens.size()) < num_tokens) {
    const auto token = static_cast<int32_t>(generator() % vocab_size);
    if (tokenizer == nullptr || !tokenizer->IsControl(token)) tokens.push_back(token);
  }
  return tokens;
}

}  // namespace slim
