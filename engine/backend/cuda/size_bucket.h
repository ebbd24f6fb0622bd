// Sizes that grow by one from step to step, rounded up so that they change seldom: a decode step
// then looks like the one before and its graph can be used again. Pure functions.
#ifndef ENGINE_BACKEND_CUDA_SIZE_BUCKET_H_
#define ENGINE_BACKEND_CUDA_SIZE_BUCKET_H_

#include <cstdint>

namespace slim::cuda {

// The smallest of 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... that is not below n >= 0; 0 for 0. At
// most a quarter more than n from 8 on.
constexpr int64_t SizeBucket(int64_t n) {
  if (n <= 0) return 0;
  int64_t power = 8;
  while (power * 2 <= n) power *= 2;
  const int64_t unit = power / 4;
  return n <= power ? power : (n + unit - 1) / unit * unit;
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_SIZE_BUCKET_H_
