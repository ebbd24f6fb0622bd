// Moves slabs between the host pool and device memory, asynchronously.
//
// Thread rule: Enqueue and Cancel are called by the KV service only, one call at a time; `done` is
// called on any thread, also from inside Enqueue, never with a lock of the copier held. Ownership:
// the copier borrows the memory of a request until it has called `done` for it or Cancel returned
// true.
#ifndef KVCACHE_BLOCK_COPIER_H_
#define KVCACHE_BLOCK_COPIER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"

namespace slim {

enum class CopyDirection { kToDevice, kToHost };

struct CopyPiece {
  const void* source = nullptr;
  void* destination = nullptr;
};

// Some slabs of equal size, one completion for all of them.
struct CopyRequest {
  uint64_t id = 0;  // never reused
  CopyDirection direction = CopyDirection::kToDevice;
  int64_t piece_bytes = 0;
  std::vector<CopyPiece> pieces;
};

struct CopyResult {
  uint64_t id = 0;
  absl::Status status;
  int64_t bytes = 0;        // really copied; fewer than asked for is a failure
  double busy_seconds = 0;  // time that the link was busy with it
};

class BlockCopier {
 public:
  using Done = std::function<void(const CopyResult&)>;

  // Calls no `done` any more once it returns.
  virtual ~BlockCopier() = default;

  // Called once, before the first Enqueue.
  virtual void SetDone(Done done) = 0;
  virtual void Enqueue(CopyRequest request) = 0;
  // True: the copier touches the memory of that request no more (a completion may still be
  // reported, and is dropped). False: it still may, and calls `done` when it no longer does.
  virtual bool Cancel(uint64_t id) = 0;
};

}  // namespace slim

#endif  // KVCACHE_BLOCK_COPIER_H_
