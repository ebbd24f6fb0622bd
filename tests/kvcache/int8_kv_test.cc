// Keys and values in bytes: what comes back, what rotation keeps, and that nothing overlaps.
#include "kvcache/int8_kv.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace slim {
namespace {

constexpr int kHeadDims[] = {16, 32, 48, 64, 80, 128, 192};

KvLayout LayoutOf(int head_dim) { return KvLayout{3, head_dim, 32, KvType::kInt8}; }

std::vector<float> Normal(int count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> x(count);
  for (float& v : x) v = normal(generator);
  return x;
}

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

std::vector<float> DecodedKey(const KvLayout& layout, const void* slab, int head, int slot) {
  std::vector<float> key(layout.head_dim);
  DecodeRotatedKey(layout, slab, head, slot, key.data());
  UndoRotation(key.data(), layout.head_dim);
  return key;
}

TEST(Int8KvTest, RotationKeepsProductsAndCanBeUndone) {
  for (const int dims : kHeadDims) {
    const std::vector<float> q = Normal(dims, 1), k = Normal(dims, 2);
    std::vector<float> rotated_q = q, rotated_k = k;
    RotateChannels(rotated_q.data(), dims);
    RotateChannels(rotated_k.data(), dims);
    EXPECT_NEAR(Dot(rotated_q, rotated_k) / RotationBlock(dims), Dot(q, k), 1e-4) << dims;
    UndoRotation(rotated_k.data(), dims);
    for (int d = 0; d < dims; ++d) EXPECT_NEAR(rotated_k[d], k[d], 1e-6) << dims;
  }
}

TEST(Int8KvTest, WhatComesBackIsWithinHalfAStep) {
  for (const int dims : kHeadDims) {
    const KvLayout layout = LayoutOf(dims);
    std::vector<char> slab(layout.slab_bytes());
    for (int head = 0; head < 3; ++head) {
      for (int slot = 0; slot < 32; ++slot) {
        const uint32_t seed = 2 * (head * 32 + slot);
        std::vector<float> k = Normal(dims, seed), v = Normal(dims, seed + 1);
        k[5] += 20.0f;  // a channel that is large in all keys
        EncodeKey(layout, k.data(), head, slot, slab.data());
        EncodeValue(layout, v.data(), head, slot, slab.data());
      }
    }
    for (int head = 0; head < 3; ++head) {
      for (int slot = 0; slot < 32; ++slot) {
        const uint32_t seed = 2 * (head * 32 + slot);
        std::vector<float> k = Normal(dims, seed), v = Normal(dims, seed + 1), value(dims);
        k[5] += 20.0f;
        DecodeValue(layout, slab.data(), head, slot, value.data());
        float largest = 0, squares = 0;
        for (const float x : v) largest = std::max(largest, std::fabs(x));
        const std::vector<float> key = DecodedKey(layout, slab.data(), head, slot);
        for (int d = 0; d < dims; ++d) {
          EXPECT_LE(std::fabs(value[d] - v[d]), 0.501f * largest / 127) << dims;
          squares += (key[d] - k[d]) * (key[d] - k[d]);
        }
        // Without rotation the large channel alone would make this 0.05.
        const float spread = dims % 64 == 0 ? 0.02f : 0.035f;
        EXPECT_LT(std::sqrt(squares / static_cast<float>(dims)), spread) << dims;
      }
    }
  }
}

TEST(Int8KvTest, NoTwoElementsShareAByteAndTheSlabHoldsAll) {
  for (const int64_t values_after : {int64_t{0}, int64_t{100000}}) {
    KvLayout layout = LayoutOf(48);
    layout.values_after = values_after;
    std::set<int64_t> bytes;
    const auto add = [&](int64_t offset, int count) {
      for (int i = 0; i < count; ++i) EXPECT_TRUE(bytes.insert(offset + i).second);
    };
    for (int head = 0; head < 3; ++head) {
      for (int slot = 0; slot < 32; ++slot) {
        add(layout.key_scale_offset(head, slot), 4);
        add(layout.value_scale_offset(head, slot), 4);
        for (int d = 0; d < 48; ++d) {
          add(layout.key_offset(head, slot, d), 1);
          add(layout.value_offset(head, slot, d), 1);
        }
      }
    }
    EXPECT_EQ(static_cast<int64_t>(bytes.size()), layout.slab_bytes());
    EXPECT_EQ(*bytes.begin(), 0);
    EXPECT_EQ(*bytes.rbegin(), layout.values_offset() + layout.slab_bytes() / 2 - 1);
  }
}

TEST(Int8KvTest, ZeroStaysZeroAndNanStaysNan) {
  const KvLayout layout = LayoutOf(64);
  std::vector<char> slab(layout.slab_bytes());
  for (const float x : DecodedKey(layout, slab.data(), 1, 7)) EXPECT_EQ(x, 0.0f);
  std::vector<float> x(64, 0.0f);
  EncodeKey(layout, x.data(), 0, 3, slab.data());
  for (const float k : DecodedKey(layout, slab.data(), 0, 3)) EXPECT_EQ(k, 0.0f);
  x[9] = std::numeric_limits<float>::quiet_NaN();
  EncodeKey(layout, x.data(), 0, 3, slab.data());
  for (const float k : DecodedKey(layout, slab.data(), 0, 3)) EXPECT_TRUE(std::isnan(k));
  std::vector<float> value(64);
  EncodeValue(layout, x.data(), 0, 3, slab.data());
  DecodeValue(layout, slab.data(), 0, 3, value.data());
  for (const float v : value) EXPECT_TRUE(std::isnan(v));
}

}  // namespace
}  // namespace slim
