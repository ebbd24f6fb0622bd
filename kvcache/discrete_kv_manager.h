// The tier with two memories: a host pool holds every page, a bounded device arena holds the slabs
// that steps are using, about to use, or can keep. The KV service moves them.
// Thread rule as KvManager. Owns pools, ledger, service and tables.
#ifndef KVCACHE_DISCRETE_KV_MANAGER_H_
#define KVCACHE_DISCRETE_KV_MANAGER_H_

#include <functional>
#include <memory>
#include <vector>

#include "kvcache/block_copier.h"
#include "kvcache/block_pool.h"
#include "kvcache/kv_manager.h"
#include "kvcache/kv_service.h"
#include "kvcache/page_ledger.h"
#include "kvcache/sequence_table.h"

namespace slim {

class DiscreteKvManager final : public KvManager {
 public:
  // Options were validated; memories.copier is set. `idle`: see KvService; empty in production.
  static absl::StatusOr<std::unique_ptr<DiscreteKvManager>> Create(
      const Options& options, const Clock* clock, KvMemories memories,
      std::function<void()> idle = nullptr);

  int64_t capacity_slabs() const override { return host_->total_slabs(); }
  int64_t unreserved_slabs() const override;
  int64_t max_layer_slabs_per_step() const override;
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

  // For tests that drive the service themselves.
  KvService& service() { return *service_; }
  const BlockPool& host_pool() const { return *host_; }
  const SequenceTable& sequences() const { return sequences_; }

 private:
  DiscreteKvManager(const Options& options, const Clock* clock, std::unique_ptr<BlockPool> host,
                    std::unique_ptr<BlockPool> device, std::unique_ptr<BlockCopier> copier,
                    std::function<void()> idle);

  // Gives the ledger what copies have let go of.
  void CollectDrained() const;

  const Options options_;
  std::unique_ptr<BlockPool> host_;
  std::unique_ptr<BlockPool> device_;
  mutable PageLedger ledger_;  // CollectDrained is bookkeeping that readers may trigger
  std::unique_ptr<KvService> service_;
  SequenceTable sequences_;  // destroyed first: its pages are freed through the service
  int64_t acquired_slabs_ = 0;
  std::vector<SlabId> device_scratch_;
  std::vector<SlabId> zero_scratch_;
};

}  // namespace slim

#endif  // KVCACHE_DISCRETE_KV_MANAGER_H_
