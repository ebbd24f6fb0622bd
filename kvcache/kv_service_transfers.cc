// The copies of KvServiceCore: what to copy next, and how a copy ends.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "kvcache/kv_service_core.h"
#include "kvcache/planted_bug.h"

namespace slim {

bool KvServiceCore::NextCopy(absl::Time now, CopyRequest* request) {
  AdvanceDemand();
  const int layers = options_.num_layers;
  const bool plan = options_.prefetch;
  return DemandCopy(now, request) || (plan && in_step_ && PlannedCopy(now, layers, request)) ||
         WriteBackCopy(now, request) || (plan && PlannedCopy(now, 2 * layers, request));
}

bool KvServiceCore::DemandCopy(absl::Time now, CopyRequest* request) {
  if (!demand_.active || demand_.done || open_[0] >= kMaxOpenToDevice) return false;
  Transfer transfer;
  transfer.sequence = demand_.sequence;
  for (; demand_.fetched < demand_.holds.size(); ++demand_.fetched) {
    const SlabId id = demand_.holds[demand_.fetched].slab;
    if (slabs_[id].state != SlabState::kHost) continue;
    if (transfer.slabs.size() == kMaxSlabsPerCopy) break;
    const SlabId device = TakeDeviceSlab(/*above=*/-1, /*may_evict=*/true);
    if (device == kNoSlab) break;
    Attach(id, device, SlabState::kToDevice);
    transfer.slabs.emplace_back(id, device);
  }
  if (transfer.slabs.empty()) return false;
  Open(std::move(transfer), now, request);
  return true;
}

bool KvServiceCore::PlannedCopy(absl::Time now, int end_layer, CopyRequest* request) {
  // The last slot is kept for what a layer is waiting for.
  if (open_[0] >= kMaxOpenToDevice - 1) return false;
  const int layers = options_.num_layers;
  Transfer transfer;
  if (cursor_layer_ < current_layer_) {
    cursor_layer_ = current_layer_;
    cursor_index_ = 0;
  }
  // A layer can be fetched for the next step once this step is through with it.
  for (; cursor_layer_ < end_layer && cursor_layer_ - layers < current_layer_;
       ++cursor_layer_, cursor_index_ = 0) {
    const std::vector<KvNeed>& needs = needs_[cursor_layer_ % layers];
    for (; cursor_index_ < needs.size(); ++cursor_index_) {
      const KvNeed& need = needs[cursor_index_];
      if (need.slab == kNoSlab || slabs_[need.slab].state != SlabState::kHost) continue;
      if (!transfer.slabs.empty() &&
          (transfer.sequence != need.sequence || transfer.slabs.size() == kMaxSlabsPerCopy)) {
        break;
      }
      const auto sequence = sequences_.find(need.sequence);
      if (sequence == sequences_.end() || !sequence->second.ok()) continue;
      const SlabId device =
          TakeDeviceSlab(/*above=*/cursor_layer_, /*may_evict=*/ahead_ < ahead_limit_);
      if (device == kNoSlab) break;
      Attach(need.slab, device, SlabState::kToDevice);
      slabs_[need.slab].ahead = slabs_[need.slab].unused = true;
      ++ahead_;
      transfer.sequence = need.sequence;
      transfer.slabs.emplace_back(need.slab, device);
    }
    // One layer per copy: its completion must not wait for another layer's slabs.
    if (cursor_index_ < needs.size() || !transfer.slabs.empty()) break;
  }
  if (transfer.slabs.empty()) return false;
  Open(std::move(transfer), now, request);
  return true;
}

bool KvServiceCore::WriteBackCopy(absl::Time now, CopyRequest* request) {
  if (open_[1] >= kMaxOpenToHost || pressure_step_ + 1 < step_) return false;
  Transfer transfer;
  transfer.direction = CopyDirection::kToHost;
  while (!write_back_.empty() && transfer.slabs.size() < kMaxSlabsPerCopy) {
    const SlabId id = write_back_.front();
    Slab& slab = slabs_[id];
    const bool due = slab.queued && slab.state == SlabState::kDevice && !slab.lost;
    if (due && slab.writers == 0) {
      // One sequence per copy: a failure must not reach another one.
      if (!transfer.slabs.empty() && transfer.sequence != slab.writer) break;
      transfer.sequence = slab.writer;
      transfer.slabs.emplace_back(id, slab.device);
      evictable_.Erase(id);
      slab.state = SlabState::kToHost;
    }
    // Being written again: Unpin queues it anew.
    slab.queued = false;
    write_back_.pop_front();
  }
  if (transfer.slabs.empty()) return false;
  Open(std::move(transfer), now, request);
  return true;
}

void KvServiceCore::Open(Transfer transfer, absl::Time now, CopyRequest* request) {
  const bool to_device = transfer.direction == CopyDirection::kToDevice;
  request->id = ++last_transfer_;
  request->direction = transfer.direction;
  request->piece_bytes = host_->slab_bytes();
  request->pieces.clear();
  for (const auto& [id, device] : transfer.slabs) {
    void* const on_host = host_->data(id);
    void* const on_device = device_->data(device);
    request->pieces.push_back(to_device ? CopyPiece{on_host, on_device}
                                        : CopyPiece{on_device, on_host});
  }
  if (Planted(PlantedBug::kSwappedSlabs) && request->pieces.size() > 1) {
    std::swap(request->pieces[0].destination, request->pieces[1].destination);
  }
  ++open_[static_cast<int>(transfer.direction)];
  transfer.deadline = now + options_.transfer_timeout;
  transfers_.emplace(request->id, std::move(transfer));
}

void KvServiceCore::OnCopyDone(const CopyResult& result) {
  auto it = transfers_.find(result.id);
  if (it == transfers_.end()) {
    ++counters_.late_completions;
    EndZombie(result.id);
    return;
  }
  const Transfer transfer = it->second;
  if (!Planted(PlantedBug::kDoubleCompletion)) transfers_.erase(it);
  const int64_t bytes = static_cast<int64_t>(transfer.slabs.size()) * host_->slab_bytes();
  absl::Status status = result.status;
  if (status.ok() && result.bytes != bytes && !Planted(PlantedBug::kShortCopyAccepted)) {
    status = absl::AbortedError(
        absl::StrCat("KV copy ", result.id, " moved ", result.bytes, " of ", bytes, " bytes"));
  }
  if (Planted(PlantedBug::kFailedCopyIgnored)) status = absl::OkStatus();
  const bool to_device = transfer.direction == CopyDirection::kToDevice;
  (to_device ? counters_.seconds_to_device : counters_.seconds_to_host) += result.busy_seconds;
  if (status.ok()) {
    (to_device ? counters_.bytes_to_device : counters_.bytes_to_host) += bytes;
    ++transfers_done_;
  } else {
    ++transfers_failed_;
    if (status.code() != absl::StatusCode::kDataLoss) {
      status = absl::AbortedError(absl::StrCat("KV copy failed: ", status.message()));
    }
  }
  EndTransfer(result.id, transfer, status, /*memory_is_safe=*/true);
}

void KvServiceCore::EndTransfer(uint64_t id, const Transfer& transfer, const absl::Status& status,
                                bool memory_is_safe) {
  const bool to_device = transfer.direction == CopyDirection::kToDevice;
  --open_[static_cast<int>(transfer.direction)];
  if (!memory_is_safe) {
    zombies_.emplace(id, transfer.slabs);
    for (const auto& [slab, device] : transfer.slabs) ++slabs_[slab].zombies;
  }
  for (const auto& [slab, device] : transfer.slabs) {
    if (to_device) {
      EndToDevice(slab, status.ok(), memory_is_safe);
    } else {
      EndToHost(slab, status.ok(), memory_is_safe);
    }
    MaybeDrain(slab);
    if (!slabs_[slab].doomed) UpdateEvictable(slab);
  }
  if (!status.ok()) {
    // Others that wait for a slab of this copy ask for it again.
    demand_.fetched = 0;
    if (to_device) FailSequence(transfer.sequence, status);
  }
  AdvanceDemand();
}

void KvServiceCore::EndToDevice(SlabId id, bool ok, bool memory_is_safe) {
  Slab& slab = slabs_[id];
  if (ok) {
    slab.state = SlabState::kBoth;
    return;
  }
  DropDevice(id, memory_is_safe);
  slab.state = SlabState::kHost;
}

void KvServiceCore::EndToHost(SlabId id, bool ok, bool memory_is_safe) {
  Slab& slab = slabs_[id];
  if (ok) {
    slab.state = SlabState::kBoth;
    return;
  }
  // The host's copy is undefined now, and no retry can be better than the copier's own. Whoever
  // reads the slab on the device may finish; the next acquisition is refused.
  slab.lost = !Planted(PlantedBug::kLostSlabServed);
  if (slab.pins > 0 && memory_is_safe) {
    slab.state = SlabState::kDevice;
    return;
  }
  DropDevice(id, memory_is_safe);
  slab.state = SlabState::kAbsent;
}

bool KvServiceCore::EndZombie(uint64_t id) {
  auto it = zombies_.find(id);
  if (it == zombies_.end()) return false;
  const auto slabs = std::move(it->second);
  zombies_.erase(it);
  for (const auto& [slab, device] : slabs) {
    --quarantined_;
    device_->Release({&device, 1});
    --slabs_[slab].zombies;
    MaybeDrain(slab);
  }
  AdvanceDemand();
  return true;
}

std::vector<uint64_t> KvServiceCore::Expired(absl::Time now) {
  if (Planted(PlantedBug::kInfiniteTimeout)) return {};
  if (demand_.active && !demand_.done && now >= demand_.deadline) {
    FailSequence(demand_.sequence, absl::AbortedError("KV layer did not arrive in time"));
    AdvanceDemand();
  }
  std::vector<uint64_t> ids;
  for (const auto& [id, transfer] : transfers_) {
    if (now >= transfer.deadline) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

void KvServiceCore::OnExpired(uint64_t id, bool memory_is_safe, absl::Time now) {
  auto it = transfers_.find(id);
  if (it == transfers_.end()) return;  // ended meanwhile
  if (Planted(PlantedBug::kQuarantineSkipped)) memory_is_safe = true;
  Transfer& transfer = it->second;
  const absl::Status status = absl::AbortedError(absl::StrCat(
      "KV copy ", id, " timed out after ", absl::FormatDuration(options_.transfer_timeout)));
  if (!memory_is_safe && transfer.direction == CopyDirection::kToHost) {
    bool pinned = false, waited_for = false;
    for (const auto& [slab, device] : transfer.slabs) {
      pinned |= slabs_[slab].pins > 0;
      waited_for |= demand_.active && !demand_.done &&
                    std::any_of(demand_.holds.begin(), demand_.holds.end(),
                                [id = slab](const KvHold& hold) { return hold.slab == id; });
    }
    if (pinned) {
      // The device slab cannot change hands while a layer reads it. A layer that only waits for it
      // is sent away; then the transfer is looked at again.
      if (waited_for) {
        FailSequence(demand_.sequence, status);
        AdvanceDemand();
      }
      transfer.deadline = now + options_.transfer_timeout / 8;
      return;
    }
  }
  ++transfers_timed_out_;
  if (Planted(PlantedBug::kLeakOnLostCompletion)) {
    --open_[static_cast<int>(transfer.direction)];
    transfers_.erase(it);
    return;
  }
  const Transfer ended = std::move(transfer);
  transfers_.erase(it);
  EndTransfer(id, ended, status, memory_is_safe);
}

absl::Time KvServiceCore::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  if (demand_.active && !demand_.done) next = demand_.deadline;
  for (const auto& [id, transfer] : transfers_) next = std::min(next, transfer.deadline);
  return next;
}

}  // namespace slim
