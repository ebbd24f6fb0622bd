// The worker's side of the state machine: plan, pins, eviction, freeing, and the checks.
// kv_service_transfers.cc has the copies.
#include "kvcache/kv_service_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
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

// --- Numbers and checks.

bool KvServiceCore::AnyLost(absl::Span<const SlabId> slabs) const {
  return std::any_of(slabs.begin(), slabs.end(), [this](SlabId id) { return slabs_[id].lost; });
}

void KvServiceCore::AddStats(KvStats* stats) const {
  *stats = counters_;
  KvTierStats& tier = stats->device;
  int64_t doomed = 0;
  if (doomed_ > 0) {
    for (const SlabId id : device_owner_) doomed += id != kNoSlab && slabs_[id].doomed;
  }
  tier.total_slabs = device_->total_slabs();
  tier.free_slabs = device_->free_slabs();
  tier.cached_slabs = evictable_.size();
  tier.held_by_transfer_slabs = quarantined_ + doomed;
  tier.used_slabs =
      tier.total_slabs - tier.free_slabs - tier.cached_slabs - tier.held_by_transfer_slabs;
}

absl::Status KvServiceCore::CheckSlab(SlabId id) const {
  const Slab& s = slabs_[id];
  const bool in_flight = s.state == SlabState::kToDevice || s.state == SlabState::kToHost;
  const bool has_device = OnDevice(s.state) || in_flight;
  const bool live = host_->is_taken(id);
  const char* broken = nullptr;
  if (has_device != (s.device != kNoSlab)) broken = "state and device slab disagree";
  if (s.device != kNoSlab && (device_owner_[s.device] != id || !device_->is_taken(s.device))) {
    broken = "device slab belongs to another slab or to nobody";
  }
  if (!live && (has_device || s.pins > 0 || s.zombies > 0)) broken = "free slab still in use (R1)";
  if (s.pins < 0 || s.writers < 0 || s.writers > s.pins) broken = "pins wrong";
  if (s.doomed && s.pins > 0) broken = "freed slab pinned";
  const bool evictable = s.state == SlabState::kBoth && s.pins == 0 && !s.doomed;
  if (evictable_.Contains(id) != evictable) broken = "eviction order wrong";
  if (s.state == SlabState::kDevice && s.writers == 0 && s.pins == 0 && !s.queued) {
    broken = "unsaved slab forgotten";
  }
  if (broken == nullptr) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("slab ", id, " state ", static_cast<int>(s.state),
                                          " device ", s.device, " pins ", s.pins, ": ", broken));
}

absl::Status KvServiceCore::Check(int64_t held) const {
  int64_t ahead = 0, doomed = 0, attached = 0, in_flight = 0, zombies = 0;
  for (size_t i = 0; i < slabs_.size(); ++i) {
    absl::Status status = CheckSlab(static_cast<SlabId>(i));
    if (!status.ok()) return status;
    const Slab& s = slabs_[i];
    ahead += s.ahead;
    doomed += s.doomed;
    zombies += s.zombies;
    attached += s.device != kNoSlab;
    in_flight += s.state == SlabState::kToDevice || s.state == SlabState::kToHost;
  }
  int64_t open[2] = {0, 0}, moving = 0, haunted = 0;
  for (const auto& [id, transfer] : transfers_) {
    ++open[static_cast<int>(transfer.direction)];
    moving += static_cast<int64_t>(transfer.slabs.size());
    for (const auto& [slab, device] : transfer.slabs) {
      if (slabs_[slab].device != device) {
        return absl::InternalError(absl::StrCat("copy ", id, " moves slab ", slab, " elsewhere"));
      }
    }
  }
  for (const auto& [id, slabs] : zombies_) haunted += static_cast<int64_t>(slabs.size());
  const int64_t started = static_cast<int64_t>(last_transfer_);
  const bool ok =
      ahead == ahead_ && doomed == doomed_ && moving == in_flight && haunted == zombies &&
      haunted == quarantined_ && open[0] == open_[0] && open[1] == open_[1] &&
      doomed + static_cast<int64_t>(drained_.size()) == held &&
      attached + quarantined_ + device_->free_slabs() == device_->total_slabs() &&
      // R2: each transfer ends exactly once.
      started == transfers_done_ + transfers_failed_ + transfers_timed_out_ + open_transfers();
  if (ok) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "KV service: ahead ", ahead, "/", ahead_, " doomed ", doomed, "/", doomed_, " held ", held,
      " drained ", drained_.size(), " in flight ", in_flight, "/", moving, " open ", open[0], "/",
      open_[0], " ", open[1], "/", open_[1], " quarantined ", quarantined_, "/", haunted, "/",
      zombies, " attached ", attached, " free ", device_->free_slabs(), " of ",
      device_->total_slabs(), " transfers ", started, " = ", transfers_done_, " + ",
      transfers_failed_, " + ", transfers_timed_out_, " + ", open_transfers()));
}

}  // namespace slim
