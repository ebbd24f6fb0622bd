// Host memory of the KV pool, pinned so that copies run beside the computing: one range of
// addresses, pinned in chunks of about a GiB, since one huge call may fail where many succeed.
// The calls to the driver are parameters, so that the arithmetic and the errors can be tested
// without one. Thread rule: as SlabMemory.
#ifndef ENGINE_BACKEND_CUDA_PINNED_SLABS_H_
#define ENGINE_BACKEND_CUDA_PINNED_SLABS_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvcache/kv_memories.h"

namespace slim::cuda {

struct PinCalls {
  std::function<absl::Status(void* data, int64_t bytes)> pin;
  std::function<void(void* data)> unpin;
};

// Whole slabs and whole memory pages: no slab lies in two chunks.
int64_t PinnedChunkBytes(int64_t stride_bytes);

// RESOURCE_EXHAUSTED, naming --kv_host_bytes and both numbers, when more than `available_bytes` are
// asked for or the driver cannot pin that much; what was pinned is released.
absl::StatusOr<std::unique_ptr<SlabMemory>> CreatePinnedSlabs(int64_t stride_bytes,
                                                              int64_t num_slabs,
                                                              int64_t available_bytes,
                                                              PinCalls calls);

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_PINNED_SLABS_H_
