// Byte-pair merging of one piece of text: starts from one token per byte and joins the adjacent
// pair of the lowest rank, leftmost first, until no pair has a rank. BpeMerger is immutable after
// its last Add, hence thread-safe; BpeScratch belongs to one call.
#ifndef ENGINE_TOKENIZER_BPE_H_
#define ENGINE_TOKENIZER_BPE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace slim {

// Working memory of Merge, kept between pieces so that a piece costs no allocation.
struct BpeScratch {
  std::vector<int32_t> ids;
  std::vector<uint32_t> ranks;  // ranks[i]: rank of the pair that starts at symbol i
  std::vector<uint32_t> next;
  std::vector<uint32_t> previous;
  std::vector<uint64_t> heap;  // rank << 32 | position of the pair's left symbol
};

class BpeMerger {
 public:
  // Room for `num_merges` Adds, fewer than 2^31.
  explicit BpeMerger(size_t num_merges);

  // The pair (left, right) becomes `merged`; earlier calls have lower ranks. Returns false, and
  // changes nothing, where the pair has a rank already. Ids are not negative.
  bool Add(int32_t left, int32_t right, int32_t merged);

  // Merges scratch->ids in place. Negative ids never merge. O(n log n) time, no recursion.
  void Merge(BpeScratch* scratch) const;

 private:
  struct Entry {
    uint64_t pair;  // left << 32 | right; kNoPair where the slot is free
    uint32_t rank;
    int32_t merged;
  };

  size_t SlotOf(uint64_t pair) const;
  // The entry of the pair, or nullptr.
  const Entry* Find(int32_t left, int32_t right) const;
  uint32_t RankOf(int32_t left, int32_t right) const;
  void MergeShort(BpeScratch* scratch) const;
  void MergeLong(BpeScratch* scratch) const;

  std::vector<Entry> slots_;  // open addressing, a power of two, at most half full
  int shift_;
  uint32_t num_added_ = 0;
  size_t capacity_;
};

}  // namespace slim

#endif  // ENGINE_TOKENIZER_BPE_H_
