// What KvServiceCore reports, and the rules it must keep.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kvcache/kv_service_core.h"

namespace slim {

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
