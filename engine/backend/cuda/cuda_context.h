// The device as the backend sees it: one compute stream, stream-ordered memory, a ring of pinned
// memory for the small arrays of a step, and the memory of the first error.
//
// Thread rule: the worker thread, except stream() and RememberFailure, which are thread-safe.
// Ownership: shared by the backend and every buffer, so the stream outlives the last buffer.
#ifndef ENGINE_BACKEND_CUDA_CUDA_CONTEXT_H_
#define ENGINE_BACKEND_CUDA_CUDA_CONTEXT_H_

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/ring_cursor.h"
#include "engine/base/mutex.h"

namespace slim::cuda {

// What a code of the CUDA runtime means: OK, RESOURCE_EXHAUSTED for memory, else INTERNAL, with the
// name of the call and of the error.
absl::Status FromCuda(cudaError_t error, const char* call);
absl::Status FromCublas(cublasStatus_t status, const char* call);

// Small arrays that one op uploads together; see CudaContext::Upload.
struct HostArray {
  const void* data = nullptr;
  int64_t bytes = 0;
};

class CudaContext : public std::enable_shared_from_this<CudaContext> {
 public:
  // Device 0. UNAVAILABLE with the CUDA error when there is no driver or no GPU,
  // FAILED_PRECONDITION when the GPU is older than compute capability 8.0.
  static absl::StatusOr<std::shared_ptr<CudaContext>> Create();
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  cudaStream_t stream() const { return stream_; }
  const std::string& device_name() const { return device_name_; }
  int compute_capability() const { return compute_capability_; }  // 90 for 9.0

  // Zeroed device memory, freed in stream order. RESOURCE_EXHAUSTED with the bytes asked for.
  absl::StatusOr<Buffer> Allocate(int64_t bytes);

  // Turns a code into a status. An error that is not about memory is remembered: CUDA reports the
  // same one from every later call, so nothing can be computed any more.
  absl::Status Check(cudaError_t error, const char* call);
  // Also a kernel's fault found later, on another stream.
  void RememberFailure(const absl::Status& status);
  // OK, or the failure that was remembered.
  absl::Status health() const;

  // Waits until the stream is empty.
  absl::Status Synchronize();

  // Freed memory that is kept for the next Allocate goes back to the driver.
  absl::Status ReleaseUnused();

  // Copies host arrays to the device in one asynchronous copy; device[i] is where arrays[i] lies,
  // 16-byte aligned, for kernels launched before the next Upload. One call per op.
  absl::Status Upload(absl::Span<const HostArray> arrays, absl::Span<void*> device);

 private:
  CudaContext() = default;
  absl::Status CreateRing(int64_t segment_bytes);
  void DestroyRing();

  cudaStream_t stream_ = nullptr;
  std::string device_name_;
  int compute_capability_ = 0;
  int64_t total_bytes_ = 0;  // of device memory

  RingCursor ring_;
  char* ring_host_ = nullptr;             // pinned
  char* ring_device_ = nullptr;           // of the same size
  std::vector<cudaEvent_t> ring_events_;  // per segment: its last use

  mutable Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

// A buffer that only grows; contents are lost when it does.
class DeviceScratch {
 public:
  // At least `bytes` bytes, 256-byte aligned.
  absl::StatusOr<void*> Get(CudaContext& context, int64_t bytes);

 private:
  Buffer buffer_;
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_CUDA_CONTEXT_H_
