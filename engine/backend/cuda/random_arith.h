// Random numbers by number: the same on host and device. Pure functions.
#ifndef ENGINE_BACKEND_CUDA_RANDOM_ARITH_H_
#define ENGINE_BACKEND_CUDA_RANDOM_ARITH_H_

#include <cstdint>

#include "engine/backend/cuda/host_device.h"

namespace slim::cuda {

// Numbers spread evenly over [-a, a) have the standard deviation a / sqrt(3).
inline constexpr float kLargestOfDeviation = 1.7320508f;

// Number i of sequence `seed`, in [-1, 1).
SLIM_HOST_DEVICE inline float RandomFraction(uint64_t seed, uint64_t i) {
  uint64_t x = seed * 0x9e3779b97f4a7c15u + i;
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
  x ^= x >> 33;
  return static_cast<float>(static_cast<int32_t>(x >> 40) - (1 << 23)) * (1.0f / (1 << 23));
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_RANDOM_ARITH_H_
