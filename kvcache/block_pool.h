// A fixed number of equal slabs in one range of memory. Host memory is touched only when a slab is
// written, so a large pool costs nothing until it is used. A slab is one piece, or two halves: then
// the first halves of all slabs lie before the second halves of all, and whoever reads the same
// half of neighbouring slabs reads one stream.
//
// A slab is handed out filled with zeroes: kernels rely on zero beyond the written slots, and a
// sequence must never see what another one left. Thread rule: one thread at a time (the owner's).
// Ownership: the pool owns the memory; ids are plain numbers, owned by KvPage.
#ifndef KVCACHE_BLOCK_POOL_H_
#define KVCACHE_BLOCK_POOL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/kv_memories.h"

namespace slim {

using SlabId = int32_t;
inline constexpr SlabId kNoSlab = -1;

class BlockPool {
 public:
  enum class Shape : uint8_t { kWhole, kHalves };

  // INVALID_ARGUMENT when a number is not positive or too large, RESOURCE_EXHAUSTED when the
  // mapping fails. Slabs (halves) are 64-byte aligned: the stride is their size rounded up.
  // `memory`: Stride(slab_bytes, shape) * num_slabs bytes of it; null: host memory.
  static absl::StatusOr<std::unique_ptr<BlockPool>> Create(
      int64_t slab_bytes, int64_t num_slabs, bool poison_freed,
      std::unique_ptr<SlabMemory> memory = nullptr, Shape shape = Shape::kWhole);
  // Memory that one slab takes; of whole slabs the distance of neighbours, of halves twice that.
  static int64_t Stride(int64_t slab_bytes, Shape shape = Shape::kWhole);
  // Slabs that fit `bytes`.
  static int64_t SlabsIn(int64_t bytes, int64_t slab_bytes, Shape shape = Shape::kWhole);

  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Appends `count` zeroed slabs to `out`, as one contiguous run if there is one (the shortest that
  // is long enough), else in pieces. RESOURCE_EXHAUSTED, with nothing taken, when fewer are free.
  absl::Status Acquire(int64_t count, std::vector<SlabId>* out);
  // One slab whose content is undefined: for a caller that overwrites all of it. kNoSlab when none
  // is free.
  SlabId AcquireForOverwrite();
  // Every slab must be taken.
  void Release(absl::Span<const SlabId> slabs);

  // The slab, or its first half.
  void* data(SlabId slab) const { return PartOf(slab, 0); }
  void Zero(SlabId slab);
  bool is_taken(SlabId slab) const { return taken_[slab]; }
  int64_t slab_bytes() const { return slab_bytes_; }
  int64_t total_slabs() const { return static_cast<int64_t>(taken_.size()); }
  int64_t free_slabs() const { return free_slabs_; }

 private:
  BlockPool(int64_t slab_bytes, int64_t num_slabs, bool poison_freed,
            std::unique_ptr<SlabMemory> memory, Shape shape);

  char* PartOf(SlabId slab, int part) const {
    return base_ + (part * total_slabs() + slab) * part_stride_;
  }
  // Sets the bytes of `count` neighbouring slabs.
  void Fill(SlabId first, int64_t count, unsigned char value);

  // A read of a free slab is an error that AddressSanitizer can report.
  void ForbidAccess(SlabId first, int64_t count) const;
  void AllowAccess(SlabId first, int64_t count) const;

  void ZeroReused(absl::Span<const SlabId> slabs);
  // Takes `count` slabs from the front of the run that begins at `first`.
  void TakeFromRun(SlabId first, int64_t count, std::vector<SlabId>* out);
  void AddRun(SlabId first, int64_t length);
  void EraseRun(SlabId first, int64_t length);

  const int64_t slab_bytes_;
  const int parts_;
  const int64_t part_stride_;
  const bool poison_freed_;
  const std::unique_ptr<SlabMemory> memory_;
  char* const base_;
  int64_t free_slabs_ = 0;
  std::vector<bool> taken_;
  std::vector<bool> written_;  // was handed out before: not known to be zero
  // Free runs by first slab (to merge neighbours) and by length (to find the best fit).
  std::map<SlabId, int64_t> runs_;
  std::set<std::pair<int64_t, SlabId>> runs_by_length_;
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_POOL_H_
