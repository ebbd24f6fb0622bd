#include "kvcache/block_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
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

// A read of a free slab is an error that AddressSanitizer can report.
void ForbidAccess([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef SLIM_ASAN
  __asan_poison_memory_region(data, static_cast<size_t>(bytes));
#endif
}
void AllowAccess([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef SLIM_ASAN
  __asan_unpoison_memory_region(data, static_cast<size_t>(bytes));
#endif
}

int64_t StrideOf(int64_t slab_bytes) {
  return (slab_bytes + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment;
}

}  // namespace

int64_t BlockPool::SlabsIn(int64_t bytes, int64_t slab_bytes) {
  return slab_bytes <= 0 || bytes <= 0 ? 0 : bytes / StrideOf(slab_bytes);
}

absl::StatusOr<std::unique_ptr<BlockPool>> BlockPool::Create(int64_t slab_bytes, int64_t num_slabs,
                                                             bool poison_freed) {
  if (!(slab_bytes > 0 && slab_bytes <= kMaxMappedBytes && num_slabs > 0 &&
        num_slabs <= std::numeric_limits<SlabId>::max() &&
        num_slabs <= kMaxMappedBytes / StrideOf(slab_bytes))) {
    return absl::InvalidArgumentError(
        absl::StrCat("block pool of ", num_slabs, " slabs of ", slab_bytes,
                     " bytes: both must be positive and their product at most ", kMaxMappedBytes));
  }
  const int64_t bytes = StrideOf(slab_bytes) * num_slabs;
  void* base = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot map ", bytes, " bytes for KV slabs: ", std::strerror(errno)));
  }
  // Only a hint: attention walks slabs in random order and gains from large pages.
  (void)madvise(base, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return std::unique_ptr<BlockPool>(new BlockPool(slab_bytes, StrideOf(slab_bytes), num_slabs,
                                                  poison_freed, static_cast<char*>(base), bytes));
}

BlockPool::BlockPool(int64_t slab_bytes, int64_t stride, int64_t num_slabs, bool poison_freed,
                     char* base, int64_t mapped_bytes)
    : slab_bytes_(slab_bytes),
      stride_(stride),
      poison_freed_(poison_freed),
      base_(base),
      mapped_bytes_(mapped_bytes),
      free_slabs_(num_slabs),
      taken_(static_cast<size_t>(num_slabs), false),
      written_(static_cast<size_t>(num_slabs), false) {
  ForbidAccess(base_, mapped_bytes_);
  AddRun(0, num_slabs);
}

BlockPool::~BlockPool() {
  AllowAccess(base_, mapped_bytes_);
  munmap(base_, static_cast<size_t>(mapped_bytes_));
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
    AllowAccess(data(slab), stride_);
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
  for (size_t i = begin; i < out->size(); ++i) {
    const SlabId slab = (*out)[i];
    if (written_[slab] && !Planted(PlantedBug::kStaleSlabReused)) Zero(slab);
    written_[slab] = true;
  }
  return absl::OkStatus();
}

SlabId BlockPool::AcquireForOverwrite() {
  if (free_slabs_ == 0) return kNoSlab;
  std::vector<SlabId> slab;
  TakeFromRun(runs_.begin()->first, 1, &slab);
  written_[slab[0]] = true;
  return slab[0];
}

void BlockPool::Zero(SlabId slab) { std::memset(data(slab), 0, static_cast<size_t>(slab_bytes_)); }

void BlockPool::Release(absl::Span<const SlabId> slabs) {
  for (const SlabId slab : slabs) {
    SLIM_CHECK(slab >= 0 && slab < total_slabs() && taken_[slab]);
    taken_[slab] = false;
    ++free_slabs_;
    if (poison_freed_) std::memset(data(slab), kPoison, static_cast<size_t>(slab_bytes_));
    ForbidAccess(data(slab), stride_);
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
