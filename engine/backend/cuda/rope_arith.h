// Rotary position embedding of one channel: the arithmetic alone. Pure functions, host and device.
#ifndef ENGINE_BACKEND_CUDA_ROPE_ARITH_H_
#define ENGINE_BACKEND_CUDA_ROPE_ARITH_H_

#include "engine/backend/cuda/host_device.h"

namespace slim::cuda {

// The two channels of pair i of a head.
struct ChannelPair {
  int first = 0;
  int second = 0;
};
SLIM_HOST_DEVICE constexpr ChannelPair PairChannels(int pair, int rotary_dims,
                                                    bool neighbouring_pairs) {
  if (neighbouring_pairs) return {2 * pair, 2 * pair + 1};
  return {pair, pair + rotary_dims / 2};
}
// The pair that a channel < rotary_dims belongs to.
SLIM_HOST_DEVICE constexpr int PairOf(int channel, int rotary_dims, bool neighbouring_pairs) {
  if (neighbouring_pairs) return channel / 2;
  const int half = rotary_dims / 2;
  return channel < half ? channel : channel - half;
}

SLIM_HOST_DEVICE inline float RotatedFirst(float first, float second, float cosine, float sine) {
  return first * cosine - second * sine;
}
SLIM_HOST_DEVICE inline float RotatedSecond(float first, float second, float cosine, float sine) {
  return first * sine + second * cosine;
}

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_ROPE_ARITH_H_
