#include "engine/backend/cuda/cuda_context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim::cuda {
namespace {

constexpr int kRingSegments = 4;
constexpr int64_t kRingSegmentBytes = int64_t{4} << 20;
constexpr int kOldestCapability = 80;

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

absl::Status FromCuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat(call, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(text);
  return absl::InternalError(text);
}

absl::Status FromCublas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string text = absl::StrCat(call, ": ", cublasLtGetStatusName(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) return absl::ResourceExhaustedError(text);
  return absl::InternalError(text);
}

absl::StatusOr<std::shared_ptr<CudaContext>> CudaContext::Create() {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    return absl::UnavailableError(absl::StrCat(
        "no usable GPU: ", found == cudaSuccess ? "0 devices" : cudaGetErrorName(found), " (",
        cudaGetErrorString(found), ")"));
  }
  std::shared_ptr<CudaContext> context(new CudaContext());
  cudaDeviceProp properties;
  SLIM_RETURN_IF_ERROR(FromCuda(cudaSetDevice(0), "cudaSetDevice"));
  SLIM_RETURN_IF_ERROR(
      FromCuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties"));
  context->device_name_ = properties.name;
  context->compute_capability_ = properties.major * 10 + properties.minor;
  context->total_bytes_ = static_cast<int64_t>(properties.totalGlobalMem);
  if (context->compute_capability_ < kOldestCapability) {
    return absl::FailedPreconditionError(
        absl::StrCat(context->device_name_, " has compute capability ", properties.major, ".",
                     properties.minor, ", needed is 8.0 or later"));
  }
  SLIM_RETURN_IF_ERROR(FromCuda(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking),
                                "cudaStreamCreate"));
  // Freed memory stays in the pool: a step that has grown its workspaces once allocates nothing.
  cudaMemPool_t pool;
  uint64_t keep = UINT64_MAX;
  SLIM_RETURN_IF_ERROR(
      FromCuda(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool"));
  SLIM_RETURN_IF_ERROR(
      FromCuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
               "cudaMemPoolSetAttribute"));
  SLIM_RETURN_IF_ERROR(context->CreateRing(kRingSegmentBytes));
  return context;
}

// What fails while everything is taken down has no one to tell it to.
CudaContext::~CudaContext() {
  if (stream_ == nullptr) return;
  (void)cudaStreamSynchronize(stream_);
  DestroyRing();
  (void)cudaStreamDestroy(stream_);
}

absl::Status CudaContext::CreateRing(int64_t segment_bytes) {
  const RingCursor ring(kRingSegments, segment_bytes);
  void* host = nullptr;
  void* device = nullptr;
  SLIM_RETURN_IF_ERROR(
      Check(cudaHostAlloc(&host, static_cast<size_t>(ring.total_bytes()), cudaHostAllocDefault),
            "cudaHostAlloc"));
  ring_host_ = static_cast<char*>(host);
  SLIM_RETURN_IF_ERROR(
      Check(cudaMalloc(&device, static_cast<size_t>(ring.total_bytes())), "cudaMalloc"));
  ring_device_ = static_cast<char*>(device);
  for (int i = 0; i < kRingSegments; ++i) {
    cudaEvent_t event;
    SLIM_RETURN_IF_ERROR(
        Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate"));
    ring_events_.push_back(event);
  }
  ring_ = ring;  // last: a ring that could not be made has no room, and the next upload tries again
  return absl::OkStatus();
}

void CudaContext::DestroyRing() {
  for (const cudaEvent_t event : ring_events_) (void)cudaEventDestroy(event);
  ring_events_.clear();
  ring_ = RingCursor();
  (void)cudaFree(ring_device_);
  (void)cudaFreeHost(ring_host_);
  ring_device_ = ring_host_ = nullptr;
}

absl::StatusOr<Buffer> CudaContext::Allocate(int64_t bytes) {
  SLIM_RETURN_IF_ERROR(health());
  if (bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(bytes, " bytes of device memory asked for"));
  }
  void* data = nullptr;
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  // More than there is at all is no question for the driver.
  const cudaError_t error =
      bytes > total_bytes_ ? cudaErrorMemoryAllocation : cudaMallocAsync(&data, size, stream_);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // not sticky: what is asked for next may fit
    return absl::ResourceExhaustedError(
        absl::StrCat(bytes, " bytes of device memory asked for, there are not so many free"));
  }
  SLIM_RETURN_IF_ERROR(Check(error, "cudaMallocAsync"));
  Buffer buffer(data, bytes, [context = shared_from_this()](void* memory) {
    (void)context->Check(cudaFreeAsync(memory, context->stream_), "cudaFreeAsync");
  });
  SLIM_RETURN_IF_ERROR(Check(cudaMemsetAsync(data, 0, size, stream_), "cudaMemsetAsync"));
  return buffer;
}

absl::Status CudaContext::Check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return absl::OkStatus();
  const absl::Status status = FromCuda(error, call);
  if (!absl::IsResourceExhausted(status)) RememberFailure(status);
  return status;
}

void CudaContext::RememberFailure(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (failure_.ok()) failure_ = status;
}

absl::Status CudaContext::health() const {
  MutexLock lock(&mutex_);
  return failure_;
}

absl::Status CudaContext::Synchronize() {
  return Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

absl::Status CudaContext::ReleaseUnused() {
  SLIM_RETURN_IF_ERROR(Synchronize());
  cudaMemPool_t pool;
  SLIM_RETURN_IF_ERROR(
      Check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool"));
  return Check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
}

absl::Status CudaContext::Upload(absl::Span<const HostArray> arrays, absl::Span<void*> device) {
  SLIM_CHECK(arrays.size() == device.size());
  SLIM_RETURN_IF_ERROR(health());
  int64_t bytes = 0;
  for (const HostArray& array : arrays) bytes += RoundUp(array.bytes, 16);
  if (bytes > ring_.segment_bytes()) {
    SLIM_RETURN_IF_ERROR(Synchronize());
    DestroyRing();
    SLIM_RETURN_IF_ERROR(CreateRing(RoundUp(bytes, kRingSegmentBytes)));
  }
  const RingCursor::Place place = ring_.Take(bytes);
  if (place.left_segment >= 0) {
    // Everything that reads the old segment has been launched: ops upload once and then launch.
    SLIM_RETURN_IF_ERROR(
        Check(cudaEventRecord(ring_events_[place.left_segment], stream_), "cudaEventRecord"));
    SLIM_RETURN_IF_ERROR(
        Check(cudaEventSynchronize(ring_events_[place.entered_segment]), "cudaEventSynchronize"));
  }
  int64_t offset = place.offset;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].bytes > 0) {
      std::memcpy(ring_host_ + offset, arrays[i].data, static_cast<size_t>(arrays[i].bytes));
    }
    device[i] = ring_device_ + offset;
    offset += RoundUp(arrays[i].bytes, 16);
  }
  return Check(cudaMemcpyAsync(ring_device_ + place.offset, ring_host_ + place.offset,
                               static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
               "cudaMemcpyAsync");
}

absl::StatusOr<void*> DeviceScratch::Get(CudaContext& context, int64_t bytes) {
  if (buffer_.data() == nullptr || buffer_.bytes() < bytes) {
    buffer_ = Buffer();  // first, so that both need not fit
    SLIM_ASSIGN_OR_RETURN(buffer_, context.Allocate(bytes));
  }
  return buffer_.data();
}

}  // namespace slim::cuda
