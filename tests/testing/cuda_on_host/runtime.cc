// The calls of the CUDA runtime that the backend makes.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/cuda_on_host/queue.h"

namespace {

using Work = std::function<void()>;

// One lock for everything; work runs under it, hence recursive.
std::recursive_mutex mutex;
int graph_launches = 0;
// Freed stream-ordered memory by size, handed out again at once as the real allocator does.
std::map<size_t, std::vector<void*>> freed;
std::map<void*, size_t> allocated;

using Lock = std::lock_guard<std::recursive_mutex>;

// What tests want to go wrong.
struct Failure {
  cudaError_t error = cudaSuccess;
  int skip = 0;   // calls that still succeed
  int count = 0;  // calls that then fail
  bool sticky = false;
};
std::map<std::string, Failure> failures;
cudaError_t sticky_error = cudaSuccess;
int compute_capability = 90;

// What a call gives that has nothing else to fail with.
cudaError_t Outcome(const char* call) {
  const Lock lock(mutex);
  if (sticky_error != cudaSuccess) return sticky_error;
  const auto found = failures.find(call);
  if (found == failures.end() || found->second.count == 0) return cudaSuccess;
  Failure& failure = found->second;
  if (failure.skip > 0) {
    --failure.skip;
    return cudaSuccess;
  }
  --failure.count;
  if (failure.sticky) sticky_error = failure.error;
  return failure.error;
}

}  // namespace

struct CUstream_st {
  std::deque<Work> queue;
  int64_t done = 0;  // pieces of work ever run
  std::vector<Work>* capture = nullptr;

  void RunUntil(int64_t end) {
    while (done < end && !queue.empty()) {
      const Work work = std::move(queue.front());
      queue.pop_front();
      ++done;
      work();
    }
  }
  int64_t end() const { return done + static_cast<int64_t>(queue.size()); }
};

struct CUevent_st {
  CUstream_st* stream = nullptr;
  int64_t end = 0;

  void Wait() const {
    if (stream != nullptr) stream->RunUntil(end);
  }
};

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

namespace {

cudaError_t Put(cudaStream_t stream, Work work) {
  const Lock lock(mutex);
  if (stream->capture != nullptr) {
    stream->capture->push_back(std::move(work));
  } else {
    stream->queue.push_back(std::move(work));
  }
  return cudaSuccess;
}

// The same as a call of that name.
cudaError_t Put(const char* call, cudaStream_t stream, Work work) {
  const cudaError_t outcome = Outcome(call);
  return outcome == cudaSuccess ? Put(stream, std::move(work)) : outcome;
}

}  // namespace

namespace slim::cuda_on_host {

cudaError_t Enqueue(cudaStream_t stream, Work work) {
  return Put("launch", stream, std::move(work));
}

void FailCalls(const std::string& call, cudaError_t error, int skip, int count) {
  const Lock lock(mutex);
  failures[call] = {error, skip, count, false};
}

void BreakDevice(const std::string& call, cudaError_t error, int skip) {
  const Lock lock(mutex);
  failures[call] = {error, skip, 1, true};
}

void SetComputeCapability(int capability) {
  const Lock lock(mutex);
  compute_capability = capability;
}

void Repair() {
  const Lock lock(mutex);
  failures.clear();
  sticky_error = cudaSuccess;
  compute_capability = 90;
}

int GraphLaunches() {
  const Lock lock(mutex);
  return graph_launches;
}

}  // namespace slim::cuda_on_host

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return Outcome("cudaGetDeviceCount");
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp();
  std::strcpy(properties->name, "host");
  properties->major = compute_capability / 10;
  properties->minor = compute_capability % 10;
  properties->totalGlobalMem = size_t{8} << 30;
  return cudaSuccess;
}
// The numbers of an H200.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMemoryClockRate        ? 3201000
           : attribute == cudaDevAttrGlobalMemoryBusWidth ? 6144
                                                          : 0;
  return Outcome("cudaDeviceGetAttribute");
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *free_bytes = *total = size_t{8} << 30;
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    default:
      return "an error";
  }
}
const char* cudaGetErrorString(cudaError_t) { return "of the host"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const cudaError_t outcome = Outcome("cudaStreamSynchronize");
  if (outcome != cudaSuccess) return outcome;
  const Lock lock(mutex);
  stream->RunUntil(stream->end());
  return cudaSuccess;
}
// Left alone: events may still name it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return Put("cudaStreamWaitEvent", stream, [at = *event] { at.Wait(); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex);
  *event = {stream, stream->end()};
  return Outcome("cudaEventRecord");
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const cudaError_t outcome = Outcome("cudaEventSynchronize");
  if (outcome != cudaSuccess) return outcome;
  const Lock lock(mutex);
  event->Wait();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  const cudaError_t outcome = Outcome("cudaMalloc");
  if (outcome != cudaSuccess) return outcome;
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
// Memory that is still used is found by the tests under a sanitizer or by what they compute.
cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return cudaMalloc(data, bytes); }
cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return Outcome("cudaHostRegister"); }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  const cudaError_t outcome = Outcome("cudaMallocAsync");
  if (outcome != cudaSuccess) return outcome;
  const Lock lock(mutex);
  std::vector<void*>& old = freed[bytes];
  if (old.empty()) {
    if (cudaMalloc(data, bytes) != cudaSuccess) return cudaErrorMemoryAllocation;
  } else {
    *data = old.back();
    old.pop_back();
  }
  allocated[*data] = bytes;
  return cudaSuccess;
}
// What reads the memory afterwards reads NaN.
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const Lock lock(mutex);
  const size_t bytes = allocated.at(data);
  const cudaError_t outcome = Put("cudaFreeAsync", stream, [=] { std::memset(data, 0xff, bytes); });
  if (outcome == cudaSuccess) freed[bytes].push_back(data);
  return outcome;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return Put("cudaMemsetAsync", stream, [=] { std::memset(data, value, bytes); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return Put("cudaMemcpyAsync", stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(mutex);
  stream->capture = new std::vector<Work>;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(mutex);
  *graph = new CUgraph_st{std::move(*stream->capture)};
  delete stream->capture;
  stream->capture = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {  // NOLINT: the runtime's type
  const cudaError_t outcome = Outcome("cudaGraphInstantiate");
  if (outcome == cudaSuccess) *executable = new CUgraphExec_st{graph->work};
  return outcome;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const cudaError_t outcome = Outcome("cudaGraphLaunch");
  if (outcome != cudaSuccess) return outcome;
  const Lock lock(mutex);
  ++graph_launches;
  for (const Work& work : executable->work) (void)Put(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

}  // extern "C"
