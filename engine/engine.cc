#include "engine/engine.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "engine/llama_engine.h"

namespace slim {

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Options& options,
                                                       std::unique_ptr<TensorSource> source,
                                                       std::unique_ptr<Backend> backend,
                                                       const Clock* clock) {
  SLIM_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(*source));
  KvManager::Options kv_options;
  kv_options.layout =
      KvLayout{config.num_kv_heads, config.head_dim, options.block_tokens, backend->info().kv_type};
  kv_options.num_layers = config.num_layers;
  kv_options.tier = options.kv_tier;
  kv_options.device_bytes = options.kv_device_bytes;
  kv_options.host_bytes = options.kv_host_bytes;
  kv_options.prefetch = options.kv_prefetch;
  kv_options.keys_apart = options.kv_tier == KvTier::kUnified && backend->info().reads_keys_apart;
  SLIM_ASSIGN_OR_RETURN(const KvLayout layout, KvLayoutOf(kv_options));
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<Llama> model,
                        Llama::Create(*source, config, layout, backend.get()));
  SLIM_ASSIGN_OR_RETURN(const KvMemorySizes kv_sizes, KvMemorySizesOf(kv_options));
  SLIM_ASSIGN_OR_RETURN(KvMemories kv_memories, backend->CreateKvMemories(kv_sizes));
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<KvManager> kv,
                        CreateKvManager(kv_options, clock, std::move(kv_memories)));
  return std::unique_ptr<Engine>(new LlamaEngine(options, std::move(source), std::move(backend),
                                                 std::move(model), std::move(kv)));
}

}  // namespace slim
