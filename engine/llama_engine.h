// The Engine over a Llama-family model: packs the plan's sequences into one pass, decides which
// blocks survive where a segment ends, samples where a row has logits.
// Thread rule: as Engine.
#ifndef ENGINE_LLAMA_ENGINE_H_
#define ENGINE_LLAMA_ENGINE_H_

#include <atomic>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/engine.h"
#include "engine/model/llama.h"
#include "engine/packed_pass.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"

namespace slim {

class LlamaEngine final : public Engine {
 public:
  LlamaEngine(const Options& options, std::unique_ptr<TensorSource> source,
              std::unique_ptr<Backend> backend, std::unique_ptr<Llama> model,
              std::unique_ptr<KvManager> kv);

  const ModelConfig& model_config() const override { return model_->config(); }
  const BackendInfo& backend_info() const override { return backend_->info(); }
  const TensorSource& source() const override { return *source_; }
  int block_tokens() const override { return options_.block_tokens; }
  int64_t weight_bytes() const override { return model_->weight_bytes(); }
  int64_t capacity_slabs() const override { return kv_->capacity_slabs(); }
  int64_t max_layer_slabs_per_step() const override { return kv_->max_layer_slabs_per_step(); }
  KvDemand KvNeeded(const SequenceSpec& spec) const override;
  std::vector<SegmentPlan> Plan(const PruneSchedule& schedule, int64_t tokens) const override;
  EngineStats stats() const override;
  absl::StatusOr<SequenceId> Add(SequenceSpec spec) override;
  void Remove(SequenceId sequence) override;
  PrefillWork NextPrefill(SequenceId sequence) const override;
  SequenceReport Report(SequenceId sequence) const override;
  absl::StatusOr<StepResult> Step(const StepPlan& plan) override;
  absl::Status CopyLastLogits(SequenceId sequence, absl::Span<float> logits) override;
  void ForceToken(SequenceId sequence, int32_t token) override;

 private:
  struct StepItem {
    Sequence* sequence = nullptr;
    bool decode = false;
    int64_t rows = 0;
    int64_t logits_row = -1;  // row of the step's logits, -1: none
    absl::Status status;
  };

  Sequence& Find(SequenceId id) const;
  int64_t GeneratedBlocks(const SequenceSpec& spec) const;
  std::vector<KvSegmentSpec> KvSegments(const SequenceSpec& spec,
                                        const std::vector<SegmentPlan>& plan) const;
  absl::StatusOr<KvSequenceId> ReserveKv(absl::Span<const KvSegmentSpec> segments,
                                         absl::Span<const KvPageRef> prefix);
  absl::Status AllocateBoundary(Sequence& sequence);
  absl::Status PublishPrefix(Sequence& sequence);
  absl::Status CheckSpec(const SequenceSpec& spec) const;

  // The phases of a step.
  absl::Status AppendPages(const StepItem& item, const PassItem& pass);
  absl::Status FinishPrefillChunk(StepItem& item, const PassItem& pass);
  absl::Status Decide(Sequence& sequence);
  void SealWritten(Sequence& sequence, int segment, int64_t written_rows);
  absl::Status ComputeLogits(std::vector<StepItem>& items, absl::Span<const PassItem> passes);
  void SampleToken(StepItem& item, SequenceOutput& output);
  absl::Status AfterLayer(StepItem& item, int layer, TensorView query, const KvPages& pages);
  absl::Status StartReselect(Sequence& sequence, int stage, BlockScoreArgs args,
                             const std::vector<int32_t>& retained,
                             const std::vector<int32_t>& forced);

  const Options options_;
  const std::unique_ptr<TensorSource> source_;
  const std::unique_ptr<Backend> backend_;
  const std::unique_ptr<Llama> model_;
  const std::unique_ptr<KvManager> kv_;
  PackedPass pass_;
  PrefixCache prefix_cache_;
  std::atomic<int64_t> prefix_query_tokens_{0};
  std::atomic<int64_t> prefix_hit_tokens_{0};
  std::atomic<int64_t> decode_kv_bytes_{0};
  uint64_t next_id_ = 1;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Sequence>> sequences_;

  Buffer final_, logits_, window_queries_;
  int64_t logits_rows_reserved_ = 0;
  std::vector<float> host_logits_;            // [rows, vocabulary], the sampler writes in it
  std::vector<SequenceId> logits_sequences_;  // whose row each one is
};

}  // namespace slim

#endif  // ENGINE_LLAMA_ENGINE_H_
