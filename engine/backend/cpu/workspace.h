// Memory of the CPU backend: aligned buffers, scratch that grows and is then reused, and what every
// op gets to see. Thread rule: as Backend, one caller at a time.
#ifndef ENGINE_BACKEND_CPU_WORKSPACE_H_
#define ENGINE_BACKEND_CPU_WORKSPACE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/thread_pool.h"
#include "kvcache/kv_layout.h"

namespace slim {

// Zeroed memory, 64-byte aligned; from 2 MiB on aligned to huge pages, which the kernel is asked to
// use. RESOURCE_EXHAUSTED with the bytes asked for; INVALID_ARGUMENT for a negative count.
absl::StatusOr<Buffer> AllocateAligned(int64_t bytes);

// A buffer that only grows. Contents are lost when it does.
class Scratch {
 public:
  // At least `count` elements of T, 64-byte aligned. RESOURCE_EXHAUSTED.
  template <typename T>
  absl::StatusOr<T*> Get(int64_t count) {
    absl::StatusOr<void*> data = Reserve(count * static_cast<int64_t>(sizeof(T)));
    if (!data.ok()) return data.status();
    return static_cast<T*>(*data);
  }

 private:
  absl::StatusOr<void*> Reserve(int64_t bytes);
  Buffer buffer_;
};

// What Configure told.
struct CpuModelShape {
  KvLayout layout;
  int num_heads = 0;
  int rotary_dims = 0;
  bool neighbouring_pairs = true;
  int64_t max_positions = 0;
  Buffer rope;  // float32 [max_positions, rotary_dims / 2, 2]: cosine, sine
};

// One query tile of an attention call: consecutive rows of one sequence and one kv head, or one row
// and all kv heads.
struct AttentionTask {
  int sequence = 0;
  int kv_head = 0;
  int num_kv_heads = 1;
  int64_t row = 0;
  int rows = 0;
  int first_span = 0;
  int num_spans = 0;
  int64_t visible_tokens = 0;  // of the last row: the cost
  int64_t partial = -1;        // index of the first query's partial result, -1 = write the output
  int64_t tile = -1;           // which tile this is a part of
};

struct CpuContext {
  const KernelTable* kernels = nullptr;
  ThreadPool* pool = nullptr;
  CpuModelShape shape;
  // Scratch by purpose. *_threads: one part per thread.
  Scratch transformed, transformed_threads;
  Scratch quantized, scales, scaled_sums, sums;
  Scratch gemm_threads, pairs_threads;
  Scratch prompt_weights;
  Scratch attention_threads, attention_partials;
  std::vector<AttentionTask> attention_tasks;
  std::vector<AttentionTask> attention_tiles;
  std::vector<int64_t> attention_packed;  // per thread: the tile whose queries it has packed
  Scratch score_threads, score_blocks;
};

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_WORKSPACE_H_
