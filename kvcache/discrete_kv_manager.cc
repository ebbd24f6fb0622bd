#include "kvcache/discrete_kv_manager.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "kvcache/planted_bug.h"

namespace slim {

absl::StatusOr<std::unique_ptr<DiscreteKvManager>> DiscreteKvManager::Create(
    const Options& options, const Clock* clock, KvMemories memories, std::function<void()> idle) {
  const int64_t slab_bytes = options.layout.slab_bytes();
  SLIM_ASSIGN_OR_RETURN(
      auto host, BlockPool::Create(slab_bytes, BlockPool::SlabsIn(options.host_bytes, slab_bytes),
                                   options.poison_freed, std::move(memories.host)));
  SLIM_ASSIGN_OR_RETURN(
      auto device,
      BlockPool::Create(slab_bytes, BlockPool::SlabsIn(options.device_bytes, slab_bytes),
                        options.poison_freed, std::move(memories.device)));
  return std::unique_ptr<DiscreteKvManager>(
      new DiscreteKvManager(options, clock, std::move(host), std::move(device),
                            std::move(memories.copier), std::move(idle)));
}

DiscreteKvManager::DiscreteKvManager(const Options& options, const Clock* clock,
                                     std::unique_ptr<BlockPool> host,
                                     std::unique_ptr<BlockPool> device,
                                     std::unique_ptr<BlockCopier> copier,
                                     std::function<void()> idle)
    : options_(options),
      host_(std::move(host)),
      device_(std::move(device)),
      ledger_(host_.get(), [this](SlabId slab) { return service_->FreeSlab(slab); }),
      service_(std::make_unique<KvService>(
          KvServiceCore::Options{options.num_layers, options.prefetch, options.transfer_timeout},
          host_.get(), device_.get(), clock, std::move(copier), std::move(idle))),
      sequences_(&ledger_, options.num_layers) {}

void DiscreteKvManager::CollectDrained() const {
  for (const SlabId slab : service_->TakeDrained()) ledger_.ReleaseHeld(slab);
}

int64_t DiscreteKvManager::unreserved_slabs() const {
  CollectDrained();
  return ledger_.unreserved();
}

int64_t DiscreteKvManager::max_layer_slabs_per_step() const {
  // Two layers at a time: one in use, the next one arriving.
  return std::max<int64_t>(1, device_->total_slabs() / 2);
}

absl::StatusOr<KvSequenceId> DiscreteKvManager::AddSequence(
    absl::Span<const KvSegmentSpec> segments) {
  return AddSequenceWithPrefix(segments, {});
}

absl::StatusOr<KvSequenceId> DiscreteKvManager::AddSequenceWithPrefix(
    absl::Span<const KvSegmentSpec> segments, absl::Span<const KvPageRef> prefix) {
  CollectDrained();
  for (const KvPageRef& page : prefix) {
    if (page != nullptr && service_->AnyLost(page->slabs())) {
      return absl::AbortedError(
          absl::StrCat("cached KV block ", page->block_id(), " was lost in a failed copy"));
    }
  }
  SLIM_ASSIGN_OR_RETURN(const KvSequenceId id, sequences_.Add(segments, prefix));
  service_->AddSequence(id);
  return id;
}

absl::StatusOr<std::vector<KvPageRef>> DiscreteKvManager::PublishBlocks(KvSequenceId sequence,
                                                                        int segment,
                                                                        int32_t begin_block,
                                                                        int32_t end_block) {
  return sequences_.Publish(sequence, segment, begin_block, end_block);
}

void DiscreteKvManager::RemoveSequence(KvSequenceId sequence) {
  service_->ForgetSequence(sequence);
  sequences_.Remove(sequence);
  CollectDrained();
}

absl::Status DiscreteKvManager::AppendBlocks(KvSequenceId sequence, int segment,
                                             absl::Span<const int32_t> block_ids) {
  CollectDrained();
  return sequences_.Append(sequence, segment, block_ids);
}

void DiscreteKvManager::SealBlocks(KvSequenceId sequence, int segment, int32_t end_block) {
  SLIM_CHECK(sequences_.Seal(sequence, segment, end_block).ok());
}

absl::Status DiscreteKvManager::SetActiveBlocks(KvSequenceId sequence, int segment,
                                                absl::Span<const int32_t> block_ids) {
  SLIM_RETURN_IF_ERROR(sequences_.SetActive(sequence, segment, block_ids));
  // One decision names the slabs of all layers of the segment: fetch them before they are asked
  // for.
  KvSequence& changed = **sequences_.Find(sequence);
  const BlockTable& table = changed.segments[segment];
  const int begin = std::max(table.spec().first_layer, changed.declared_begin);
  const int end = std::min(table.end_layer(), changed.declared_end);
  for (int layer = begin; layer < end; ++layer) {
    std::vector<SlabId> slabs;
    for (const KvPage* page : table.ViewOf(layer).pages) slabs.push_back(page->slab(layer));
    service_->ReplaceNeeds(sequence, layer, slabs);
  }
  return absl::OkStatus();
}

absl::Status DiscreteKvManager::BeginStep(absl::Span<const KvUse> uses) {
  CollectDrained();
  SLIM_RETURN_IF_ERROR(sequences_.BeginStep(uses));
  std::vector<std::vector<KvNeed>> needs(options_.num_layers);
  for (const KvUse& use : uses) {
    KvSequence& sequence = **sequences_.Find(use.sequence);
    for (int layer = use.first_layer; layer < use.end_layer; ++layer) {
      for (const KvPage* page : SequenceTable::TableOf(sequence, layer).ViewOf(layer).pages) {
        needs[layer].push_back({page->slab(layer), use.sequence});
      }
    }
  }
  service_->BeginStep(std::move(needs));
  return absl::OkStatus();
}

absl::StatusOr<KvPages> DiscreteKvManager::AcquireLayer(KvSequenceId id, int layer) {
  SLIM_ASSIGN_OR_RETURN(KvSequence* const sequence, sequences_.CheckAcquire(id, layer));
  const BlockTable::View view = SequenceTable::TableOf(*sequence, layer).ViewOf(layer);
  const int64_t wanted = acquired_slabs_ + static_cast<int64_t>(view.pages.size());
  if (wanted > device_->total_slabs()) {
    return absl::ResourceExhaustedError(absl::StrCat("KV layer ", layer, ": ", wanted,
                                                     " slabs acquired at a time, the arena has ",
                                                     device_->total_slabs()));
  }
  std::vector<KvHold>& holds = sequence->holds[layer];
  holds.clear();
  for (const KvPage* page : view.pages) {
    const bool writable = !page->sealed() && page->block_id() >= sequence->first_written_block;
    holds.push_back({page->slab(layer), writable});
  }
  device_scratch_.clear();
  zero_scratch_.clear();
  SLIM_RETURN_IF_ERROR(service_->Acquire(id, layer, holds, &device_scratch_, &zero_scratch_));
  for (const SlabId slab : zero_scratch_) {
    if (!Planted(PlantedBug::kStaleSlabReused)) device_->Zero(slab);
  }
  std::vector<void*>& slabs = sequence->slabs[layer];
  slabs.clear();
  for (const SlabId slab : device_scratch_) slabs.push_back(device_->data(slab));
  acquired_slabs_ = wanted;
  sequences_.MarkAcquired(sequence, layer);
  return KvPages{slabs, view.block_ids};
}

void DiscreteKvManager::ReleaseLayer(KvSequenceId id, int layer) {
  auto sequence = sequences_.Find(id);
  SLIM_CHECK(sequence.ok());
  sequences_.MarkReleased(*sequence, layer);
  std::vector<KvHold>& holds = (*sequence)->holds[layer];
  acquired_slabs_ -= static_cast<int64_t>(holds.size());
  service_->Release(holds);
}

void DiscreteKvManager::EndStep() {
  sequences_.EndStep();
  service_->EndStep();
}

KvStats DiscreteKvManager::stats() const {
  KvStats stats;
  service_->AddStats(&stats);
  stats.host = ledger_.counters();
  return stats;
}

absl::Status DiscreteKvManager::CheckInvariants() {
  CollectDrained();
  SLIM_RETURN_IF_ERROR(ledger_.Check(sequences_.ReservedSlabs()));
  return service_->Check(ledger_.counters().held_by_transfer_slabs);
}

}  // namespace slim
