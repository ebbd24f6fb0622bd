// The inference engine: sequences in, tokens out. It owns the model, the KV manager and every
// sequence's state, and knows nothing of queues, clients or the wire.
//
// A prompt is computed in *units* (sequence, segment, chunk): the scheduler says how many rows of
// which sequences to compute in a step; the chunk size has no effect on the result. A step may mix
// prefill units of several sequences with decode rows of others.
//
// Thread rule: only the worker thread, except the functions marked thread-safe.
#ifndef ENGINE_ENGINE_H_
#define ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/load/tensor_source.h"
#include "engine/model/model_config.h"
#include "engine/prune/prune_plan.h"
#include "engine/sample/sampling_params.h"
#include "engine/sample/token_logprobs.h"
#include "kvcache/kv_manager.h"

namespace slim {

// Identifies a sequence inside one Engine; never reused.
enum class SequenceId : uint64_t {};

// Everything the engine has to know of a request. Validated by the caller (server) except where
// noted.
struct SequenceSpec {
  std::vector<int32_t> prompt;      // 1 .. context - 1 token ids, each in the vocabulary
  int64_t max_new_tokens = 256;     // prompt + max_new_tokens <= context
  int64_t min_new_tokens = 0;       // `end_tokens` are not sampled before
  bool ignore_eos = false;          // for whoever decides when to stop; not read by the engine
  std::vector<int32_t> end_tokens;  // tokens that end a generation (the engine itself never stops)
  SamplingParams sampling;
  uint64_t seed = 0;
  int top_logprobs = -1;  // -1: none; n >= 0: the chosen token's and the n most likely ones'
  PruneSchedule pruning;
  bool report_scores = false;  // keep scores and retained ids for the pruning report
  std::string cache_salt;
  bool bypass_prefix_cache = false;
};

// The next piece of prefill work of a sequence, as the scheduler needs it.
struct PrefillWork {
  int64_t rows = 0;     // rows left in the current run of chunks; 0: prefill is finished
  double row_cost = 0;  // cost of one row, in row-layers of linear work (attention included)
};

struct PrefillItem {
  SequenceId sequence;
  int64_t max_rows = 0;  // compute at most so many rows of its current run; >= 1
};

struct StepPlan {
  std::vector<PrefillItem> prefill;  // distinct sequences in prefill
  std::vector<SequenceId> decode;    // distinct sequences whose prefill is finished
  bool empty() const { return prefill.empty() && decode.empty(); }
};

// Where a prompt stands.
struct PrefillProgress {
  int64_t done_tokens = 0;  // in prompt tokens, measured in work; == total_tokens at the end
  int64_t total_tokens = 0;
  int64_t retained_tokens = 0;  // tokens that the deepest segment reached so far computes
};

// What a step did for one sequence.
struct SequenceOutput {
  SequenceId sequence;
  absl::Status status;  // not OK: this sequence failed (NaN logits, lost block) and must be removed
  bool in_prefill = false;        // it was a prefill item that has work left
  PrefillProgress progress;       // prefill items only
  absl::optional<int32_t> token;  // sampled in this step
  absl::optional<TokenLogprobs> logprobs;
};

struct StepResult {
  std::vector<SequenceOutput> outputs;  // prefill items, then decode, in the plan's order
  int64_t prefill_rows = 0;             // token rows computed, for metrics
  int64_t decode_rows = 0;
  absl::Duration kv_stall;  // waiting for cached blocks
};

// Final account of a sequence, read before Remove.
struct StageReport {
  int layer = 0;
  int64_t retained_tokens = 0;
  int64_t retained_blocks = 0;
  int64_t chosen_blocks = 0;
  absl::Duration decision_time;
  absl::Duration segment_time;
  std::vector<int32_t> block_ids;  // report_scores only
  std::vector<float> scores;       // report_scores only: of the incoming blocks
};
struct SequenceReport {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t pruned_tokens = 0;  // prompt tokens that the last segment does not hold
  std::vector<StageReport> stages;
  std::string digest;  // of all decisions, 16 hex digits
  int64_t reselect_swaps = 0;
  absl::Duration kv_stall;
  // Token-layers of the prompt computed and skipped; KV bytes stored and what dense would store.
  int64_t kept_token_layers = 0;
  int64_t pruned_token_layers = 0;
  int64_t stored_kv_bytes = 0;
  int64_t full_kv_bytes = 0;
};

// KV cache that a sequence needs in the worst case (no prefix hit, max_new_tokens generated).
struct KvDemand {
  int64_t slabs = 0;        // over all layers, reserved while the sequence lives
  int64_t layer_slabs = 0;  // of the layer that holds most; a step acquires them at a time
};

// Counters of the engine, and what the KV manager counts. Thread-safe snapshot.
struct EngineStats {
  KvStats kv;
  int64_t prefix_cache_query_tokens = 0;
  int64_t prefix_cache_hit_tokens = 0;
  // Keys and values that decode rows saw, summed over layers: what their attention reads at least.
  int64_t decode_kv_bytes = 0;
};

class Engine {
 public:
  struct Options {
    int64_t prefix_cache_bytes = 0;  // 0 turns the prefix cache off
    int block_tokens = 32;           // B, a property of the model's profile: 32 or 64
    KvTier kv_tier = KvTier::kUnified;
    int64_t kv_device_bytes = 0;
    int64_t kv_host_bytes = 0;
    bool kv_prefetch = true;
  };

  // Loads weights into the backend and sizes the KV manager. `source` may be released afterwards
  // except where the backend keeps views of it, so it is owned here. `clock` outlives the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Options& options,
                                                        std::unique_ptr<TensorSource> source,
                                                        std::unique_ptr<Backend> backend,
                                                        const Clock* clock);
  virtual ~Engine() = default;

  // Thread-safe: fixed after Create.
  virtual const ModelConfig& model_config() const = 0;
  virtual const BackendInfo& backend_info() const = 0;
  virtual const TensorSource& source() const = 0;
  virtual int block_tokens() const = 0;
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t capacity_slabs() const = 0;  // of the whole KV cache
  // The most layer_slabs of all sequences of one step together.
  virtual int64_t max_layer_slabs_per_step() const = 0;
  virtual KvDemand KvNeeded(const SequenceSpec& spec) const = 0;
  // The schedule's segments for this prompt length (also prices a request before it runs).
  virtual std::vector<SegmentPlan> Plan(const PruneSchedule& schedule, int64_t tokens) const = 0;
  virtual EngineStats stats() const = 0;

  // Reserves the worst-case KV and takes what the prefix cache has. INVALID_ARGUMENT for an empty
  // or over-long prompt, a token id outside the vocabulary, or a schedule that does not fit the
  // model; RESOURCE_EXHAUSTED when the cache has no room now.
  virtual absl::StatusOr<SequenceId> Add(SequenceSpec spec) = 0;
  // Frees everything of the sequence, in whatever state it is.
  virtual void Remove(SequenceId sequence) = 0;

  virtual PrefillWork NextPrefill(SequenceId sequence) const = 0;
  virtual SequenceReport Report(SequenceId sequence) const = 0;

  // Computes one step. A failure of one sequence is in its output; a status other than OK means
  // the backend itself failed and nothing can be computed any more.
  virtual absl::StatusOr<StepResult> Step(const StepPlan& plan) = 0;

  // The raw logits [vocabulary] behind the token that the last Step sampled for `sequence`, for
  // evaluation. NOT_FOUND when that step sampled none for it.
  virtual absl::Status CopyLastLogits(SequenceId sequence, absl::Span<float> logits) = 0;
  // Replaces the token sampled last by `token` (teacher forcing, for evaluation): the next decode
  // step feeds it. Only between a step that sampled and the next one.
  virtual void ForceToken(SequenceId sequence, int32_t token) = 0;
};

}  // namespace slim

#endif  // ENGINE_ENGINE_H_
