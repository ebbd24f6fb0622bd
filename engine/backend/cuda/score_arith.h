// The arithmetic of block scores, to the last bit as engine/backend/cpu/score_blocks.h words it:
// float32, every operation rounded to nearest, no fused multiply-add (both compilers are told so).
// Pure functions, host and device.
#ifndef ENGINE_BACKEND_CUDA_SCORE_ARITH_H_
#define ENGINE_BACKEND_CUDA_SCORE_ARITH_H_

#include <cmath>
#include <cstdint>

#include "engine/backend/cuda/host_device.h"

namespace slim::cuda {

inline constexpr int kScoreUnitTokens = 8;
inline constexpr int kScoreLanes = 16;

// The larger of both; NaN if either is.
SLIM_HOST_DEVICE inline float MaxOrNan(float a, float b) { return b > a || b != b ? b : a; }

// E(x) for x <= 0.
SLIM_HOST_DEVICE inline float ScoreExp(float x) {
  float y = x * 1.44269504f;
  y = y > -120.0f || y != y ? y : -120.0f;
  const float n = rintf(y);
  const float f = y - n;
  float p = 1.5403530e-4f;
  p = p * f;
  p = p + 1.3333558e-3f;
  p = p * f;
  p = p + 9.6181291e-3f;
  p = p * f;
  p = p + 5.5504109e-2f;
  p = p * f;
  p = p + 2.4022651e-1f;
  p = p * f;
  p = p + 6.9314718e-1f;
  p = p * f;
  p = p + 1.0f;
  // A NaN is in p already; it must not become an integer.
  return ldexpf(p, n == n ? static_cast<int>(n) : 0);
}

// Tokens of block `block_id` at positions < end, clipped to the block.
SLIM_HOST_DEVICE inline int TokensBefore(int64_t end, int32_t block_id, int block_tokens) {
  const int64_t tokens = end - int64_t{block_id} * block_tokens;
  return static_cast<int>(tokens < 0 ? 0 : tokens > block_tokens ? block_tokens : tokens);
}

// Adds the products of one pair of channels, in order.
SLIM_HOST_DEVICE inline float AddPair(float dot, float q0, float k0, float q1, float k1) {
  const float first = q0 * k0;
  dot = dot + first;
  const float second = q1 * k1;
  return dot + second;
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_SCORE_ARITH_H_
