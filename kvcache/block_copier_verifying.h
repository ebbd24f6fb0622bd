// A copier around another one that compares a hash of what was to be copied with a hash of what
// arrived, and turns a difference into DATA_LOSS. For memory that the CPU can read.
// Thread rule as BlockCopier. Owns the inner copier.
#ifndef KVCACHE_BLOCK_COPIER_VERIFYING_H_
#define KVCACHE_BLOCK_COPIER_VERIFYING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "engine/base/mutex.h"
#include "kvcache/block_copier.h"

namespace slim {

class VerifyingCopier final : public BlockCopier {
 public:
  explicit VerifyingCopier(std::unique_ptr<BlockCopier> inner);

  void SetDone(Done done) override;
  void Enqueue(CopyRequest request) override;
  bool Cancel(uint64_t id) override;

 private:
  struct Open {
    std::vector<CopyPiece> pieces;
    int64_t piece_bytes = 0;
    std::vector<uint64_t> hashes;
  };
  void OnDone(CopyResult result);

  Done done_;
  Mutex mutex_;
  absl::flat_hash_map<uint64_t, Open> open_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<BlockCopier> inner_;  // last: its destructor ends the completions
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_COPIER_VERIFYING_H_
