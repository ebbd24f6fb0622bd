// Moves slabs between the host pool and device memory, asynchronously.
#ifndef KVCACHE_BLOCK_COPIER_H_
#define KVCACHE_BLOCK_COPIER_H_

namespace slim {

class BlockCopier {
 public:
  virtual ~BlockCopier() = default;
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_COPIER_H_
