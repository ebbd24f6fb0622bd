// Cosines and sines of rotary position embedding for every position, computed once in double.
// Immutable after Build. Private to the CPU backend.
#ifndef ENGINE_BACKEND_CPU_ROPE_TABLE_H_
#define ENGINE_BACKEND_CPU_ROPE_TABLE_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "engine/backend/backend.h"

namespace slim {

class RopeTable {
 public:
  void Build(const RopeParams& params, int64_t max_positions) {
    half_ = params.rotary_dims / 2;
    neighbouring_pairs_ = params.neighbouring_pairs;
    values_.resize(max_positions * half_ * 2);
    std::vector<double> frequencies(half_);
    for (int i = 0; i < half_; ++i) {
      frequencies[i] = std::pow(static_cast<double>(params.base), -2.0 * i / params.rotary_dims);
      if (!params.frequency_factors.empty()) frequencies[i] /= params.frequency_factors[i];
    }
    for (int64_t position = 0; position < max_positions; ++position) {
      float* row = &values_[position * half_ * 2];
      for (int i = 0; i < half_; ++i) {
        const double angle = static_cast<double>(position) * frequencies[i];
        row[i] = static_cast<float>(std::cos(angle));
        row[half_ + i] = static_cast<float>(std::sin(angle));
      }
    }
  }

  // Rotates one head in place.
  void Rotate(float* head, int32_t position) const {
    const float* cosines = &values_[int64_t{position} * half_ * 2];
    const float* sines = cosines + half_;
    const int step = neighbouring_pairs_ ? 2 : 1;
    const int partner = neighbouring_pairs_ ? 1 : half_;
    for (int i = 0; i < half_; ++i) {
      float& a = head[i * step];
      float& b = head[i * step + partner];
      const float u = a, v = b;
      a = u * cosines[i] - v * sines[i];
      b = u * sines[i] + v * cosines[i];
    }
  }

 private:
  int half_ = 0;
  bool neighbouring_pairs_ = true;
  std::vector<float> values_;  // [positions][2][half]
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_ROPE_TABLE_H_
