// Times of launches on the device by kind, with a pair of events around each. Thread rule: the
// worker thread.
#ifndef ENGINE_BACKEND_CUDA_OP_TIMER_H_
#define ENGINE_BACKEND_CUDA_OP_TIMER_H_

#include <cuda_runtime_api.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/op.h"

namespace slim::cuda {

class OpTimer {
 public:
  explicit OpTimer(cudaStream_t stream) : stream_(stream) {}
  ~OpTimer();
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

  // Around the launches of one op.
  absl::Status Begin(Op op);
  absl::Status End();

  // Waits for the stream; the sums by kind, longest first.
  absl::StatusOr<std::vector<OpTime>> Take();

 private:
  struct Sample {
    Op op;
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
  };

  const cudaStream_t stream_;
  std::vector<Sample> samples_;
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_OP_TIMER_H_
