// Weights in the layout of the CPU kernels: tiles of 16 outputs, all inputs of a tile in a row, the
// last tile filled up with zeros.
//
//   u4 (Q4_0, Q4_1)  per group of 32 inputs 4 vectors of 64 bytes; byte 4 o + j of vector v holds
//                    output o, input 8 v + j (low half) and input 8 v + 4 + j (high half)
//   u8 (Q8_0)        per group 8 vectors; byte 4 o + j of vector v: output o, input 4 v + j, stored
//                    as q + 128
//   scales           f16, per group 16, behind all tiles. With Q4_1 16 scales and 16 mins, a vector
//                    before the 4 of their group: a matrix is one stream, which the processor's
//                    prefetchers follow
//   F32, F16, BF16   [inputs][16 outputs], elements as in the file
//
// Nothing is rounded: the packed form holds the file's numbers. Prompt rows are multiplied with a
// second form that is made from it, PromptWeight (kernels.h), kept beside it or made for a call.
// Immutable once prepared, thread-safe.
#ifndef ENGINE_BACKEND_CPU_PACKED_WEIGHT_H_
#define ENGINE_BACKEND_CPU_PACKED_WEIGHT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/thread_pool.h"

namespace slim {

// Hands out parts of large, huge-page aligned chunks; a chunk lives as long as any part of it, or
// until the next Take.
class WeightArena {
 public:
  // `bytes` zeroed bytes, 64-byte aligned, kept alive by *chunk. RESOURCE_EXHAUSTED.
  absl::StatusOr<uint8_t*> Take(int64_t bytes, std::shared_ptr<Buffer>* chunk);

 private:
  struct Chunk {
    std::shared_ptr<Buffer> buffer;
    int64_t used_bytes = 0;
  };
  std::vector<Chunk> chunks_;
};

class PackedWeight final : public LinearWeight {
 public:
  // INVALID_ARGUMENT: empty shape, no data, or inputs not a multiple of 32 for a quantised type.
  static absl::StatusOr<std::unique_ptr<PackedWeight>> Create(const HostTensor& tensor,
                                                              WeightArena& arena, ThreadPool& pool);

  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  DType dtype() const override { return dtype_; }
  int64_t bytes() const override { return num_tiles() * (tile_bytes_ + scale_bytes_); }

  // The form for prompt rows. PromptBytes: what it takes, 0 where type or shape allow none.
  int64_t PromptBytes() const;
  // Its parts in `memory` of PromptBytes() bytes, 64-byte aligned; PackPromptTile fills a tile's.
  PromptWeight PromptFormIn(void* memory) const;
  void PackPromptTile(int64_t tile, const PromptWeight& form, const KernelTable& kernels) const;
  // Makes it once and for all. RESOURCE_EXHAUSTED.
  absl::Status KeepPromptForm(WeightArena& arena, ThreadPool& pool, const KernelTable& kernels);
  const PromptWeight& kept_prompt_form() const { return prompt_; }  // bytes are null when not kept

  PackedKind kind() const { return kind_; }
  bool nibbles() const { return kind_ == PackedKind::kU4; }
  bool quantized() const { return kind_ == PackedKind::kU4 || kind_ == PackedKind::kU8; }
  int64_t num_tiles() const { return (outputs_ + kTileOutputs - 1) / kTileOutputs; }

  // Fills the weight's part of `args` for `tiles` tiles from `first_tile` on.
  void Describe(int64_t first_tile, int tiles, GemmArgs* args) const;

  // Row `output` as float32 [inputs].
  void Dequantize(int64_t output, float* out) const;

 private:
  explicit PackedWeight(const HostTensor& tensor);
  void PackTile(const HostTensor& tensor, int64_t tile);
  void PackOutput(const HostTensor& tensor, int64_t output);

  int64_t outputs_, inputs_;
  DType dtype_;
  PackedKind kind_ = PackedKind::kF32;
  bool has_min_ = false;
  int zero_point_ = 0;
  int64_t tile_bytes_ = 0;
  int64_t tile_scales_ = 0;  // elements
  int64_t scale_bytes_ = 0;  // of a tile, behind all tiles
  std::shared_ptr<Buffer> chunk_;
  uint8_t* tiles_ = nullptr;  // the first group's elements
  uint16_t* scales_ = nullptr;
  std::shared_ptr<Buffer> prompt_chunk_;
  PromptWeight prompt_;
};

// The part of a form that begins with `tile`.
PromptWeight PromptFormFrom(const PromptWeight& form, int64_t tile, int64_t inputs);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_PACKED_WEIGHT_H_
