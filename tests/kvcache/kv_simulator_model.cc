// The model of the simulation, the faults, and the settling of accounts at the end.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/kvcache/kv_simulator.h"

namespace slim {
namespace {

constexpr uint64_t kValueSalt = 0x5151;

}  // namespace

// --- Model.

std::vector<int32_t> KvSimulator::Expected(const Segment& g, int layer) const {
  return g.last_layer_full && layer == g.end_layer - 1 ? g.present : g.active;
}

void KvSimulator::ComputeLayer(Work& work, int layer, const KvPages& pages) {
  Sequence& s = *work.sequence;
  const Segment& g = s.segments[layer < s.segments[0].end_layer ? 0 : 1];
  const std::vector<int32_t> ids = Expected(g, layer);
  if (!std::equal(ids.begin(), ids.end(), pages.block_ids.begin(), pages.block_ids.end()) ||
      pages.slabs.size() != ids.size()) {
    return Fail(absl::StrCat("layer ", layer, ": blocks ", absl::StrJoin(pages.block_ids, ","),
                             " instead of ", absl::StrJoin(ids, ",")));
  }
  auto slab_of = [&](int32_t block) {
    const auto at = std::lower_bound(ids.begin(), ids.end(), block) - ids.begin();
    return static_cast<uint64_t*>(pages.slabs[at]);
  };
  for (const int p : work.positions) {
    const uint64_t value = Mix(Mix(s.hidden[p], static_cast<uint64_t>(layer)), kValueSalt);
    s.values[layer][p] = value;
    uint64_t* const slab = slab_of(p / kBlock);
    slab[p % kBlock] = value;
    slab[kBlock + p % kBlock] = Mix(value, 1);
  }
  // Rows already written in this layer: of the last block up to the step's last row.
  const int end = work.positions.back() + 1;
  uint64_t read = 0;
  size_t next = 0;  // the block that row `p` has got to
  size_t row = 0;
  for (; row < work.positions.size(); ++row) {
    const int p = work.positions[row];
    for (; next < ids.size() && ids[next] <= p / kBlock; ++next) {
      const uint64_t* const slab = static_cast<const uint64_t*>(pages.slabs[next]);
      for (int slot = 0; slot < kBlock; ++slot) {
        const int position = ids[next] * kBlock + slot;
        const uint64_t value = position < end ? s.values[layer][position] : 0;
        const uint64_t second = position < end ? Mix(value, 1) : 0;
        if (slab[slot] != value || slab[kBlock + slot] != second) {
          return Fail(absl::StrCat("layer ", layer, " position ", position, " (row ", p, "): read ",
                                   slab[slot], " ", slab[kBlock + slot], " instead of ", value, " ",
                                   second));
        }
      }
    }
    // Everything up to and with the row's own slot. Blocks were compared word by word above.
    read = static_cast<uint64_t>(layer);
    for (size_t i = 0; i < next; ++i) {
      const uint64_t* const slab = static_cast<const uint64_t*>(pages.slabs[i]);
      for (int slot = 0; slot < kBlock && ids[i] * kBlock + slot <= p; ++slot) {
        read = Mix(read, slab[slot] + slab[kBlock + slot]);
      }
    }
    s.hidden[p] = Mix(s.hidden[p], read);
  }
}

// --- Trouble.

SlabId KvSimulator::HostSlabOf(const void* data) const {
  const BlockPool& pool = discrete_->host_pool();
  const int64_t stride = pool.total_slabs() > 1
                             ? static_cast<char*>(pool.data(1)) - static_cast<char*>(pool.data(0))
                             : 1;
  return static_cast<SlabId>((static_cast<const char*>(data) - static_cast<char*>(pool.data(0))) /
                             stride);
}

void KvSimulator::Taint(const CopyRequest& request) {
  ++result_.faults;
  for (const CopyPiece& piece : request.pieces) {
    const bool to_device = request.direction == CopyDirection::kToDevice;
    tainted_.insert(HostSlabOf(to_device ? piece.source : piece.destination));
  }
}

bool KvSimulator::IsTainted(const Sequence& s) const {
  const KvSequence& sequence = **discrete_->sequences().Find(s.id);
  for (const BlockTable& table : sequence.segments) {
    for (const auto& page : table.pages()) {
      for (const SlabId slab : page->slabs()) {
        if (tainted_.contains(slab)) return true;
      }
    }
  }
  return false;
}

void KvSimulator::CheckAbort(const Sequence& s, const absl::Status& status) {
  const bool known =
      status.code() == absl::StatusCode::kAborted || status.code() == absl::StatusCode::kDataLoss;
  // While timed-out copies keep arena slabs in quarantine, a layer may find no room in time.
  const bool excused = discrete_ != nullptr && (IsTainted(s) || copier_->any_cancelled());
  if (!known || !excused) {
    Fail(absl::StrCat("a sequence without a fault was ended: ", status.ToString()));
  }
}

void KvSimulator::DeliverOne() {
  if (copier_->late() > 0 && Chance(20)) return copier_->DeliverLate(Random(copier_->late()));
  if (copier_->pending() == 0) return;
  const size_t index = Chance(60) ? 0 : Random(copier_->pending());
  CopyFault fault = CopyFault::kNone;
  if (Chance(fault_percent_)) {
    const CopyFault faults[] = {CopyFault::kFail, CopyFault::kShorten, CopyFault::kForget,
                                CopyFault::kCorrupt};
    fault = faults[Random(options_.verify_transfers ? 4 : 3)];
  } else if (fault_percent_ > 0 && Chance(5)) {
    fault = CopyFault::kDuplicate;
  }
  if (copier_->at(index).forgotten) return;
  // One that was cancelled ends, whatever was planned for it: the copier owes that.
  if (copier_->at(index).cancelled && fault == CopyFault::kForget) fault = CopyFault::kNone;
  copier_->Complete(index, fault);
}

void KvSimulator::Chaos(bool must_progress) {
  if (copier_ == nullptr) return;
  if (must_progress) {
    clock_.Advance(kTimeout / 32);
    if (++idle_rounds_ > 2000) {
      Fail("a layer is waited for without end");
      // Let the wait end: without this the simulation could not report.
      while (copier_->pending() > 0) copier_->Complete(0);
      clock_.Advance(100 * kTimeout);
      if (idle_rounds_ > 4000) std::abort();
    }
  }
  discrete_->service().Pump();
  const uint64_t rounds = 1 + Random(3);
  for (uint64_t i = 0; i < rounds; ++i) {
    if (!Chance(delay_percent_)) DeliverOne();
  }
  if (Chance(5)) clock_.Advance(kTimeout / 4);
  if (Chance(50)) discrete_->service().Pump();
  if (Chance(10)) {
    const absl::Status status = kv_->CheckInvariants();
    if (!status.ok()) Fail(std::string(status.message()));
  }
}

void KvSimulator::Quiesce() {
  while (!sequences_.empty()) Remove(sequences_.size() - 1);
  cache_.clear();
  if (copier_ != nullptr) {
    for (int round = 0; round < 10; ++round) {
      discrete_->service().Pump();
      for (size_t i = 0; i < copier_->pending();) {
        if (copier_->at(i).forgotten) {
          ++i;
        } else {
          copier_->Complete(i);
        }
      }
      while (copier_->late() > 0) copier_->DeliverLate(0);
      clock_.Advance(2 * kTimeout);
    }
    if (discrete_->service().open_transfers() != 0) Fail("transfers open at the end");
  }
  const absl::Status status = kv_->CheckInvariants();
  if (!status.ok()) Fail(std::string(status.message()));
  if (kv_->unreserved_slabs() != kv_->capacity_slabs()) Fail("reservations left at the end");
  const KvStats stats = kv_->stats();
  for (const KvTierStats& tier : {stats.device, stats.host}) {
    if (tier.free_slabs != tier.total_slabs) {
      Fail(absl::StrCat("slabs leaked: ", tier.free_slabs, " free of ", tier.total_slabs, ", held ",
                        tier.held_by_transfer_slabs));
    }
  }
}

}  // namespace slim
