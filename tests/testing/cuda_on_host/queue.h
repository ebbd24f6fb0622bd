// The CUDA backend without a GPU: its host code as it is, over a CUDA runtime, a cuBLASLt and
// kernels that do their work in host memory. Work on a stream is really put off until something
// waits for it, so an array that is overwritten too early, a stream that does not wait for another
// or a graph that is replayed with old arguments give wrong results here too. Thread-safe.
#ifndef TESTS_TESTING_CUDA_ON_HOST_QUEUE_H_
#define TESTS_TESTING_CUDA_ON_HOST_QUEUE_H_

#include <cuda_runtime_api.h>

#include <functional>

namespace slim::cuda_on_host {

// Puts work on a stream, or into the graph that the stream is capturing.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);

// Graphs launched since the program started.
int GraphLaunches();

}  // namespace slim::cuda_on_host

#endif  // TESTS_TESTING_CUDA_ON_HOST_QUEUE_H_
