// Captures lists of launches as CUDA graphs, on a stream of its own: what other threads put on the
// compute stream meanwhile (events of the copy streams) is no part of a graph.
// Thread rule: the worker thread.
#ifndef ENGINE_BACKEND_CUDA_CUDA_GRAPH_DRIVER_H_
#define ENGINE_BACKEND_CUDA_CUDA_GRAPH_DRIVER_H_

#include <cuda_runtime_api.h>

#include "engine/backend/cuda/graph_cache.h"

namespace slim::cuda {

class CudaGraphDriver final : public GraphDriver {
 public:
  // Runs lists and graphs on `stream`, which is borrowed.
  explicit CudaGraphDriver(cudaStream_t stream) : stream_(stream) {}
  ~CudaGraphDriver() override;

  absl::Status Run(const CommandList& list) override { return list.Run(stream_); }
  absl::StatusOr<Graph> Capture(const CommandList& list) override;
  absl::Status Launch(Graph graph) override;
  void Destroy(Graph graph) override;

 private:
  const cudaStream_t stream_;
  cudaStream_t capture_stream_ = nullptr;  // made with the first capture
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_CUDA_GRAPH_DRIVER_H_
