#include "engine/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "engine/base/check.h"

namespace slim {
namespace {

constexpr uint64_t kNoPair = ~uint64_t{0};  // no pair: ids are below 2^31
constexpr uint32_t kNoRank = ~uint32_t{0};
constexpr uint32_t kNoSymbol = ~uint32_t{0};

// Up to here rescanning all pairs is cheaper than a heap.
constexpr size_t kShortSymbols = 48;

uint64_t PairOf(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

BpeMerger::BpeMerger(size_t num_merges) : capacity_(num_merges) {
  const size_t slots = std::bit_ceil(std::max<size_t>(16, 2 * num_merges));
  slots_.assign(slots, Entry{kNoPair, kNoRank, -1});
  shift_ = 64 - std::countr_zero(slots);
}

size_t BpeMerger::SlotOf(uint64_t pair) const {
  const uint64_t mixed = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;
  size_t slot = mixed >> shift_;
  while (slots_[slot].pair != pair && slots_[slot].pair != kNoPair) {
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

bool BpeMerger::Add(int32_t left, int32_t right, int32_t merged) {
  SLIM_CHECK(left >= 0 && right >= 0 && merged >= 0);
  SLIM_CHECK(num_added_ < capacity_);
  const uint64_t pair = PairOf(left, right);
  Entry& entry = slots_[SlotOf(pair)];
  if (entry.pair == pair) return false;
  entry = {pair, num_added_++, merged};
  return true;
}

const BpeMerger::Entry* BpeMerger::Find(int32_t left, int32_t right) const {
  if ((left | right) < 0) return nullptr;
  const Entry& entry = slots_[SlotOf(PairOf(left, right))];
  return entry.pair == kNoPair ? nullptr : &entry;
}

uint32_t BpeMerger::RankOf(int32_t left, int32_t right) const {
  const Entry* entry = Find(left, right);
  return entry == nullptr ? kNoRank : entry->rank;
}

void BpeMerger::Merge(BpeScratch* scratch) const {
  if (scratch->ids.size() < 2) return;
  if (scratch->ids.size() <= kShortSymbols) {
    MergeShort(scratch);
  } else {
    MergeLong(scratch);
  }
}

void BpeMerger::MergeShort(BpeScratch* scratch) const {
  std::vector<int32_t>& ids = scratch->ids;
  uint32_t ranks[kShortSymbols];
  size_t pairs = ids.size() - 1;
  for (size_t i = 0; i < pairs; ++i) ranks[i] = RankOf(ids[i], ids[i + 1]);
  while (pairs > 0) {
    size_t best = 0;
    for (size_t i = 1; i < pairs; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    ids[best] = Find(ids[best], ids[best + 1])->merged;
    std::copy(ids.begin() + best + 2, ids.begin() + pairs + 1, ids.begin() + best + 1);
    std::copy(ranks + best + 1, ranks + pairs, ranks + best);
    --pairs;
    if (best > 0) ranks[best - 1] = RankOf(ids[best - 1], ids[best]);
    if (best < pairs) ranks[best] = RankOf(ids[best], ids[best + 1]);
  }
  ids.resize(pairs + 1);
}

void BpeMerger::MergeLong(BpeScratch* scratch) const {
  std::vector<int32_t>& ids = scratch->ids;
  std::vector<uint32_t>& ranks = scratch->ranks;
  std::vector<uint32_t>& next = scratch->next;
  std::vector<uint32_t>& previous = scratch->previous;
  std::vector<uint64_t>& heap = scratch->heap;
  const size_t n = ids.size();
  SLIM_CHECK(n < kNoSymbol);
  ranks.assign(n, kNoRank);
  next.resize(n);
  previous.resize(n);
  heap.clear();
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : kNoSymbol;
    previous[i] = i > 0 ? i - 1 : kNoSymbol;
    if (i + 1 == n) break;
    ranks[i] = RankOf(ids[i], ids[i + 1]);
    if (ranks[i] != kNoRank) heap.push_back(uint64_t{ranks[i]} << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto rank_again = [&](uint32_t i) {
    ranks[i] = next[i] == kNoSymbol ? kNoRank : RankOf(ids[i], ids[next[i]]);
    if (ranks[i] == kNoRank) return;
    heap.push_back(uint64_t{ranks[i]} << 32 | i);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto left = static_cast<uint32_t>(top);
    // Entries of pairs that have changed since are left in the heap and dropped here.
    if (ranks[left] != top >> 32) continue;
    const uint32_t right = next[left];
    ids[left] = Find(ids[left], ids[right])->merged;
    next[left] = next[right];
    if (next[right] != kNoSymbol) previous[next[right]] = left;
    ranks[right] = kNoRank;
    rank_again(left);
    if (previous[left] != kNoSymbol) rank_again(previous[left]);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i != kNoSymbol; i = next[i]) ids[kept++] = ids[i];
  ids.resize(kept);
}

}  // namespace slim
