#include "kvcache/sequence_table.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

uint64_t Number(KvSequenceId id) { return static_cast<uint64_t>(id); }

}  // namespace

absl::Status SequenceTable::CheckSegments(absl::Span<const KvSegmentSpec> segments,
                                          int64_t* slabs) const {
  int layer = 0;
  int64_t total = 0;
  for (const KvSegmentSpec& s : segments) {
    if (s.first_layer != layer || !(s.num_layers > 0 && s.num_layers <= num_layers_ - layer)) {
      return absl::InvalidArgumentError(absl::StrCat("KV segment [", s.first_layer, ", +",
                                                     s.num_layers, ") does not follow layer ",
                                                     layer, " of ", num_layers_));
    }
    // A block id is an int32, so no segment can hold more blocks.
    if (!(s.max_blocks >= 0 && s.max_blocks <= std::numeric_limits<int32_t>::max())) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV segment with max_blocks ", s.max_blocks, " out of [0, 2^31)"));
    }
    layer += s.num_layers;
    total += s.max_blocks * s.num_layers;
  }
  if (layer != num_layers_) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV segments end at layer ", layer, " of ", num_layers_));
  }
  *slabs = total;
  return absl::OkStatus();
}

absl::StatusOr<KvSequenceId> SequenceTable::Add(absl::Span<const KvSegmentSpec> segments,
                                                absl::Span<const KvPageRef> prefix) {
  int64_t slabs = 0;
  SLIM_RETURN_IF_ERROR(CheckSegments(segments, &slabs));
  auto sequence = std::make_unique<KvSequence>();
  for (size_t i = 0; i < segments.size(); ++i) {
    sequence->segments.emplace_back(segments[i]);
    sequence->segment_of_layer.insert(sequence->segment_of_layer.end(), segments[i].num_layers,
                                      static_cast<int>(i));
  }
  std::vector<int32_t> prefix_ids;
  for (const KvPageRef& page : prefix) {
    if (page == nullptr || page->first_layer() != 0 ||
        page->num_layers() != segments[0].num_layers) {
      return absl::InvalidArgumentError(
          absl::StrCat("a page of layers [", page == nullptr ? 0 : page->first_layer(), ", +",
                       page == nullptr ? 0 : page->num_layers(),
                       ") cannot begin a segment of layers [0, ", segments[0].num_layers, ")"));
    }
    prefix_ids.push_back(page->block_id());
    slabs -= page->num_layers();
  }
  if (!prefix.empty()) SLIM_RETURN_IF_ERROR(sequence->segments[0].CheckAppend(prefix_ids));
  SLIM_RETURN_IF_ERROR(ledger_->Reserve(slabs));
  const KvSequenceId id{++last_id_};
  sequence->id = id;
  sequence->reserved_slabs = slabs;
  sequence->acquired.assign(num_layers_, false);
  sequence->slabs.resize(num_layers_);
  sequence->holds.resize(num_layers_);
  sequence->slabs_version.assign(num_layers_, 0);
  for (const KvPageRef& page : prefix) {
    // The handle is read-only for its holder; the table only counts itself as a user.
    auto shared = std::const_pointer_cast<KvPage>(page);
    ledger_->AddUser(shared.get());
    sequence->segments[0].Append(std::move(shared));
  }
  sequences_.emplace(id, std::move(sequence));
  return id;
}

SequenceTable::~SequenceTable() {
  for (auto& [id, sequence] : sequences_) {
    for (BlockTable& table : sequence->segments) {
      for (const auto& page : table.pages()) ledger_->DropUser(page.get(), id);
    }
  }
}

void SequenceTable::Remove(KvSequenceId id) {
  auto it = sequences_.find(id);
  if (it == sequences_.end()) return;
  KvSequence& sequence = *it->second;
  SLIM_CHECK(sequence.acquired_layers == 0);
  for (BlockTable& table : sequence.segments) {
    for (const auto& page : table.pages()) ledger_->DropUser(page.get(), id);
  }
  const int64_t reserved = sequence.reserved_slabs;
  sequences_.erase(it);
  ledger_->Unreserve(reserved);
}

absl::StatusOr<KvSequence*> SequenceTable::Find(KvSequenceId id) const {
  auto it = sequences_.find(id);
  if (it == sequences_.end()) {
    return absl::NotFoundError(absl::StrCat("no KV sequence ", Number(id)));
  }
  return it->second.get();
}

absl::StatusOr<BlockTable*> SequenceTable::FindTable(KvSequenceId id, int segment) const {
  SLIM_ASSIGN_OR_RETURN(KvSequence* const sequence, Find(id));
  const int count = static_cast<int>(sequence->segments.size());
  if (!(segment >= 0 && segment < count)) {
    return absl::InvalidArgumentError(
        absl::StrCat("segment ", segment, " of ", count, " in KV sequence ", Number(id)));
  }
  return &sequence->segments[segment];
}

absl::StatusOr<BlockTable*> SequenceTable::FindTableToChange(KvSequenceId id, int segment) const {
  SLIM_ASSIGN_OR_RETURN(BlockTable* const table, FindTable(id, segment));
  const KvSequence& sequence = **Find(id);
  for (int layer = table->spec().first_layer; layer < table->end_layer(); ++layer) {
    if (!sequence.acquired[layer]) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("KV segment ", segment, " changed while its layer ", layer, " is acquired"));
  }
  return table;
}

absl::Status SequenceTable::Append(KvSequenceId id, int segment,
                                   absl::Span<const int32_t> block_ids) {
  SLIM_ASSIGN_OR_RETURN(BlockTable* const table, FindTableToChange(id, segment));
  SLIM_RETURN_IF_ERROR(table->CheckAppend(block_ids));
  SLIM_ASSIGN_OR_RETURN(auto pages, ledger_->NewPages(id, block_ids, table->spec().first_layer,
                                                      table->spec().num_layers));
  for (auto& page : pages) {
    ledger_->AddUser(page.get());
    table->Append(std::move(page));
  }
  return absl::OkStatus();
}

absl::Status SequenceTable::Seal(KvSequenceId id, int segment, int32_t end_block) {
  SLIM_ASSIGN_OR_RETURN(BlockTable* const table, FindTable(id, segment));
  table->Seal(end_block);
  return absl::OkStatus();
}

absl::Status SequenceTable::SetActive(KvSequenceId id, int segment,
                                      absl::Span<const int32_t> block_ids) {
  SLIM_ASSIGN_OR_RETURN(BlockTable* const table, FindTableToChange(id, segment));
  return table->SetActive(block_ids);
}

absl::StatusOr<std::vector<KvPageRef>> SequenceTable::Publish(KvSequenceId id, int segment,
                                                              int32_t begin_block,
                                                              int32_t end_block) const {
  SLIM_ASSIGN_OR_RETURN(BlockTable* const table, FindTable(id, segment));
  return table->Publish(begin_block, end_block);
}

absl::Status SequenceTable::BeginStep(absl::Span<const KvUse> uses) {
  if (in_step_) return absl::FailedPreconditionError("KV step begun inside a step");
  for (const KvUse& use : uses) {
    SLIM_ASSIGN_OR_RETURN(KvSequence* const sequence, Find(use.sequence));
    if (!(use.first_layer >= 0 && use.first_layer < use.end_layer &&
          use.end_layer <= num_layers_)) {
      return absl::InvalidArgumentError(absl::StrCat("KV use of layers [", use.first_layer, ", ",
                                                     use.end_layer, ") of ", num_layers_));
    }
    (void)sequence;
  }
  for (const KvUse& use : uses) {
    KvSequence& sequence = **Find(use.sequence);
    if (sequence.declared_end > 0) {
      EndStep();
      return absl::InvalidArgumentError(
          absl::StrCat("KV sequence ", Number(use.sequence), " declared twice in one step"));
    }
    sequence.declared_begin = use.first_layer;
    sequence.declared_end = use.end_layer;
    sequence.first_written_block = use.first_written_block;
    step_sequences_.push_back(use.sequence);
  }
  in_step_ = true;
  return absl::OkStatus();
}

void SequenceTable::EndStep() {
  for (const KvSequenceId id : step_sequences_) {
    auto it = sequences_.find(id);
    if (it == sequences_.end()) continue;
    SLIM_CHECK(it->second->acquired_layers == 0);
    it->second->declared_begin = it->second->declared_end = 0;
  }
  step_sequences_.clear();
  in_step_ = false;
}

absl::StatusOr<KvSequence*> SequenceTable::CheckAcquire(KvSequenceId id, int layer) {
  SLIM_ASSIGN_OR_RETURN(KvSequence* const sequence, Find(id));
  if (!(layer >= sequence->declared_begin && layer < sequence->declared_end)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "KV layer ", layer, " of sequence ", Number(id), " is not declared in this step: [",
        sequence->declared_begin, ", ", sequence->declared_end, ")"));
  }
  if (sequence->acquired[layer]) {
    return absl::FailedPreconditionError(
        absl::StrCat("KV layer ", layer, " of sequence ", Number(id), " is already acquired"));
  }
  return sequence;
}

void SequenceTable::MarkAcquired(KvSequence* sequence, int layer) {
  sequence->acquired[layer] = true;
  ++sequence->acquired_layers;
}

void SequenceTable::MarkReleased(KvSequence* sequence, int layer) {
  SLIM_CHECK(layer >= 0 && layer < num_layers_ && sequence->acquired[layer]);
  sequence->acquired[layer] = false;
  --sequence->acquired_layers;
}

int64_t SequenceTable::ReservedSlabs() const {
  int64_t slabs = 0;
  for (const auto& [id, sequence] : sequences_) slabs += sequence->reserved_slabs;
  return slabs;
}

}  // namespace slim
