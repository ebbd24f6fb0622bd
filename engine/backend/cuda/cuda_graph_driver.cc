#include "engine/backend/cuda/cuda_graph_driver.h"

#include "engine/backend/cuda/cuda_status.h"
#include "engine/base/status_macros.h"

namespace slim::cuda {

CudaGraphDriver::~CudaGraphDriver() {
  if (capture_stream_ != nullptr) (void)cudaStreamDestroy(capture_stream_);
}

absl::StatusOr<GraphDriver::Graph> CudaGraphDriver::Capture(const CommandList& list) {
  if (capture_stream_ == nullptr) {
    SLIM_RETURN_IF_ERROR(FromCuda(
        cudaStreamCreateWithFlags(&capture_stream_, cudaStreamNonBlocking), "cudaStreamCreate"));
  }
  // Relaxed: launches set attributes of their kernels, and other threads may allocate.
  SLIM_RETURN_IF_ERROR(
      FromCuda(cudaStreamBeginCapture(capture_stream_, cudaStreamCaptureModeRelaxed),
               "cudaStreamBeginCapture"));
  const absl::Status launched = list.Run(capture_stream_);
  cudaGraph_t graph = nullptr;
  absl::Status status =
      FromCuda(cudaStreamEndCapture(capture_stream_, &graph), "cudaStreamEndCapture");
  if (!launched.ok()) status = launched;
  cudaGraphExec_t executable = nullptr;
  if (status.ok()) {
    status = FromCuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  }
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  if (status.ok()) return executable;
  (void)cudaGetLastError();  // a capture that failed says nothing about what comes next
  return status;
}

absl::Status CudaGraphDriver::Launch(Graph graph) {
  return FromCuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_), "cudaGraphLaunch");
}

void CudaGraphDriver::Destroy(Graph graph) {
  (void)cudaStreamSynchronize(stream_);
  (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

}  // namespace slim::cuda
