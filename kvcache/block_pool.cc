#include "kvcache/block_pool.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "kvcache/planted_bug.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLIM_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SLIM_ASAN 1
#endif
#ifdef SLIM_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace slim {
namespace {

constexpr int64_t kSlabAlignment = 64;
constexpr int64_t kMaxMappedBytes = int64_t{1} << 46;
constexpr unsigned char kPoison = 0xFB;

constexpr int PartsOf(BlockPool::Shape shape) { return shape == BlockPool::Shape::kHalves ? 2 : 1; }

}  // namespace

void BlockPool::ForbidAccess([[maybe_unused]] SlabId first, [[maybe_unused]] int64_t count) const {
#ifdef SLIM_ASAN
  for (int part = 0; part < parts_ && memory_->host_readable(); ++part) {
    __asan_poison_memory_region(PartOf(first, part), static_cast<size_t>(count * part_stride_));
  }
#endif
}

void BlockPool::AllowAccess([[maybe_unused]] SlabId first, [[maybe_unused]] int64_t count) const {
#ifdef SLIM_ASAN
  for (int part = 0; part < parts_ && memory_->host_readable(); ++part) {
    __asan_unpoison_memory_region(PartOf(first, part), static_cast<size_t>(count * part_stride_));
  }
#endif
}

int64_t BlockPool::Stride(int64_t slab_bytes, Shape shape) {
  const int parts = PartsOf(shape);
  return (slab_bytes / parts + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment * parts;
}

int64_t BlockPool::SlabsIn(int64_t bytes, int64_t slab_bytes, Shape shape) {
  return slab_bytes <= 0 || bytes <= 0 ? 0 : bytes / Stride(slab_bytes, shape);
}

absl::StatusOr<std::unique_ptr<BlockPool>> BlockPool::Create(int64_t slab_bytes, int64_t num_slabs,
                                                             bool poison_freed,
                                                             std::unique_ptr<SlabMemory> memory,
                                                             Shape shape) {
  if (slab_bytes % PartsOf(shape) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("block pool: slabs of ", slab_bytes, " bytes cannot be halved"));
  }
  if (!(slab_bytes > 0 && slab_bytes <= kMaxMappedBytes && num_slabs > 0 &&
        num_slabs <= std::numeric_limits<SlabId>::max() &&
        num_slabs <= kMaxMappedBytes / Stride(slab_bytes, shape))) {
    return absl::InvalidArgumentError(
        absl::StrCat("block pool of ", num_slabs, " slabs of ", slab_bytes,
                     " bytes: both must be positive and their product at most ", kMaxMappedBytes));
  }
  if (memory == nullptr) {
    SLIM_ASSIGN_OR_RETURN(memory, MapHostSlabs(Stride(slab_bytes, shape) * num_slabs));
  }
  return std::unique_ptr<BlockPool>(
      new BlockPool(slab_bytes, num_slabs, poison_freed, std::move(memory), shape));
}

BlockPool::BlockPool(int64_t slab_bytes, int64_t num_slabs, bool poison_freed,
                     std::unique_ptr<SlabMemory> memory, Shape shape)
    : slab_bytes_(slab_bytes),
      parts_(PartsOf(shape)),
      part_stride_(Stride(slab_bytes, shape) / parts_),
      poison_freed_(poison_freed),
      memory_(std::move(memory)),
      base_(memory_->base()),
      free_slabs_(num_slabs),
      taken_(static_cast<size_t>(num_slabs), false),
      written_(static_cast<size_t>(num_slabs), false) {
  ForbidAccess(0, num_slabs);
  AddRun(0, num_slabs);
}

BlockPool::~BlockPool() { AllowAccess(0, total_slabs()); }

void BlockPool::Fill(SlabId first, int64_t count, unsigned char value) {
  for (int part = 0; part < parts_; ++part) {
    memory_->Fill(PartOf(first, part), value, count * part_stride_);
  }
}

void BlockPool::AddRun(SlabId first, int64_t length) {
  runs_.emplace(first, length);
  runs_by_length_.emplace(length, first);
}

void BlockPool::EraseRun(SlabId first, int64_t length) {
  runs_.erase(first);
  runs_by_length_.erase({length, first});
}

void BlockPool::TakeFromRun(SlabId first, int64_t count, std::vector<SlabId>* out) {
  const int64_t length = runs_.at(first);
  SLIM_CHECK(count <= length);
  EraseRun(first, length);
  if (count < length) AddRun(static_cast<SlabId>(first + count), length - count);
  for (int64_t i = 0; i < count; ++i) {
    const SlabId slab = static_cast<SlabId>(first + i);
    taken_[slab] = true;
    AllowAccess(slab, 1);
    out->push_back(slab);
  }
  free_slabs_ -= count;
}

absl::Status BlockPool::Acquire(int64_t count, std::vector<SlabId>* out) {
  if (count > free_slabs_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV pool: ", count, " slabs asked for, ", free_slabs_, " free"));
  }
  const size_t begin = out->size();
  while (count > 0) {
    auto run = runs_by_length_.lower_bound({count, 0});
    if (run == runs_by_length_.end()) --run;  // none is long enough: the longest first
    const int64_t taken = std::min(count, run->first);
    TakeFromRun(run->second, taken, out);
    count -= taken;
  }
  ZeroReused(absl::MakeConstSpan(*out).subspan(begin));
  return absl::OkStatus();
}

void BlockPool::ZeroReused(absl::Span<const SlabId> slabs) {
  // Neighbours in one go: a device takes microseconds to be told anything.
  for (size_t i = 0; i < slabs.size();) {
    size_t end = i;
    while (end < slabs.size() && written_[slabs[end]] &&
           slabs[end] == slabs[i] + static_cast<SlabId>(end - i)) {
      ++end;
    }
    if (end > i && !Planted(PlantedBug::kStaleSlabReused)) {
      Fill(slabs[i], static_cast<int64_t>(end - i), 0);
    }
    i = std::max(end, i + 1);
  }
  for (const SlabId slab : slabs) written_[slab] = true;
}

SlabId BlockPool::AcquireForOverwrite() {
  if (free_slabs_ == 0) return kNoSlab;
  std::vector<SlabId> slab;
  TakeFromRun(runs_.begin()->first, 1, &slab);
  written_[slab[0]] = true;
  return slab[0];
}

void BlockPool::Zero(SlabId slab) { Fill(slab, 1, 0); }

void BlockPool::Release(absl::Span<const SlabId> slabs) {
  for (const SlabId slab : slabs) {
    SLIM_CHECK(slab >= 0 && slab < total_slabs() && taken_[slab]);
    taken_[slab] = false;
    ++free_slabs_;
    if (poison_freed_) Fill(slab, 1, kPoison);
    ForbidAccess(slab, 1);
    SlabId first = slab;
    int64_t length = 1;
    auto next = runs_.upper_bound(slab);
    if (next != runs_.begin()) {
      auto previous = std::prev(next);
      if (previous->first + previous->second == slab) {
        first = previous->first;
        length += previous->second;
      }
    }
    if (next != runs_.end() && next->first == slab + 1) {
      const auto [next_first, next_length] = *next;
      length += next_length;
      EraseRun(next_first, next_length);
    }
    if (first != slab) EraseRun(first, runs_.at(first));
    AddRun(first, length);
  }
}

}  // namespace slim
