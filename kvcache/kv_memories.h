// Where the slabs of the KV pools lie and who moves them: host memory and plain copies unless a
// backend brings its own.
// Thread rule: SlabMemory: one thread at a time, the pool's owner. Ownership: the KV manager owns
// all of it.
#ifndef KVCACHE_KV_MEMORIES_H_
#define KVCACHE_KV_MEMORIES_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kvcache/block_copier.h"

namespace slim {

// One contiguous, zeroed range of memory.
class SlabMemory {
 public:
  virtual ~SlabMemory() = default;
  virtual char* base() const = 0;
  // False: addresses mean something to the backend only.
  virtual bool host_readable() const = 0;
  // Sets every byte. Device memory: before whatever the backend is asked to do next; a failure of
  // the device shows at the backend's next call.
  virtual void Fill(void* data, unsigned char value, int64_t bytes) = 0;
};

// Anonymous memory of the process, mapped lazily. RESOURCE_EXHAUSTED when the mapping fails.
absl::StatusOr<std::unique_ptr<SlabMemory>> MapHostSlabs(int64_t bytes);

// Sizes of the two pools; a slab takes `stride_bytes`, a multiple of 64: the distance of
// neighbours, or twice that of halves (KvManager::Options::keys_apart).
struct KvMemorySizes {
  int64_t stride_bytes = 0;
  int64_t device_slabs = 0;  // pool (unified) or arena (discrete)
  int64_t host_slabs = 0;    // discrete only
};

// What is null is host memory (device, host) or memcpy (copier).
struct KvMemories {
  std::unique_ptr<SlabMemory> device;
  std::unique_ptr<SlabMemory> host;     // discrete only
  std::unique_ptr<BlockCopier> copier;  // discrete only
};

}  // namespace slim

#endif  // KVCACHE_KV_MEMORIES_H_
