#include "kvcache/unified_kv_manager.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {

absl::StatusOr<std::unique_ptr<UnifiedKvManager>> UnifiedKvManager::Create(
    const Options& options, std::unique_ptr<SlabMemory> memory) {
  Options resolved = options;
  SLIM_ASSIGN_OR_RETURN(resolved.layout, KvLayoutOf(options));
  SLIM_ASSIGN_OR_RETURN(const KvMemorySizes sizes, KvMemorySizesOf(options));
  SLIM_ASSIGN_OR_RETURN(
      auto pool,
      BlockPool::Create(options.layout.slab_bytes(), sizes.device_slabs, options.poison_freed,
                        std::move(memory),
                        options.keys_apart ? BlockPool::Shape::kHalves : BlockPool::Shape::kWhole));
  return std::unique_ptr<UnifiedKvManager>(new UnifiedKvManager(resolved, std::move(pool)));
}

UnifiedKvManager::UnifiedKvManager(const Options& options, std::unique_ptr<BlockPool> pool)
    : options_(options),
      pool_(std::move(pool)),
      ledger_(pool_.get(), [](SlabId) { return true; }),
      sequences_(&ledger_, options.num_layers) {}

absl::StatusOr<KvSequenceId> UnifiedKvManager::AddSequence(
    absl::Span<const KvSegmentSpec> segments) {
  return sequences_.Add(segments, {});
}

absl::StatusOr<KvSequenceId> UnifiedKvManager::AddSequenceWithPrefix(
    absl::Span<const KvSegmentSpec> segments, absl::Span<const KvPageRef> prefix) {
  return sequences_.Add(segments, prefix);
}

absl::StatusOr<std::vector<KvPageRef>> UnifiedKvManager::PublishBlocks(KvSequenceId sequence,
                                                                       int segment,
                                                                       int32_t begin_block,
                                                                       int32_t end_block) {
  return sequences_.Publish(sequence, segment, begin_block, end_block);
}

void UnifiedKvManager::RemoveSequence(KvSequenceId sequence) { sequences_.Remove(sequence); }

absl::Status UnifiedKvManager::AppendBlocks(KvSequenceId sequence, int segment,
                                            absl::Span<const int32_t> block_ids) {
  return sequences_.Append(sequence, segment, block_ids);
}

void UnifiedKvManager::SealBlocks(KvSequenceId sequence, int segment, int32_t end_block) {
  SLIM_CHECK(sequences_.Seal(sequence, segment, end_block).ok());
}

absl::Status UnifiedKvManager::SetActiveBlocks(KvSequenceId sequence, int segment,
                                               absl::Span<const int32_t> block_ids) {
  return sequences_.SetActive(sequence, segment, block_ids);
}

absl::Status UnifiedKvManager::BeginStep(absl::Span<const KvUse> uses) {
  return sequences_.BeginStep(uses);
}

absl::StatusOr<KvPages> UnifiedKvManager::AcquireLayer(KvSequenceId id, int layer) {
  SLIM_ASSIGN_OR_RETURN(KvSequence* const sequence, sequences_.CheckAcquire(id, layer));
  const BlockTable& table = SequenceTable::TableOf(*sequence, layer);
  const BlockTable::View view = table.ViewOf(layer);
  std::vector<void*>& slabs = sequence->slabs[layer];
  if (sequence->slabs_version[layer] != table.version()) {
    slabs.clear();
    for (const KvPage* page : view.pages) slabs.push_back(pool_->data(page->slab(layer)));
    sequence->slabs_version[layer] = table.version();
  }
  sequences_.MarkAcquired(sequence, layer);
  return KvPages{slabs, view.block_ids};
}

void UnifiedKvManager::ReleaseLayer(KvSequenceId id, int layer) {
  auto sequence = sequences_.Find(id);
  SLIM_CHECK(sequence.ok());
  sequences_.MarkReleased(*sequence, layer);
}

void UnifiedKvManager::EndStep() { sequences_.EndStep(); }

KvStats UnifiedKvManager::stats() const {
  KvStats stats;
  stats.device = ledger_.counters();
  return stats;
}

absl::Status UnifiedKvManager::CheckInvariants() {
  return ledger_.Check(sequences_.ReservedSlabs());
}

}  // namespace slim
