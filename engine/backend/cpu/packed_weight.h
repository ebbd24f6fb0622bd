// A weight matrix in the layout of the CPU kernels: tiles of 16 outputs, so that one vector holds
// the same inputs of 16 outputs and no horizontal sum is ever needed. Immutable after Pack.
//
// Integer tiles, per group of 32 inputs (quad j = inputs 4j .. 4j + 3 of the group, byte 4n + i of
// a 64-byte chunk = input i of a quad for output n):
//   4-bit  4 chunks: chunk c has quad 2c in the low nibbles, quad 2c + 1 in the high ones;
//          16 scales as f16; 16 minimums as f16 (zero for Q4_0)
//   8-bit  8 chunks, one per quad, stored with 128 added; 16 scales as f16
// Float tiles: [inputs][16] float.
// The last tile is filled up with outputs of zero.
#ifndef ENGINE_BACKEND_CPU_PACKED_WEIGHT_H_
#define ENGINE_BACKEND_CPU_PACKED_WEIGHT_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/thread_pool.h"

namespace slim {

// 64-byte aligned, zeroed memory; huge pages where it is large. RESOURCE_EXHAUSTED names the size.
absl::StatusOr<Buffer> AllocateAligned(int64_t bytes);

class PackedWeight final : public LinearWeight {
 public:
  enum class Format : uint8_t { kQ4, kQ8, kFloat };

  // INVALID_ARGUMENT when a quantised tensor's columns are not a multiple of 32.
  static absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(const HostTensor& tensor,
                                                            ThreadPool& pool);

  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  DType dtype() const override { return dtype_; }
  int64_t bytes() const override { return memory_.bytes(); }

  Format format() const { return format_; }
  int64_t num_tiles() const { return (outputs_ + 15) / 16; }
  int64_t tile_bytes() const { return tile_bytes_; }
  const uint8_t* tile(int64_t index) const {
    return static_cast<const uint8_t*>(memory_.data()) + index * tile_bytes_;
  }
  int zero_point() const { return zero_point_; }
  bool has_min() const { return dtype_ == DType::kQ4_1; }

  // Output row `row` as inputs() floats, exactly as the model file has it.
  void UnpackRow(int64_t row, float* out) const;

 private:
  PackedWeight(const HostTensor& tensor);
  void PackTile(const HostTensor& tensor, int64_t tile);

  int64_t outputs_, inputs_;
  DType dtype_;
  Format format_;
  int zero_point_;
  int64_t tile_bytes_;
  Buffer memory_;
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_PACKED_WEIGHT_H_
