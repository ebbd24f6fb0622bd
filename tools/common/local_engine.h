// A model opened in this process, without server or scheduler: what bench and eval measure.
//
// Thread rule: one thread. LocalModel owns everything; sequences are the caller's to remove.
#ifndef TOOLS_COMMON_LOCAL_ENGINE_H_
#define TOOLS_COMMON_LOCAL_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/backend/create_backend.h"
#include "engine/base/clock.h"
#include "engine/engine.h"
#include "engine/prune/profile.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "tools/common/result_json.h"

namespace slim {

struct LocalModelOptions {
  std::string model;     // GGUF file
  std::string geometry;  // instead of a file: random weights of published shapes, no tokenizer
  std::string profile;   // profile file, empty = the one built in for the model, if any
  BackendKind backend = BackendKind::kCpu;
  int threads = 0;  // CPU: 0 = what cpuset and cgroup allow
  std::string isa;  // CPU: empty = the best one; else as CpuIsaName
  // What the KV cache must hold at once.
  int64_t tokens_per_stream = 0;  // prompt plus output; 0 = the model's context
  int streams = 1;
  int64_t prefix_cache_bytes = 0;
  KvTier kv_tier = KvTier::kUnified;
  double device_share = 1.0;  // discrete: device arena as a share of the KV that the streams need
  bool kv_prefetch = true;
};

struct LocalModel {
  SteadyClock clock;                     // outlives the engine
  std::unique_ptr<Tokenizer> tokenizer;  // null with random weights
  ChatTemplate chat_template;
  absl::optional<PruneProfile> profile;
  std::unique_ptr<Engine> engine;
  Backend* backend = nullptr;  // the engine's, for op times only
  absl::Duration load_time;    // of OpenLocalModel

  MachineInfo Machine() const;
  // Token ids whose content does not matter, from this seed: of ordinary text pieces, or any at all
  // where there is no tokenizer.
  std::vector<int32_t> RandomPrompt(int64_t num_tokens, uint64_t seed) const;
  // One user message through the chat template, ready for the answer. Needs a tokenizer.
  absl::StatusOr<std::vector<int32_t>> EncodeUserMessage(const std::string& text) const;
};

// INVALID_ARGUMENT for an unknown instruction set or geometry, or a profile of another model; the
// errors of OpenModel, Tokenizer::Create, CreateBackend and Engine::Create.
absl::StatusOr<std::unique_ptr<LocalModel>> OpenLocalModel(const LocalModelOptions& options);

// Removes its sequence when it goes out of scope.
class ScopedSequence {
 public:
  ScopedSequence(Engine* engine, SequenceId id) : engine_(engine), id_(id) {}
  ScopedSequence(ScopedSequence&& other) noexcept : engine_(other.engine_), id_(other.id_) {
    other.engine_ = nullptr;
  }
  ScopedSequence& operator=(ScopedSequence&&) = delete;
  ~ScopedSequence() {
    if (engine_ != nullptr) engine_->Remove(id_);
  }
  SequenceId id() const { return id_; }

 private:
  Engine* engine_;
  SequenceId id_;
};

// Adds a sequence and computes its whole prompt in steps of at most `chunk_tokens` rows; on return
// `token` is the first sampled token. The status of a failed sequence is returned.
struct PrefillResult {
  ScopedSequence sequence;
  int32_t token = -1;
  absl::Duration time;  // from Add to the first token
};
absl::StatusOr<PrefillResult> RunPrefill(LocalModel& model, SequenceSpec spec,
                                         int64_t chunk_tokens);

// One decode step of all these sequences; their next tokens in the same order.
absl::StatusOr<std::vector<int32_t>> RunDecodeStep(LocalModel& model,
                                                   absl::Span<const SequenceId> sequences);

}  // namespace slim

#endif  // TOOLS_COMMON_LOCAL_ENGINE_H_
