#include "engine/backend/cuda/graph_cache.h"

#include <utility>

#include "absl/hash/hash.h"

namespace slim::cuda {
namespace {

// Few launches gain nothing.
constexpr size_t kFewestLaunches = 16;
// So many failures mean that this device cannot capture at all.
constexpr int64_t kMostFailures = 3;

}  // namespace

GraphCache::~GraphCache() {
  for (const Entry& entry : entries_) {
    if (entry.graph != nullptr) driver_->Destroy(entry.graph);
  }
}

absl::Status GraphCache::RunPlain(const CommandList& list) {
  ++stats_.plain;
  return driver_->Run(list);
}

void GraphCache::Evict() {
  const Entry& oldest = entries_.back();
  if (oldest.graph != nullptr) driver_->Destroy(oldest.graph);
  by_hash_.erase(oldest.hash);
  entries_.pop_back();
  ++stats_.evicted;
}

absl::Status GraphCache::Run(const CommandList& list) {
  if (list.size() < kFewestLaunches || !can_capture_) return RunPlain(list);
  const size_t hash = absl::HashOf(list.words());
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) {
    if (entries_.size() >= max_lists_) Evict();
    entries_.push_front(Entry{list.words(), hash, nullptr});
    by_hash_[hash] = entries_.begin();
    return RunPlain(list);
  }
  Entry& entry = *found->second;
  if (entry.words != list.words()) return RunPlain(list);  // two lists with one hash
  entries_.splice(entries_.begin(), entries_, found->second);
  if (entry.graph == nullptr) {
    absl::StatusOr<GraphDriver::Graph> graph = driver_->Capture(list);
    if (!graph.ok()) {
      can_capture_ = ++stats_.capture_failures < kMostFailures;
      return RunPlain(list);
    }
    ++stats_.captured;
    entry.graph = *graph;
  }
  ++stats_.replayed;
  return driver_->Launch(entry.graph);
}

}  // namespace slim::cuda
