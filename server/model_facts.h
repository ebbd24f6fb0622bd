// Gathers what the server knows of itself once the model is open. Thread-safe (pure functions).
#ifndef SERVER_MODEL_FACTS_H_
#define SERVER_MODEL_FACTS_H_

#include "absl/types/optional.h"
#include "engine/backend/backend.h"
#include "engine/load/tensor_source.h"
#include "engine/model/model_config.h"
#include "engine/prune/profile.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/server_facts.h"

namespace slim {

extern const char kVersion[];
extern const char kRevision[];  // of the source, "unknown" outside of a checkout

// Resolves names, block size and KV sizes; `started` is the caller's.
ServerFacts MakeServerFacts(const ServerConfig& config, const ModelConfig& model,
                            const TensorSource& source, const Tokenizer& tokenizer,
                            const ChatTemplate& chat_template,
                            const absl::optional<PruneProfile>& profile,
                            const BackendInfo& backend);

Metrics::Facts MakeMetricsFacts(const ServerFacts& facts, const ModelConfig& model,
                                const BackendInfo& backend);

}  // namespace slim

#endif  // SERVER_MODEL_FACTS_H_
