#include "engine/backend/cuda/cuda_context.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/backend/cuda/size_bucket.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace slim::cuda {
namespace {

constexpr int kRingSegments = 4;
constexpr int64_t kRingSegmentBytes = int64_t{4} << 20;
constexpr int kOldestCapability = 80;
// Decode steps of a server; larger ones keep the device busy longer than launching takes.
constexpr int64_t kMaxDeferredRows = 128;
constexpr size_t kMaxPending = 16384;
// Block tables of a step, all layers: 32 layers of 32 sequences of 512 blocks are 6 MiB.
constexpr int64_t kArenaBytes = int64_t{16} << 20;
// Batch sizes and context lengths that take turns.
constexpr size_t kMaxGraphs = 64;

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Memory moves twice per clock.
double MemoryBytesPerSecond() {
  int kilohertz = 0, bits = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, 0) != cudaSuccess ||
      cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, 0) != cudaSuccess) {
    (void)cudaGetLastError();  // a driver need not know
    return 0;
  }
  return 2e3 * kilohertz * bits / 8;
}

}  // namespace

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
  context->bytes_per_second_ = MemoryBytesPerSecond();
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
  context->graph_driver_ = std::make_unique<CudaGraphDriver>(context->stream_);
  context->graphs_ = std::make_unique<GraphCache>(context->graph_driver_.get(), kMaxGraphs);
  return context;
}

// What fails while everything is taken down has no one to tell it to.
CudaContext::~CudaContext() {
  if (stream_ == nullptr) return;
  (void)cudaStreamSynchronize(stream_);
  graphs_.reset();
  graph_driver_.reset();
  timer_.reset();
  for (int half = 0; half < 2; ++half) {
    if (arena_copied_[half] != nullptr) (void)cudaEventDestroy(arena_copied_[half]);
    (void)cudaFreeHost(arena_host_[half]);
  }
  (void)cudaFree(arena_device_);
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

// ---------------------------------------------------------------- launches that are put off

bool CudaContext::CreateArena() {
  const auto bytes = static_cast<size_t>(kArenaBytes);
  bool made = cudaMalloc(reinterpret_cast<void**>(&arena_device_), bytes) == cudaSuccess;
  for (int half = 0; half < 2 && made; ++half) {
    made = cudaHostAlloc(reinterpret_cast<void**>(&arena_host_[half]), bytes,
                         cudaHostAllocDefault) == cudaSuccess &&
           cudaEventCreateWithFlags(&arena_copied_[half], cudaEventDisableTiming) == cudaSuccess;
  }
  if (!made) (void)cudaGetLastError();  // what there is goes with the context
  return made;
}

absl::Status CudaContext::BeginOp(int64_t rows) {
  SLIM_RETURN_IF_ERROR(health());
  deferring_ = can_defer_ && timer_ == nullptr && rows <= kMaxDeferredRows;
  if (!deferring_ || pending_.size() >= kMaxPending) SLIM_RETURN_IF_ERROR(Flush());
  if (!deferring_) return absl::OkStatus();
  if (arena_device_ == nullptr && !CreateArena()) {
    can_defer_ = deferring_ = false;
    return absl::OkStatus();
  }
  if (pending_.empty() && arena_used_ > 0) {
    arena_half_ = 1 - arena_half_;
    arena_used_ = arena_sent_ = 0;
    return Check(cudaEventSynchronize(arena_copied_[arena_half_]), "cudaEventSynchronize");
  }
  return absl::OkStatus();
}

bool CudaContext::PlaceInArena(absl::Span<const HostArray> arrays, absl::Span<void*> device) {
  const auto room = [](const HostArray& array) {
    return 16 * SizeBucket(RoundUp(array.bytes, 16) / 16);
  };
  int64_t end = arena_used_;
  for (const HostArray& array : arrays) end += room(array);
  if (end > kArenaBytes) return false;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].bytes > 0) {
      std::memcpy(arena_host_[arena_half_] + arena_used_, arrays[i].data,
                  static_cast<size_t>(arrays[i].bytes));
    }
    device[i] = arena_device_ + arena_used_;
    arena_used_ += room(arrays[i]);
  }
  return true;
}

absl::Status CudaContext::Flush() {
  if (pending_.empty()) return absl::OkStatus();
  absl::Status status;
  if (arena_used_ > arena_sent_) {
    status = FromCuda(
        cudaMemcpyAsync(arena_device_ + arena_sent_, arena_host_[arena_half_] + arena_sent_,
                        static_cast<size_t>(arena_used_ - arena_sent_), cudaMemcpyHostToDevice,
                        stream_),
        "cudaMemcpyAsync");
    // The half stays in use until the next op begins: its places are distinct until then.
    arena_sent_ = arena_used_;
    if (status.ok()) {
      status = FromCuda(cudaEventRecord(arena_copied_[arena_half_], stream_), "cudaEventRecord");
    }
  }
  if (status.ok()) status = graphs_->Run(pending_);
  pending_.Clear();
  return Remember(status);
}

void CudaContext::ForbidDeferring() {
  (void)Flush();  // remembered
  can_defer_ = deferring_ = false;
}

void CudaContext::StartOpTimes() {
  (void)Flush();  // remembered
  timer_ = std::make_unique<OpTimer>(stream_);
}

absl::StatusOr<std::vector<OpTime>> CudaContext::TakeOpTimes() {
  if (timer_ == nullptr) return std::vector<OpTime>();
  const std::unique_ptr<OpTimer> timer = std::move(timer_);
  return timer->Take();
}

// ---------------------------------------------------------------- memory

absl::StatusOr<Buffer> CudaContext::Allocate(int64_t bytes) {
  SLIM_RETURN_IF_ERROR(health());
  SLIM_RETURN_IF_ERROR(Flush());
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
    (void)context->Flush();  // it may use the memory
    (void)context->Check(cudaFreeAsync(memory, context->stream_), "cudaFreeAsync");
  });
  SLIM_RETURN_IF_ERROR(Check(cudaMemsetAsync(data, 0, size, stream_), "cudaMemsetAsync"));
  return buffer;
}

absl::Status CudaContext::Check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return absl::OkStatus();
  return Remember(FromCuda(error, call));
}

absl::Status CudaContext::Remember(const absl::Status& status) {
  if (!status.ok() && !absl::IsResourceExhausted(status)) RememberFailure(status);
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
  SLIM_RETURN_IF_ERROR(Flush());
  return Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

absl::Status CudaContext::ReleaseUnused() {
  SLIM_RETURN_IF_ERROR(Synchronize());
  cudaMemPool_t pool;
  SLIM_RETURN_IF_ERROR(Check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool"));
  return Check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
}

absl::Status CudaContext::Upload(absl::Span<const HostArray> arrays, absl::Span<void*> device) {
  SLIM_CHECK(arrays.size() == device.size());
  if (deferring_) {
    if (PlaceInArena(arrays, device)) return absl::OkStatus();
    SLIM_RETURN_IF_ERROR(Flush());
    deferring_ = false;  // for this op
  }
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
