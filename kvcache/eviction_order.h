// Slabs that can leave the device at no cost, by how far away their next use is ("rank": larger is
// further). Insert, erase and "the furthest" are O(1) apart from a scan over the few ranks.
// Not thread-safe.
#ifndef KVCACHE_EVICTION_ORDER_H_
#define KVCACHE_EVICTION_ORDER_H_

#include <cstdint>
#include <vector>

#include "kvcache/block_pool.h"

namespace slim {

class EvictionOrder {
 public:
  EvictionOrder(int64_t num_slabs, int num_ranks)
      : places_(static_cast<size_t>(num_slabs)), ranks_(static_cast<size_t>(num_ranks)) {}

  bool Contains(SlabId slab) const { return places_[slab].rank >= 0; }
  int64_t size() const { return size_; }

  void Insert(SlabId slab, int rank) {
    if (Contains(slab)) return;
    places_[slab] = {rank, static_cast<int32_t>(ranks_[rank].size())};
    ranks_[rank].push_back(slab);
    ++size_;
  }
  void Erase(SlabId slab) {
    const Place place = places_[slab];
    if (place.rank < 0) return;
    std::vector<SlabId>& list = ranks_[place.rank];
    list[place.index] = list.back();
    places_[list.back()].index = place.index;
    list.pop_back();
    places_[slab] = {};
    --size_;
  }
  // A slab of the highest rank above `above`, kNoSlab when there is none.
  SlabId Furthest(int above) const {
    for (int rank = static_cast<int>(ranks_.size()) - 1; rank > above; --rank) {
      if (!ranks_[rank].empty()) return ranks_[rank].back();
    }
    return kNoSlab;
  }

 private:
  struct Place {
    int32_t rank = -1;
    int32_t index = 0;
  };
  std::vector<Place> places_;
  std::vector<std::vector<SlabId>> ranks_;
  int64_t size_ = 0;
};

}  // namespace slim

#endif  // KVCACHE_EVICTION_ORDER_H_
