#include "engine/backend/cuda/pinned_slabs.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace slim::cuda {
namespace {

constexpr int64_t kWantedChunkBytes = int64_t{1} << 30;
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kSlabAlignment = 64;

class PinnedSlabs final : public SlabMemory {
 public:
  PinnedSlabs(std::unique_ptr<SlabMemory> memory, PinCalls calls)
      : memory_(std::move(memory)), calls_(std::move(calls)) {}
  ~PinnedSlabs() override {
    for (void* chunk : chunks_) calls_.unpin(chunk);
  }

  absl::Status Pin(void* data, int64_t bytes) {
    SLIM_RETURN_IF_ERROR(calls_.pin(data, bytes));
    chunks_.push_back(data);
    return absl::OkStatus();
  }

  char* base() const override { return memory_->base(); }
  bool host_readable() const override { return true; }
  void Fill(void* data, unsigned char value, int64_t bytes) override {
    memory_->Fill(data, value, bytes);
  }

 private:
  const std::unique_ptr<SlabMemory> memory_;
  const PinCalls calls_;
  std::vector<void*> chunks_;
};

}  // namespace

int64_t PinnedChunkBytes(int64_t stride_bytes) {
  // So many slabs end on a page whatever multiple of 64 the stride is.
  const int64_t group = stride_bytes * (kPageBytes / kSlabAlignment);
  return std::max<int64_t>(1, kWantedChunkBytes / group) * group;
}

absl::StatusOr<std::unique_ptr<SlabMemory>> CreatePinnedSlabs(int64_t stride_bytes,
                                                              int64_t num_slabs,
                                                              int64_t available_bytes,
                                                              PinCalls calls) {
  const int64_t bytes = stride_bytes * num_slabs;
  if (bytes > available_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("--kv_host_bytes: the host pool of ", bytes,
                                                     " bytes is pinned, and machine or cgroup ",
                                                     "leave ", available_bytes));
  }
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<SlabMemory> memory, MapHostSlabs(bytes));
  auto slabs = std::make_unique<PinnedSlabs>(std::move(memory), std::move(calls));
  const int64_t chunk_bytes = PinnedChunkBytes(stride_bytes);
  for (int64_t offset = 0; offset < bytes; offset += chunk_bytes) {
    const absl::Status status =
        slabs->Pin(slabs->base() + offset, std::min(chunk_bytes, bytes - offset));
    if (!status.ok()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("--kv_host_bytes: ", offset, " of ", bytes,
                       " bytes of the host pool could be pinned: ", status.message()));
    }
  }
  return std::unique_ptr<SlabMemory>(std::move(slabs));
}

}  // namespace slim::cuda
