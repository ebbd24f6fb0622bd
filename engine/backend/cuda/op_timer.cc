#include "engine/backend/cuda/op_timer.h"

#include <algorithm>

#include "engine/backend/cuda/cuda_status.h"
#include "engine/base/status_macros.h"

namespace slim::cuda {

OpTimer::~OpTimer() {
  for (const Sample& sample : samples_) {
    if (sample.begin != nullptr) (void)cudaEventDestroy(sample.begin);
    if (sample.end != nullptr) (void)cudaEventDestroy(sample.end);
  }
}

absl::Status OpTimer::Begin(Op op) {
  samples_.push_back(Sample{op});
  SLIM_RETURN_IF_ERROR(FromCuda(cudaEventCreate(&samples_.back().begin), "cudaEventCreate"));
  SLIM_RETURN_IF_ERROR(FromCuda(cudaEventCreate(&samples_.back().end), "cudaEventCreate"));
  return FromCuda(cudaEventRecord(samples_.back().begin, stream_), "cudaEventRecord");
}

absl::Status OpTimer::End() {
  return FromCuda(cudaEventRecord(samples_.back().end, stream_), "cudaEventRecord");
}

absl::StatusOr<std::vector<OpTime>> OpTimer::Take() {
  SLIM_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"));
  std::vector<OpTime> times(kNumOps);
  for (const Sample& sample : samples_) {
    float milliseconds = 0;
    SLIM_RETURN_IF_ERROR(FromCuda(cudaEventElapsedTime(&milliseconds, sample.begin, sample.end),
                                  "cudaEventElapsedTime"));
    OpTime& time = times[static_cast<int>(sample.op)];
    time.op = OpName(sample.op);
    ++time.launches;
    time.seconds += milliseconds / 1000.0;
  }
  times.erase(std::remove_if(times.begin(), times.end(),
                             [](const OpTime& time) { return time.launches == 0; }),
              times.end());
  std::sort(times.begin(), times.end(),
            [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
  return times;
}

}  // namespace slim::cuda
