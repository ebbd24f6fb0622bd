// The worker's side of the state machine: plan, pins, eviction and freeing.
// kv_service_transfers.cc has the copies, kv_service_check.cc the numbers and the checks.
#include "kvcache/kv_service_core.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"
#include "kvcache/planted_bug.h"

namespace slim {

KvServiceCore::KvServiceCore(const Options& options, BlockPool* host, BlockPool* device)
    : options_(options),
      host_(host),
      device_(device),
      slabs_(static_cast<size_t>(host->total_slabs())),
      device_owner_(static_cast<size_t>(device->total_slabs()), kNoSlab),
      evictable_(host->total_slabs(), 2 * options.num_layers + 1),
      current_layer_(options.num_layers),
      needs_(static_cast<size_t>(options.num_layers)),
      cursor_layer_(2 * options.num_layers) {}

void KvServiceCore::AddSequence(KvSequenceId sequence) {
  sequences_.emplace(sequence, absl::OkStatus());
}

void KvServiceCore::ForgetSequence(KvSequenceId sequence) {
  sequences_.erase(sequence);
  for (int layer = 0; layer < options_.num_layers; ++layer) {
    for (size_t i = 0; i < needs_[layer].size(); ++i) {
      KvNeed& need = needs_[layer][i];
      if (need.sequence != sequence || need.slab == kNoSlab) continue;
      const bool ahead_of_cursor =
          layer > cursor_layer_ || (layer == cursor_layer_ && i >= cursor_index_);
      if (options_.prefetch && ahead_of_cursor && slabs_[need.slab].state == SlabState::kHost) {
        ++counters_.prefetch_dropped;
      }
      need.slab = kNoSlab;
    }
  }
}

// --- Eviction.

int KvServiceCore::RankOf(const Slab& slab) const {
  const int layers = options_.num_layers;
  if (slab.planned_step != step_) return 2 * layers;
  return slab.used_step == step_ ? layers + slab.layer : slab.layer;
}

void KvServiceCore::UpdateEvictable(SlabId id) {
  const Slab& slab = slabs_[id];
  evictable_.Erase(id);
  if (slab.doomed) return;
  bool free_to_evict = slab.state == SlabState::kBoth && slab.pins == 0;
  if (Planted(PlantedBug::kEvictDirty)) {
    free_to_evict |= slab.state == SlabState::kDevice && slab.pins == 0;
  }
  if (Planted(PlantedBug::kEvictPinned)) free_to_evict |= slab.state == SlabState::kBoth;
  if (free_to_evict) evictable_.Insert(id, RankOf(slab));
}

SlabId KvServiceCore::TakeDeviceSlab(int above, bool may_evict) {
  const SlabId free = device_->AcquireForOverwrite();
  if (free != kNoSlab) return free;
  pressure_step_ = step_;
  if (!may_evict) return kNoSlab;
  const SlabId victim = evictable_.Furthest(above);
  if (victim == kNoSlab) return kNoSlab;
  Slab& slab = slabs_[victim];
  if (slab.unused) ++counters_.prefetch_wasted;
  slab.unused = false;
  ClearAhead(slab);
  evictable_.Erase(victim);
  slab.state = SlabState::kHost;
  device_owner_[slab.device] = kNoSlab;
  return std::exchange(slab.device, kNoSlab);
}

void KvServiceCore::Attach(SlabId id, SlabId device, SlabState state) {
  slabs_[id].device = device;
  slabs_[id].state = state;
  device_owner_[device] = id;
}

void KvServiceCore::DropDevice(SlabId id, bool memory_is_safe) {
  Slab& slab = slabs_[id];
  evictable_.Erase(id);
  ClearAhead(slab);
  slab.unused = false;
  device_owner_[slab.device] = kNoSlab;
  if (memory_is_safe) {
    device_->Release({&slab.device, 1});
  } else {
    ++quarantined_;
  }
  slab.device = kNoSlab;
}

// --- Freeing.

bool KvServiceCore::FreeSlab(SlabId id) {
  Slab& slab = slabs_[id];
  SLIM_CHECK(slab.pins == 0 && !slab.doomed);
  const bool in_flight = slab.state == SlabState::kToDevice || slab.state == SlabState::kToHost;
  if (in_flight && Planted(PlantedBug::kFreeDespiteTransfer)) return true;
  if (!in_flight && slab.device != kNoSlab) {
    if (slab.unused) ++counters_.prefetch_wasted;
    DropDevice(id, /*memory_is_safe=*/true);
    slab.state = SlabState::kAbsent;
  }
  if (in_flight || slab.zombies > 0) {
    slab.doomed = true;
    ++doomed_;
    evictable_.Erase(id);
    return false;
  }
  slab = Slab();
  return true;
}

// A freed slab whose last copy has ended goes back to the worker.
void KvServiceCore::MaybeDrain(SlabId id) {
  Slab& slab = slabs_[id];
  if (!slab.doomed || slab.zombies > 0 || slab.state == SlabState::kToDevice ||
      slab.state == SlabState::kToHost) {
    return;
  }
  if (slab.device != kNoSlab) DropDevice(id, /*memory_is_safe=*/true);
  --doomed_;
  slab = Slab();
  if (!Planted(PlantedBug::kHeldForever)) drained_.push_back(id);
}

// --- Steps.

void KvServiceCore::AdaptAheadLimit() {
  size_t layer = 1;
  for (const std::vector<KvNeed>& needs : needs_) layer = std::max(layer, needs.size());
  const bool late = counters_.prefetch_late > late_before_step_;
  late_before_step_ = counters_.prefetch_late;
  ahead_limit_ = late ? ahead_limit_ + ahead_limit_ / 2 + 1 : ahead_limit_ - ahead_limit_ / 32;
  // At least two layers, at most half of the arena: the other half is in use or stays.
  ahead_limit_ = std::max(ahead_limit_, 2 * static_cast<int64_t>(layer));
  ahead_limit_ = std::min(ahead_limit_, std::max<int64_t>(1, device_->total_slabs() / 2));
}

void KvServiceCore::BeginStep(std::vector<std::vector<KvNeed>> needs) {
  ++step_;
  in_step_ = true;
  current_layer_ = 0;
  cursor_layer_ = 0;
  cursor_index_ = 0;
  needs_ = std::move(needs);
  AdaptAheadLimit();
  for (int layer = 0; layer < options_.num_layers; ++layer) {
    for (const KvNeed& need : needs_[layer]) {
      slabs_[need.slab].planned_step = step_;
      slabs_[need.slab].layer = layer;
    }
  }
  for (const SlabId id : device_owner_) {
    if (id == kNoSlab) continue;
    // What was fetched for a step that did not come must not hold back this step's prefetch.
    if (slabs_[id].planned_step != step_) ClearAhead(slabs_[id]);
    UpdateEvictable(id);
  }
}

void KvServiceCore::ReplaceNeeds(KvSequenceId sequence, int layer, absl::Span<const SlabId> slabs) {
  std::vector<KvNeed>& needs = needs_[layer];
  std::vector<SlabId> changed(slabs.begin(), slabs.end());
  for (const KvNeed& need : needs) {
    if (need.sequence != sequence || need.slab == kNoSlab) continue;
    slabs_[need.slab].planned_step = 0;
    changed.push_back(need.slab);
  }
  needs.erase(std::remove_if(needs.begin(), needs.end(),
                             [=](const KvNeed& need) { return need.sequence == sequence; }),
              needs.end());
  for (const SlabId id : slabs) needs.push_back({id, sequence});
  // Others may read the slabs that this sequence no longer does.
  for (const KvNeed& need : needs) {
    if (need.slab == kNoSlab) continue;
    slabs_[need.slab].planned_step = step_;
    slabs_[need.slab].layer = layer;
  }
  for (const SlabId id : changed) {
    if (slabs_[id].planned_step != step_) ClearAhead(slabs_[id]);
    UpdateEvictable(id);
  }
  if (cursor_layer_ >= layer) {
    cursor_layer_ = layer;
    cursor_index_ = 0;
  }
}

void KvServiceCore::EndStep() {
  in_step_ = false;
  current_layer_ = options_.num_layers;
  if (cursor_layer_ < options_.num_layers) {
    cursor_layer_ = options_.num_layers;
    cursor_index_ = 0;
  }
}

void KvServiceCore::Pin(SlabId id, bool writable) {
  ++slabs_[id].pins;
  if (writable) ++slabs_[id].writers;
  UpdateEvictable(id);
}

void KvServiceCore::Unpin(SlabId id, bool writable) {
  Slab& slab = slabs_[id];
  SLIM_CHECK(slab.pins > 0 && slab.writers >= (writable ? 1 : 0));
  --slab.pins;
  if (writable) --slab.writers;
  if (slab.state == SlabState::kDevice) {
    if (slab.lost) {
      if (slab.pins == 0) {
        DropDevice(id, /*memory_is_safe=*/true);
        slab.state = SlabState::kAbsent;
      }
    } else if (slab.writers == 0 && !slab.queued) {
      QueueWriteBack(id);
    }
  }
  UpdateEvictable(id);
}

void KvServiceCore::QueueWriteBack(SlabId id) {
  slabs_[id].queued = true;
  write_back_.push_back(id);
  if (static_cast<int64_t>(write_back_.size()) <= 2 * device_->total_slabs()) return;
  // Freed slabs leave their entry behind: drop those, and second entries of reused ones.
  std::deque<SlabId> kept;
  for (const SlabId entry : write_back_) {
    if (std::exchange(slabs_[entry].queued, false)) kept.push_back(entry);
  }
  write_back_ = std::move(kept);
  for (const SlabId entry : write_back_) slabs_[entry].queued = true;
}

void KvServiceCore::BeginAcquire(KvSequenceId sequence, int layer, absl::Span<const KvHold> holds,
                                 absl::Time now) {
  SLIM_CHECK(!demand_.active);
  current_layer_ = layer;
  demand_ = Demand();
  demand_.active = true;
  demand_.sequence = sequence;
  // Far more than the copies of one layer should take: only a broken copier gets there.
  demand_.deadline = now + 4 * options_.transfer_timeout;
  demand_.holds.assign(holds.begin(), holds.end());
  for (const KvHold& hold : holds) {
    Slab& slab = slabs_[hold.slab];
    slab.layer = layer;
    if (hold.writable || slab.state == SlabState::kAbsent) slab.writer = sequence;
    Pin(hold.slab, hold.writable);
    if (slab.state == SlabState::kAbsent) continue;
    ++(OnDevice(slab.state) ? counters_.prefetch_on_time : counters_.prefetch_late);
  }
  AdvanceDemand();
}

void KvServiceCore::AdvanceDemand() {
  if (!demand_.active || demand_.done) return;
  const auto sequence = sequences_.find(demand_.sequence);
  SLIM_CHECK(sequence != sequences_.end());
  if (!sequence->second.ok()) return FailDemand(sequence->second);
  for (; demand_.ready < demand_.holds.size(); ++demand_.ready) {
    const KvHold& hold = demand_.holds[demand_.ready];
    const Slab& slab = slabs_[hold.slab];
    if (slab.lost) {
      FailSequence(demand_.sequence,
                   absl::AbortedError("KV slab lost: its copy to the host failed"));
      return FailDemand(sequence->second);
    }
    if (slab.state == SlabState::kAbsent) {
      const SlabId device = TakeDeviceSlab(/*above=*/-1, /*may_evict=*/true);
      if (device == kNoSlab) return;
      Attach(hold.slab, device, SlabState::kDevice);
      demand_.to_zero.push_back(hold.slab);
      continue;
    }
    // A copy to the host reads the slab: reading beside it is fine, writing is not.
    const bool readable =
        OnDevice(slab.state) && (slab.state != SlabState::kToHost || !hold.writable ||
                                 Planted(PlantedBug::kWriteDuringWriteBack));
    if (!readable) return;
  }
  demand_.done = true;
}

void KvServiceCore::FailDemand(absl::Status status) {
  demand_.status = std::move(status);
  demand_.done = true;
}

void KvServiceCore::FailSequence(KvSequenceId sequence, const absl::Status& status) {
  if (Planted(PlantedBug::kGlobalAbort)) {
    for (auto& [id, state] : sequences_) state = status;
    return;
  }
  auto it = sequences_.find(sequence);
  if (it != sequences_.end() && it->second.ok()) it->second = status;
}

absl::Status KvServiceCore::FinishAcquire(std::vector<SlabId>* device,
                                          std::vector<SlabId>* to_zero) {
  SLIM_CHECK(demand_.active && demand_.done);
  demand_.active = false;
  if (!demand_.status.ok()) {
    // Nobody filled these with zeroes.
    for (const SlabId id : demand_.to_zero) {
      DropDevice(id, /*memory_is_safe=*/true);
      slabs_[id].state = SlabState::kAbsent;
    }
    for (const KvHold& hold : demand_.holds) Unpin(hold.slab, hold.writable);
    return demand_.status;
  }
  for (const KvHold& hold : demand_.holds) {
    Slab& slab = slabs_[hold.slab];
    ClearAhead(slab);
    slab.unused = false;
    slab.used_step = step_;
    device->push_back(slab.device);
  }
  for (const SlabId id : demand_.to_zero) to_zero->push_back(slabs_[id].device);
  return absl::OkStatus();
}

void KvServiceCore::Release(absl::Span<const KvHold> holds) {
  for (const KvHold& hold : holds) {
    Slab& slab = slabs_[hold.slab];
    if (hold.writable && slab.state == SlabState::kBoth) slab.state = SlabState::kDevice;
    Unpin(hold.slab, hold.writable);
  }
}

}  // namespace slim
