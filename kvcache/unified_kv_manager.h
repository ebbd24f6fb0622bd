// The tier with one memory: acquired pages are the pool's own slabs, nothing is ever copied.
// Thread rule as KvManager. Owns the pool and the tables.
#ifndef KVCACHE_UNIFIED_KV_MANAGER_H_
#define KVCACHE_UNIFIED_KV_MANAGER_H_

#include <memory>
#include <vector>

#include "kvcache/block_pool.h"
#include "kvcache/kv_manager.h"
#include "kvcache/page_ledger.h"
#include "kvcache/sequence_table.h"

namespace slim {

class UnifiedKvManager final : public KvManager {
 public:
  // RESOURCE_EXHAUSTED when the memory cannot be mapped. Options were validated. `memory`: of the
  // pool; null: host memory.
  static absl::StatusOr<std::unique_ptr<UnifiedKvManager>> Create(
      const Options& options, std::unique_ptr<SlabMemory> memory);

  int64_t capacity_slabs() const override { return pool_->total_slabs(); }
  int64_t unreserved_slabs() const override { return ledger_.unreserved(); }
  int64_t max_layer_slabs_per_step() const override { return pool_->total_slabs(); }
  const KvLayout& layout() const override { return options_.layout; }

  absl::StatusOr<KvSequenceId> AddSequence(absl::Span<const KvSegmentSpec> segments) override;
  absl::StatusOr<KvSequenceId> AddSequenceWithPrefix(absl::Span<const KvSegmentSpec> segments,
                                                     absl::Span<const KvPageRef> prefix) override;
  absl::StatusOr<std::vector<KvPageRef>> PublishBlocks(KvSequenceId sequence, int segment,
                                                       int32_t begin_block,
                                                       int32_t end_block) override;
  void RemoveSequence(KvSequenceId sequence) override;
  absl::Status AppendBlocks(KvSequenceId sequence, int segment,
                            absl::Span<const int32_t> block_ids) override;
  void SealBlocks(KvSequenceId sequence, int segment, int32_t end_block) override;
  absl::Status SetActiveBlocks(KvSequenceId sequence, int segment,
                               absl::Span<const int32_t> block_ids) override;
  absl::Status BeginStep(absl::Span<const KvUse> uses) override;
  absl::StatusOr<KvPages> AcquireLayer(KvSequenceId sequence, int layer) override;
  void ReleaseLayer(KvSequenceId sequence, int layer) override;
  void EndStep() override;
  KvStats stats() const override;
  absl::Status CheckInvariants() override;

 private:
  UnifiedKvManager(const Options& options, std::unique_ptr<BlockPool> pool);

  const Options options_;
  std::unique_ptr<BlockPool> pool_;
  PageLedger ledger_;
  SequenceTable sequences_;
};

}  // namespace slim

#endif  // KVCACHE_UNIFIED_KV_MANAGER_H_
