// The device as the backend sees it: one compute stream, stream-ordered memory, a ring of pinned
// memory for the small arrays of a step, and the memory of the first error.
//
// Ops with few rows (decode steps) are put off: their launches gather in a CommandList and their
// arrays in an arena of fixed place, until something needs the results or touches memory. Then the
// arrays go to the device in one copy and the launches follow, as a CUDA graph where the same step
// was seen before (graph_cache.h). Every call here that has an effect on the stream launches first
// what was put off, so the order on the stream is the order of the calls.
//
// Thread rule: the worker thread, except stream(), Check, RememberFailure and health, which are
// thread-safe.
// Ownership: shared by the backend and every buffer, so the stream outlives the last buffer.
#ifndef ENGINE_BACKEND_CUDA_CUDA_CONTEXT_H_
#define ENGINE_BACKEND_CUDA_CUDA_CONTEXT_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/command_list.h"
#include "engine/backend/cuda/cuda_graph_driver.h"
#include "engine/backend/cuda/cuda_status.h"
#include "engine/backend/cuda/graph_cache.h"
#include "engine/backend/cuda/op.h"
#include "engine/backend/cuda/op_timer.h"
#include "engine/backend/cuda/ring_cursor.h"
#include "engine/base/mutex.h"

namespace slim::cuda {

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
  // What the device's memory can give at most; 0: the driver does not say.
  double bytes_per_second() const { return bytes_per_second_; }

  // Zeroed device memory, freed in stream order. RESOURCE_EXHAUSTED with the bytes asked for.
  absl::StatusOr<Buffer> Allocate(int64_t bytes);

  // Turns a code into a status. An error that is not about memory is remembered: CUDA reports the
  // same one from every later call, so nothing can be computed any more.
  absl::Status Check(cudaError_t error, const char* call);
  // Also a kernel's fault found later, on another stream.
  void RememberFailure(const absl::Status& status);
  // OK, or the failure that was remembered.
  absl::Status health() const;

  // Opens an op of so many rows; first in every op. The remembered failure, or that of launches
  // that were put off.
  absl::Status BeginOp(int64_t rows);
  // Rows of an op that must not be put off.
  static constexpr int64_t kAtOnce = INT64_MAX;
  // Whether the launches of the current op are put off.
  bool deferring() const { return deferring_; }

  // Calls kLaunch(args..., stream), now or when the step is complete. Arguments: see CommandList.
  template <Op kOp, auto kLaunch, typename... Args>
  absl::Status Submit(const Args&... args) {
    if (deferring_) {
      pending_.Add(&LaunchFromWords<kOp, kLaunch, Args...>, args...);
      return absl::OkStatus();
    }
    if (timer_ != nullptr) SLIM_RETURN_IF_ERROR(Remember(timer_->Begin(kOp)));
    SLIM_RETURN_IF_ERROR(Remember(ToStatus(kLaunch(args..., stream_), OpName(kOp))));
    return timer_ != nullptr ? Remember(timer_->End()) : absl::OkStatus();
  }

  // Launches what was put off.
  absl::Status Flush();
  // Nothing is put off from now on: for memory that other streams copy from and to behind events on
  // the compute stream.
  void ForbidDeferring();

  // Op times; see Backend.
  void StartOpTimes();
  absl::StatusOr<std::vector<OpTime>> TakeOpTimes();

  // Waits until the stream is empty.
  absl::Status Synchronize();

  // Freed memory that is kept for the next Allocate goes back to the driver.
  absl::Status ReleaseUnused();

  // Copies host arrays to the device in one asynchronous copy; device[i] is where arrays[i] lies,
  // 16-byte aligned, for launches submitted before the next BeginOp. One call per op.
  absl::Status Upload(absl::Span<const HostArray> arrays, absl::Span<void*> device);

 private:
  CudaContext() = default;
  template <Op kOp, auto kLaunch, typename... Args>
  static absl::Status LaunchFromWords(const uint64_t* words, void* stream) {
    return std::apply(
        [stream](const Args&... args) {
          return ToStatus(kLaunch(args..., static_cast<cudaStream_t>(stream)), OpName(kOp));
        },
        CommandList::TakeAll<Args...>(words));
  }
  // The status itself; a failure that is not about memory is remembered.
  absl::Status Remember(const absl::Status& status);
  absl::Status CreateRing(int64_t segment_bytes);
  void DestroyRing();
  // False: there is no memory for it, and nothing is put off.
  bool CreateArena();
  // Places for the arrays in the arena; false: they do not fit.
  bool PlaceInArena(absl::Span<const HostArray> arrays, absl::Span<void*> device);

  cudaStream_t stream_ = nullptr;
  std::string device_name_;
  int compute_capability_ = 0;
  double bytes_per_second_ = 0;
  int64_t total_bytes_ = 0;  // of device memory

  RingCursor ring_;
  char* ring_host_ = nullptr;             // pinned
  char* ring_device_ = nullptr;           // of the same size
  std::vector<cudaEvent_t> ring_events_;  // per segment: its last use

  // What was put off. The arena's host side exists twice, so that the next step can be written
  // while this one is copied.
  bool can_defer_ = true;
  bool deferring_ = false;
  CommandList pending_;
  char* arena_host_[2] = {};  // pinned
  char* arena_device_ = nullptr;
  cudaEvent_t arena_copied_[2] = {};
  int arena_half_ = 0;
  int64_t arena_used_ = 0;
  int64_t arena_sent_ = 0;  // of these, on their way to the device
  std::unique_ptr<CudaGraphDriver> graph_driver_;
  std::unique_ptr<GraphCache> graphs_;
  std::unique_ptr<OpTimer> timer_;  // null: ops are not timed

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
