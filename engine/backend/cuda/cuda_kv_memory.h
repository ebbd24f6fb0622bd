// The KV pools' memory on the device, the pinned pool in host memory, and the link between them.
// Thread rule: as the interfaces that they implement. Ownership: each holds the context, so all may
// outlive the backend.
#ifndef ENGINE_BACKEND_CUDA_CUDA_KV_MEMORY_H_
#define ENGINE_BACKEND_CUDA_CUDA_KV_MEMORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/cuda/cuda_context.h"
#include "kvcache/kv_memories.h"

namespace slim::cuda {

// RESOURCE_EXHAUSTED naming --kv_device_bytes or --kv_host_bytes.
absl::StatusOr<KvMemories> CreateCudaKvMemories(std::shared_ptr<CudaContext> context,
                                                const KvMemorySizes& sizes);

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_CUDA_KV_MEMORY_H_
