// The CUDA backend without a GPU: its host code as it is, over a CUDA runtime, a cuBLASLt and
// kernels that do their work in host memory. Work on a stream is really put off until something
// waits for it, so an array that is overwritten too early, a stream that does not wait for another
// or a graph that is replayed with old arguments give wrong results here too. Thread-safe.
#ifndef TESTS_TESTING_CUDA_ON_HOST_QUEUE_H_
#define TESTS_TESTING_CUDA_ON_HOST_QUEUE_H_

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

namespace slim::cuda_on_host {

// Puts work on a stream, or into the graph that the stream is capturing. To be failed as "launch".
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);

// What goes wrong, for tests of errors. `call` is a function of the runtime ("cudaMallocAsync",
// ...) or "launch", a kernel's. Its next `skip` calls succeed, then `count` calls do nothing but
// fail.
void FailCalls(const std::string& call, cudaError_t error, int skip = 0, int count = 1);
// One call fails, and with it every later call of any kind, as after a kernel's fault.
void BreakDevice(const std::string& call, cudaError_t error, int skip = 0);
// Of the GPU that is found from now on; 90 by default.
void SetComputeCapability(int capability);
// Nothing goes wrong any more.
void Repair();

// Graphs launched since the program started.
int GraphLaunches();

}  // namespace slim::cuda_on_host

#endif  // TESTS_TESTING_CUDA_ON_HOST_QUEUE_H_
