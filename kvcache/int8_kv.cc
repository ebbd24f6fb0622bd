#include "kvcache/int8_kv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

namespace slim {
namespace {

constexpr float kLargestByte = 127.0f;
constexpr float kSmallest = 1e-30f;  // what is smaller counts as zero

void ChangeSigns(float* head, int head_dim) {
  const int block = RotationBlock(head_dim);
  for (int d = 0; d < head_dim; ++d) {
    if ((kRotationSigns >> d % block & 1) != 0) head[d] = -head[d];
  }
}

void Hadamard(float* head, int head_dim) {
  const int block = RotationBlock(head_dim);
  for (int step = 1; step < block; step *= 2) {
    for (int d = 0; d < head_dim; ++d) {
      if ((d & step) != 0) continue;
      const float a = head[d], b = head[d + step];
      head[d] = a + b;
      head[d + step] = a - b;
    }
  }
}

float LoadScale(const void* slab, int64_t offset) {
  float scale;
  std::memcpy(&scale, static_cast<const char*>(slab) + offset, sizeof(scale));
  return scale;
}

// The scale of some numbers, and the factor that makes them bytes.
std::pair<float, float> ScaleOf(const float* x, int count) {
  float largest = 0;
  for (int i = 0; i < count; ++i) {
    const float magnitude = std::fabs(x[i]);
    if (magnitude > largest || std::isnan(magnitude)) largest = magnitude;
    if (std::isnan(largest)) break;
  }
  if (largest < kSmallest) return {0.0f, 0.0f};
  return {largest * (1.0f / kLargestByte), kLargestByte / largest};
}

int RoundToByte(float x, float inverse) {
  const float scaled = std::nearbyint(x * inverse);
  return std::isnan(scaled) ? 0 : static_cast<int>(std::clamp(scaled, -128.0f, 127.0f));
}

}  // namespace

void RotateChannels(float* head, int head_dim) {
  ChangeSigns(head, head_dim);
  Hadamard(head, head_dim);
}

void UndoRotation(float* head, int head_dim) {
  Hadamard(head, head_dim);
  ChangeSigns(head, head_dim);
  const float inverse = 1.0f / static_cast<float>(RotationBlock(head_dim));
  for (int d = 0; d < head_dim; ++d) head[d] *= inverse;
}

void DecodeRotatedKey(const KvLayout& layout, const void* slab, int kv_head, int slot, float* key) {
  const auto* bytes = static_cast<const uint8_t*>(slab);
  const float scale = LoadScale(slab, layout.key_scale_offset(kv_head, slot));
  for (int d = 0; d < layout.head_dim; ++d) {
    const int u = bytes[layout.key_offset(kv_head, slot, d)] - 128;
    key[d] = static_cast<float>(u) * scale;
  }
}

void DecodeValue(const KvLayout& layout, const void* slab, int kv_head, int slot, float* value) {
  const auto* bytes = static_cast<const int8_t*>(slab);
  const float scale = LoadScale(slab, layout.value_scale_offset(kv_head, slot));
  for (int d = 0; d < layout.head_dim; ++d) {
    value[d] = static_cast<float>(bytes[layout.value_offset(kv_head, slot, d)]) * scale;
  }
}

void EncodeKey(const KvLayout& layout, const float* key, int kv_head, int slot, void* slab) {
  std::vector<float> rotated(key, key + layout.head_dim);
  RotateChannels(rotated.data(), layout.head_dim);
  const auto [scale, inverse] = ScaleOf(rotated.data(), layout.head_dim);
  auto* bytes = static_cast<uint8_t*>(slab);
  std::memcpy(bytes + layout.key_scale_offset(kv_head, slot), &scale, sizeof(scale));
  for (int d = 0; d < layout.head_dim; ++d) {
    bytes[layout.key_offset(kv_head, slot, d)] =
        static_cast<uint8_t>(RoundToByte(rotated[d], inverse) + 128);
  }
}

void EncodeValue(const KvLayout& layout, const float* value, int kv_head, int slot, void* slab) {
  const auto [scale, inverse] = ScaleOf(value, layout.head_dim);
  auto* bytes = static_cast<int8_t*>(slab);
  std::memcpy(bytes + layout.value_scale_offset(kv_head, slot), &scale, sizeof(scale));
  for (int d = 0; d < layout.head_dim; ++d) {
    bytes[layout.value_offset(kv_head, slot, d)] =
        static_cast<int8_t>(RoundToByte(value[d], inverse));
  }
}

}  // namespace slim
