// Random operands for the tests of backend ops: tensors of every type, activations, paged keys and
// values. All from explicit seeds.
#ifndef TESTS_ENGINE_BACKEND_OP_FIXTURES_H_
#define TESTS_ENGINE_BACKEND_OP_FIXTURES_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu_backend.h"
#include "engine/base/check.h"
#include "engine/tensor/dequantize.h"
#include "gtest/gtest.h"
#include "kvcache/int8_kv.h"

namespace slim {

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

// A weight tensor with its bytes.
struct TestTensor {
  std::vector<uint8_t> bytes;
  HostTensor tensor;
  std::vector<float> values;  // dequantised [rows, cols]
};

inline TestTensor RandomTensor(DType dtype, int64_t rows, int64_t cols, uint32_t seed) {
  TestTensor t;
  t.tensor.name = "random";
  t.tensor.dtype = dtype;
  t.tensor.rows = rows;
  t.tensor.cols = cols;
  t.bytes.resize(t.tensor.bytes());
  std::mt19937 generator(seed);
  const int64_t blocks = rows * (cols / BlockElements(dtype));
  const std::vector<float> scales = RandomFloats(blocks * 2, seed + 1, 0.02f);
  for (int64_t b = 0; b < blocks; ++b) {
    uint8_t* p = &t.bytes[b * BlockBytes(dtype)];
    const uint16_t f16 = F32ToF16(scales[2 * b]), min = F32ToF16(scales[2 * b + 1]);
    const uint16_t bf16 = F32ToBF16(scales[2 * b]);
    int header = 0;
    switch (dtype) {
      case DType::kF32:
        std::memcpy(p, &scales[2 * b], 4);
        continue;
      case DType::kF16:
        std::memcpy(p, &f16, 2);
        continue;
      case DType::kBF16:
        std::memcpy(p, &bf16, 2);
        continue;
      case DType::kQ4_1:
        std::memcpy(p + 2, &min, 2);
        header = 2;
        [[fallthrough]];
      case DType::kQ8_0:
      case DType::kQ4_0:
        std::memcpy(p, &f16, 2);
        header += 2;
        break;
    }
    for (int64_t i = header; i < BlockBytes(dtype); ++i) p[i] = static_cast<uint8_t>(generator());
  }
  t.tensor.data = t.bytes.data();
  t.values.resize(rows * cols);
  for (int64_t r = 0; r < rows; ++r) DequantizeRow(t.tensor, r, &t.values[r * cols]);
  return t;
}

inline TensorView ViewOf(std::vector<float>& values, int64_t rows) {
  return {values.data(), rows, rows == 0 ? 0 : static_cast<int64_t>(values.size()) / rows};
}

inline Buffer VectorBuffer(Backend& backend, const std::vector<float>& values) {
  HostTensor tensor;
  tensor.name = "vector";
  tensor.rows = 1;
  tensor.cols = static_cast<int64_t>(values.size());
  tensor.data = values.data();
  auto buffer = backend.PrepareVector(tensor);
  SLIM_CHECK(buffer.ok());
  return *std::move(buffer);
}

inline std::unique_ptr<Backend> MakeCpu(CpuIsa isa, int num_threads = 2) {
  CpuBackendOptions options;
  options.isa = isa;
  options.num_threads = num_threads;
  auto backend = CpuBackend::Create(options);
  SLIM_CHECK(backend.ok());
  return *std::move(backend);
}

// A parameter of tests that run once per instruction set of this machine.
inline std::vector<CpuIsa> MachineIsas() { return SupportedIsas(DetectCpuFeatures()); }
inline std::string IsaTestName(const testing::TestParamInfo<CpuIsa>& info) {
  std::string name(CpuIsaName(info.param));
  std::replace(name.begin(), name.end(), '+', '_');
  return name;
}

// The slabs of some blocks of one sequence, zeroed, 64-byte aligned. Where the layout has values
// apart from keys, neighbours in one memory.
class PagedKv {
 public:
  PagedKv(const KvLayout& layout, std::vector<int32_t> block_ids)
      : layout_(layout), block_ids_(std::move(block_ids)) {
    if (layout.values_after > 0) {
      SLIM_CHECK(layout.values_after >=
                 layout.key_elements() * static_cast<int64_t>(block_ids_.size()));
      auto buffer = AllocateAligned(2 * layout.values_after * layout.element_bytes());
      SLIM_CHECK(buffer.ok());
      buffers_.push_back(*std::move(buffer));
      for (size_t i = 0; i < block_ids_.size(); ++i) {
        slabs_.push_back(static_cast<char*>(buffers_[0].data()) + i * (layout.slab_bytes() / 2));
      }
      return;
    }
    for (size_t i = 0; i < block_ids_.size(); ++i) {
      auto buffer = AllocateAligned(layout.slab_bytes());
      SLIM_CHECK(buffer.ok());
      buffers_.push_back(*std::move(buffer));
      slabs_.push_back(buffers_.back().data());
    }
  }
  absl::Span<void* const> slabs() const { return slabs_; }
  absl::Span<const int32_t> block_ids() const { return block_ids_; }

  KvSlot SlotOf(int32_t position) const {
    const auto it =
        std::lower_bound(block_ids_.begin(), block_ids_.end(), position / layout_.block_tokens);
    SLIM_CHECK(it != block_ids_.end() && *it == position / layout_.block_tokens);
    return {slabs_[it - block_ids_.begin()], position % layout_.block_tokens};
  }

  // Random keys and values for every token at a position < end.
  void Fill(int64_t end, uint32_t seed, float key_scale = 1.0f) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> key(layout_.head_dim), value(layout_.head_dim);
    for (size_t b = 0; b < slabs_.size(); ++b) {
      for (int t = 0; t < layout_.block_tokens; ++t) {
        if (int64_t{block_ids_[b]} * layout_.block_tokens + t >= end) break;
        for (int h = 0; h < layout_.num_kv_heads; ++h) {
          for (int d = 0; d < layout_.head_dim; ++d) {
            key[d] = key_scale * normal(generator);
            value[d] = normal(generator);
          }
          SetKey(b, h, t, key);
          SetValue(b, h, t, value);
        }
      }
    }
  }

  // One token's key or value [head_dim], rounded as the layout's type wants it.
  void SetKey(size_t block, int kv_head, int slot, const std::vector<float>& key) {
    if (layout_.type == KvType::kInt8) {
      return EncodeKey(layout_, key.data(), kv_head, slot, slabs_[block]);
    }
    auto* slab = static_cast<uint16_t*>(slabs_[block]);
    for (int d = 0; d < layout_.head_dim; ++d) {
      slab[layout_.key_offset(kv_head, slot, d)] = F32ToBF16(key[d]);
    }
  }
  void SetValue(size_t block, int kv_head, int slot, const std::vector<float>& value) {
    if (layout_.type == KvType::kInt8) {
      return EncodeValue(layout_, value.data(), kv_head, slot, slabs_[block]);
    }
    auto* slab = static_cast<uint16_t*>(slabs_[block]);
    for (int d = 0; d < layout_.head_dim; ++d) {
      slab[layout_.value_offset(kv_head, slot, d)] = F32ToBF16(value[d]);
    }
  }
  std::vector<float> Key(size_t block, int kv_head, int slot) const {
    std::vector<float> key(layout_.head_dim);
    if (layout_.type == KvType::kInt8) {
      DecodeRotatedKey(layout_, slabs_[block], kv_head, slot, key.data());
      UndoRotation(key.data(), layout_.head_dim);
      return key;
    }
    const auto* slab = static_cast<const uint16_t*>(slabs_[block]);
    for (int d = 0; d < layout_.head_dim; ++d) {
      key[d] = BF16ToF32(slab[layout_.key_offset(kv_head, slot, d)]);
    }
    return key;
  }
  std::vector<float> Value(size_t block, int kv_head, int slot) const {
    std::vector<float> value(layout_.head_dim);
    if (layout_.type == KvType::kInt8) {
      DecodeValue(layout_, slabs_[block], kv_head, slot, value.data());
      return value;
    }
    const auto* slab = static_cast<const uint16_t*>(slabs_[block]);
    for (int d = 0; d < layout_.head_dim; ++d) {
      value[d] = BF16ToF32(slab[layout_.value_offset(kv_head, slot, d)]);
    }
    return value;
  }

  // Positions < end of the blocks, ascending.
  std::vector<int32_t> Positions(int64_t end) const {
    std::vector<int32_t> positions;
    for (const int32_t id : block_ids_) {
      for (int t = 0; t < layout_.block_tokens; ++t) {
        const int32_t position = id * layout_.block_tokens + t;
        if (position < end) positions.push_back(position);
      }
    }
    return positions;
  }

 private:
  KvLayout layout_;
  std::vector<int32_t> block_ids_;
  std::vector<Buffer> buffers_;
  std::vector<void*> slabs_;
};

inline std::vector<int32_t> BlockRange(int32_t count) {
  std::vector<int32_t> ids(count);
  for (int32_t i = 0; i < count; ++i) ids[i] = i;
  return ids;
}

// What the kernels of an instruction set keep keys and values as.
inline KvType KvTypeOf(CpuIsa isa) { return isa >= CpuIsa::kAvx2 ? KvType::kInt8 : KvType::kBF16; }

// The kernels that keep bf16, as devices do.
constexpr CpuIsa kBf16Isa = CpuIsa::kPortable;

inline KvLayout SmallLayout(int block_tokens = 32, int kv_heads = 3, int head_dim = 64,
                            KvType type = KvType::kBF16) {
  KvLayout layout;
  layout.num_kv_heads = kv_heads;
  layout.head_dim = head_dim;
  layout.block_tokens = block_tokens;
  layout.type = type;
  return layout;
}

inline RopeParams SmallRope(int head_dim, bool neighbouring = true) {
  RopeParams rope;
  rope.head_dim = head_dim;
  rope.rotary_dims = head_dim;
  rope.neighbouring_pairs = neighbouring;
  return rope;
}

inline bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace slim

#endif  // TESTS_ENGINE_BACKEND_OP_FIXTURES_H_
