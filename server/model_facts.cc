#include "server/model_facts.h"

#include <algorithm>
#include <map>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "engine/base/available_memory.h"
#include "server/memory_plan.h"

namespace slim {

const char kVersion[] = SLIM_VERSION;
const char kRevision[] = SLIM_REVISION;

namespace {

constexpr int kDefaultBlockTokens = 64;

// A name that requests and metric labels can carry: printable, without spaces.
std::string CleanName(absl::string_view name) {
  std::string clean;
  for (const char c : name.substr(0, 128)) {
    clean.push_back(absl::ascii_isgraph(static_cast<unsigned char>(c)) ? c : '-');
  }
  return clean;
}

std::string ModelName(const ServerConfig& config, const ModelConfig& model) {
  if (!config.model_name.empty()) return config.model_name;
  if (!model.name.empty()) return CleanName(model.name);
  absl::string_view path = config.model;
  while (absl::ConsumeSuffix(&path, "/")) {
  }
  absl::string_view file = path.substr(path.rfind('/') + 1);
  absl::ConsumeSuffix(&file, ".gguf");
  return CleanName(file);
}

// By bytes: a few large matrices say more than many small vectors.
std::string MostCommonType(const TensorSource& source) {
  std::map<std::string, int64_t> bytes_of;
  for (const std::string& name : source.TensorNames()) {
    const auto tensor = source.GetTensor(name);
    if (tensor.ok()) bytes_of[std::string(DTypeName(tensor->dtype))] += tensor->bytes();
  }
  std::string best;
  for (const auto& [type, bytes] : bytes_of) {
    if (best.empty() || bytes > bytes_of[best]) best = type;
  }
  return best;
}

// What the pool whose size is to be chosen can take from: the device pool of the unified tier lies
// where the backend works, which holds the weights too (in 16 bits), the discrete tier's in host
// memory.
int64_t PoolMemoryBytes(KvTier tier, const ModelConfig& model, const BackendInfo& backend) {
  if (tier == KvTier::kDiscrete || backend.free_device_bytes == 0) return AvailableMemoryBytes();
  const int64_t attention = int64_t{2} * (model.num_heads + model.num_kv_heads) * model.head_dim;
  const int64_t layer = model.width * (attention + int64_t{3} * model.ffn_width);
  const int64_t vocabulary = model.vocab_size * model.width * (model.tied_embedding ? 1 : 2);
  return std::max<int64_t>(0,
                           backend.free_device_bytes - 2 * (model.num_layers * layer + vocabulary));
}

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

ServerFacts MakeServerFacts(const ServerConfig& config, const ModelConfig& model,
                            const TensorSource& source, const Tokenizer& tokenizer,
                            const ChatTemplate& chat_template,
                            const absl::optional<PruneProfile>& profile,
                            const BackendInfo& backend) {
  const KvType kv_type = backend.kv_type;
  ServerFacts facts;
  facts.version = kVersion;
  facts.revision = kRevision;
  facts.model_name = ModelName(config, model);
  facts.dtype = MostCommonType(source);
  facts.chat_template = std::string(chat_template.name());
  facts.eos_token_ids = tokenizer.end_tokens();
  facts.bos_token_id = tokenizer.bos_token();
  if (profile.has_value()) facts.profile = profile->name;
  facts.block_tokens = config.block_tokens;
  if (facts.block_tokens == 0) {
    facts.block_tokens = profile.has_value() ? profile->block_tokens : kDefaultBlockTokens;
  }
  facts.kv_tier = config.kv_tier == KvTier::kUnified ? "unified" : "discrete";
  facts.kv_dtype = KvTypeName(kv_type);
  const KvLayout layout{model.num_kv_heads, model.head_dim, facts.block_tokens, kv_type};
  facts.kv_bytes_per_token = layout.token_bytes() * model.num_layers;
  // Two more blocks: prompt and output each end in a block of their own.
  const int64_t sequence_tokens =
      RoundUp(model.context_tokens, facts.block_tokens) + 2 * facts.block_tokens;
  const KvBytes kv = PlanKvBytes({config.kv_device_bytes, config.kv_host_bytes}, config.kv_tier,
                                 sequence_tokens * facts.kv_bytes_per_token, config.max_running,
                                 PoolMemoryBytes(config.kv_tier, model, backend));
  facts.kv_device_bytes = kv.device;
  if (backend.free_device_bytes > 0 && config.kv_device_bytes == 0) {
    // The arena of the discrete tier was sized by host memory.
    const int64_t room = PoolMemoryBytes(KvTier::kUnified, model, backend) / 2;
    facts.kv_device_bytes = std::min(kv.device, std::max<int64_t>(room, 1));
  }
  facts.kv_host_bytes = kv.host;
  facts.prefix_cache_bytes = config.prefix_cache_bytes;
  facts.max_running = config.max_running;
  facts.max_queued_requests = config.max_queued_requests;
  facts.max_queued_tokens = config.max_queued_tokens;
  facts.pruning = PruningDefaultText(config.pruning);
  facts.decode_mode = config.decode == DecodeMode::kFrozen ? "frozen" : "reselect";
  return facts;
}

Metrics::Facts MakeMetricsFacts(const ServerFacts& facts, const ModelConfig& model,
                                const BackendInfo& backend) {
  Metrics::Facts metrics;
  metrics.model_name = facts.model_name;
  metrics.version = facts.version;
  metrics.revision = facts.revision;
  metrics.backend = backend.name;
  metrics.architecture = model.architecture;
  metrics.dtype = facts.dtype;
  metrics.max_model_len = model.context_tokens;
  metrics.block_tokens = facts.block_tokens;
  const int64_t slab_bytes = facts.kv_bytes_per_token / model.num_layers * facts.block_tokens;
  const int64_t pool_bytes = facts.kv_host_bytes > 0 ? facts.kv_host_bytes : facts.kv_device_bytes;
  metrics.capacity_slabs = slab_bytes > 0 ? pool_bytes / slab_bytes : 0;
  metrics.kv_tier = facts.kv_tier;
  metrics.kv_dtype = facts.kv_dtype;
  metrics.prefix_cache_bytes = facts.prefix_cache_bytes;
  metrics.host_kv_pool_bytes = facts.kv_host_bytes;
  metrics.num_layers = model.num_layers;
  return metrics;
}

}  // namespace slim
