// The bookkeeping that both tiers share: live sequences with their block tables and reservations,
// and the protocol of a step (which layers were declared, which are acquired). No memory is touched
// here. Worker thread only. Borrows the ledger; owns the sequences.
#ifndef KVCACHE_SEQUENCE_TABLE_H_
#define KVCACHE_SEQUENCE_TABLE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/block_table.h"
#include "kvcache/kv_manager.h"
#include "kvcache/page_ledger.h"

namespace slim {

// A slab that a layer acquires, and whether it is going to be written.
struct KvHold {
  SlabId slab = kNoSlab;
  bool writable = false;
};

struct KvSequence {
  KvSequenceId id{};
  int64_t reserved_slabs = 0;
  std::vector<BlockTable> segments;
  std::vector<int> segment_of_layer;
  // The step: layers declared by BeginStep and not yet released.
  int declared_begin = 0;
  int declared_end = 0;
  int32_t first_written_block = 0;
  int acquired_layers = 0;
  std::vector<bool> acquired;              // by layer
  std::vector<std::vector<void*>> slabs;   // by layer: what KvPages points at
  std::vector<std::vector<KvHold>> holds;  // by layer: what is pinned while acquired (discrete)
  std::vector<uint64_t> slabs_version;     // table version that `slabs` was built from
};

class SequenceTable {
 public:
  SequenceTable(PageLedger* ledger, int num_layers) : ledger_(ledger), num_layers_(num_layers) {}
  // Removes what is still live.
  ~SequenceTable();
  SequenceTable(const SequenceTable&) = delete;
  SequenceTable& operator=(const SequenceTable&) = delete;

  // See KvManager for the contracts.
  absl::StatusOr<KvSequenceId> Add(absl::Span<const KvSegmentSpec> segments,
                                   absl::Span<const KvPageRef> prefix);
  void Remove(KvSequenceId id);
  absl::Status Append(KvSequenceId id, int segment, absl::Span<const int32_t> block_ids);
  absl::Status Seal(KvSequenceId id, int segment, int32_t end_block);
  absl::Status SetActive(KvSequenceId id, int segment, absl::Span<const int32_t> block_ids);
  absl::StatusOr<std::vector<KvPageRef>> Publish(KvSequenceId id, int segment, int32_t begin_block,
                                                 int32_t end_block) const;

  absl::Status BeginStep(absl::Span<const KvUse> uses);
  void EndStep();
  bool in_step() const { return in_step_; }
  // FAILED_PRECONDITION when the layer is not declared or already acquired.
  absl::StatusOr<KvSequence*> CheckAcquire(KvSequenceId id, int layer);
  void MarkAcquired(KvSequence* sequence, int layer);
  void MarkReleased(KvSequence* sequence, int layer);

  // NOT_FOUND for an id that is not live.
  absl::StatusOr<KvSequence*> Find(KvSequenceId id) const;
  // The table of the segment that holds `layer`.
  static BlockTable& TableOf(KvSequence& sequence, int layer) {
    return sequence.segments[sequence.segment_of_layer[layer]];
  }
  // Sum over live sequences of what they reserved.
  int64_t ReservedSlabs() const;
  int64_t size() const { return static_cast<int64_t>(sequences_.size()); }

 private:
  absl::Status CheckSegments(absl::Span<const KvSegmentSpec> segments, int64_t* slabs) const;
  absl::StatusOr<BlockTable*> FindTable(KvSequenceId id, int segment) const;
  // As FindTable; FAILED_PRECONDITION while a layer of the segment is acquired.
  absl::StatusOr<BlockTable*> FindTableToChange(KvSequenceId id, int segment) const;

  PageLedger* const ledger_;
  const int num_layers_;
  uint64_t last_id_ = 0;
  bool in_step_ = false;
  std::vector<KvSequenceId> step_sequences_;
  absl::flat_hash_map<KvSequenceId, std::unique_ptr<KvSequence>> sequences_;
};

}  // namespace slim

#endif  // KVCACHE_SEQUENCE_TABLE_H_
