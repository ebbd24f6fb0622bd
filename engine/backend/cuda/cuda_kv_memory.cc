#include "engine/backend/cuda/cuda_kv_memory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/pinned_slabs.h"
#include "engine/base/available_memory.h"
#include "engine/base/status_macros.h"
#include "kvcache/block_copier_cuda.h"

namespace slim::cuda {
namespace {

class DeviceSlabs final : public SlabMemory {
 public:
  // INTERNAL or RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<SlabMemory>> Create(std::shared_ptr<CudaContext> context,
                                                            int64_t bytes) {
    void* base = nullptr;
    cudaError_t error = cudaMalloc(&base, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // not sticky
      SLIM_RETURN_IF_ERROR(context->ReleaseUnused());
      error = cudaMalloc(&base, static_cast<size_t>(bytes));
    }
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // not sticky
      return absl::ResourceExhaustedError(absl::StrCat(
          "--kv_device_bytes: ", bytes, " bytes of device memory asked for, fewer are free"));
    }
    SLIM_RETURN_IF_ERROR(context->Check(error, "cudaMalloc"));
    std::unique_ptr<DeviceSlabs> slabs(
        new DeviceSlabs(std::move(context), static_cast<char*>(base)));
    slabs->Fill(base, 0, bytes);
    return std::unique_ptr<SlabMemory>(std::move(slabs));
  }
  ~DeviceSlabs() override {
    (void)context_->Synchronize();  // what uses the memory, put off or under way
    (void)context_->Check(cudaFree(base_), "cudaFree");
  }

  char* base() const override { return base_; }
  bool host_readable() const override { return false; }
  void Fill(void* data, unsigned char value, int64_t bytes) override {
    (void)context_->Flush();  // its failure is remembered, as the next one's
    (void)context_->Check(
        cudaMemsetAsync(data, value, static_cast<size_t>(bytes), context_->stream()),
        "cudaMemsetAsync");
  }

 private:
  DeviceSlabs(std::shared_ptr<CudaContext> context, char* base)
      : context_(std::move(context)), base_(base) {}

  const std::shared_ptr<CudaContext> context_;
  char* const base_;
};

// One copy stream per direction.
class CudaCopyLink final : public CopyLink {
 public:
  static absl::StatusOr<std::unique_ptr<CopyLink>> Create(std::shared_ptr<CudaContext> context) {
    std::unique_ptr<CudaCopyLink> link(new CudaCopyLink(std::move(context)));
    for (cudaStream_t& stream : link->streams_) {
      SLIM_RETURN_IF_ERROR(link->context_->Check(
          cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
    }
    return std::unique_ptr<CopyLink>(std::move(link));
  }
  ~CudaCopyLink() override {
    for (const cudaStream_t stream : streams_) {
      if (stream != nullptr) (void)cudaStreamDestroy(stream);
    }
  }

  absl::StatusOr<Mark> MarkCompute() override {
    SLIM_RETURN_IF_ERROR(context_->health());
    auto events = std::make_unique<Events>();
    SLIM_RETURN_IF_ERROR(context_->Check(
        cudaEventCreateWithFlags(&events->end, cudaEventDisableTiming), "cudaEventCreate"));
    SLIM_RETURN_IF_ERROR(
        context_->Check(cudaEventRecord(events->end, context_->stream()), "cudaEventRecord"));
    return events.release();
  }

  absl::StatusOr<Mark> StartCopy(const CopyRequest& request, Mark after) override {
    const std::unique_ptr<Events> compute(static_cast<Events*>(after));
    const cudaStream_t stream = streams_[static_cast<int>(request.direction)];
    auto events = std::make_unique<Events>();
    const absl::Status status = Launch(request, compute->end, stream, events.get());
    if (status.ok()) return events.release();
    (void)cudaStreamSynchronize(stream);  // pieces before the failed one may be under way
    return status;
  }

  absl::StatusOr<double> WaitForCopy(Mark end) override {
    const std::unique_ptr<Events> events(static_cast<Events*>(end));
    SLIM_RETURN_IF_ERROR(
        context_->Check(cudaEventSynchronize(events->end), "cudaEventSynchronize"));
    float milliseconds = 0;
    SLIM_RETURN_IF_ERROR(context_->Check(
        cudaEventElapsedTime(&milliseconds, events->begin, events->end), "cudaEventElapsedTime"));
    return milliseconds / 1000.0;
  }

  void Drop(Mark mark) override { delete static_cast<Events*>(mark); }

 private:
  struct Events {
    cudaEvent_t begin = nullptr;  // copies only
    cudaEvent_t end = nullptr;
    ~Events() {
      if (begin != nullptr) (void)cudaEventDestroy(begin);
      if (end != nullptr) (void)cudaEventDestroy(end);
    }
  };

  explicit CudaCopyLink(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  absl::Status Launch(const CopyRequest& request, cudaEvent_t after, cudaStream_t stream,
                      Events* events) {
    // A waiting thread sleeps instead of spinning.
    SLIM_RETURN_IF_ERROR(context_->Check(
        cudaEventCreateWithFlags(&events->begin, cudaEventBlockingSync), "cudaEventCreate"));
    SLIM_RETURN_IF_ERROR(context_->Check(
        cudaEventCreateWithFlags(&events->end, cudaEventBlockingSync), "cudaEventCreate"));
    SLIM_RETURN_IF_ERROR(
        context_->Check(cudaStreamWaitEvent(stream, after, 0), "cudaStreamWaitEvent"));
    SLIM_RETURN_IF_ERROR(
        context_->Check(cudaEventRecord(events->begin, stream), "cudaEventRecord"));
    const cudaMemcpyKind kind = request.direction == CopyDirection::kToDevice
                                    ? cudaMemcpyHostToDevice
                                    : cudaMemcpyDeviceToHost;
    for (const CopyPiece& piece : request.pieces) {
      SLIM_RETURN_IF_ERROR(
          context_->Check(cudaMemcpyAsync(piece.destination, piece.source,
                                          static_cast<size_t>(request.piece_bytes), kind, stream),
                          "cudaMemcpyAsync"));
    }
    return context_->Check(cudaEventRecord(events->end, stream), "cudaEventRecord");
  }

  const std::shared_ptr<CudaContext> context_;
  cudaStream_t streams_[2] = {};
};

PinCalls CudaPinCalls(const std::shared_ptr<CudaContext>& context) {
  PinCalls calls;
  calls.pin = [](void* data, int64_t bytes) {
    const cudaError_t error =
        cudaHostRegister(data, static_cast<size_t>(bytes), cudaHostRegisterDefault);
    if (error != cudaSuccess) (void)cudaGetLastError();
    return FromCuda(error, "cudaHostRegister");
  };
  calls.unpin = [context](void* data) {
    (void)context->Check(cudaHostUnregister(data), "cudaHostUnregister");
  };
  return calls;
}

}  // namespace

absl::StatusOr<KvMemories> CreateCudaKvMemories(std::shared_ptr<CudaContext> context,
                                                const KvMemorySizes& sizes) {
  KvMemories memories;
  SLIM_ASSIGN_OR_RETURN(memories.device,
                        DeviceSlabs::Create(context, sizes.stride_bytes * sizes.device_slabs));
  if (sizes.host_slabs == 0) return memories;
  // A copy waits for the work that the compute stream has been given, so none may be put off.
  context->ForbidDeferring();
  SLIM_ASSIGN_OR_RETURN(
      memories.host, CreatePinnedSlabs(sizes.stride_bytes, sizes.host_slabs, AvailableMemoryBytes(),
                                       CudaPinCalls(context)));
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<CopyLink> link, CudaCopyLink::Create(context));
  memories.copier = std::make_unique<CudaBlockCopier>(std::move(link));
  return memories;
}

}  // namespace slim::cuda
