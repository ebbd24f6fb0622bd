// Who owns which slab: KvPage frees its slabs when its last reference goes, PageLedger keeps the
// counters (used, cached, held by a transfer, reserved) that admission and rule R6 rest on.
//
// Reservation. Every slab is charged once: to the reservation of the sequence that made the page
// while that sequence lives, to `orphaned` afterwards (others still read it, or the prefix cache
// keeps it), to `held` while a copy still touches it. reserved + orphaned + held <= total, so a
// sequence can always take what it reserved.
//
// Thread rule: the worker thread, except counters() which is thread-safe. The ledger borrows the
// pool; pages borrow the ledger and must be gone before it.
#ifndef KVCACHE_PAGE_LEDGER_H_
#define KVCACHE_PAGE_LEDGER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/mutex.h"
#include "kvcache/block_pool.h"
#include "kvcache/kv_manager.h"

namespace slim {

class PageLedger;

// One block's slabs in all layers of one segment.
class KvPage {
 public:
  ~KvPage();
  KvPage(const KvPage&) = delete;
  KvPage& operator=(const KvPage&) = delete;

  int32_t block_id() const { return block_id_; }
  int first_layer() const { return first_layer_; }
  int num_layers() const { return static_cast<int>(slabs_.size()); }
  SlabId slab(int layer) const { return slabs_[layer - first_layer_]; }
  absl::Span<const SlabId> slabs() const { return slabs_; }
  bool sealed() const { return sealed_; }
  void Seal() { sealed_ = true; }

 private:
  friend class PageLedger;
  KvPage(PageLedger* ledger, KvSequenceId owner, int32_t block_id, int first_layer)
      : ledger_(ledger), owner_(owner), block_id_(block_id), first_layer_(first_layer) {}

  PageLedger* const ledger_;
  KvSequenceId owner_;     // whose reservation pays; meaningless once orphaned_
  bool orphaned_ = false;  // the owner is gone
  int users_ = 0;          // sequences whose table holds the page
  const int32_t block_id_;
  const int first_layer_;
  std::vector<SlabId> slabs_;
  bool sealed_ = false;
};

class PageLedger {
 public:
  // Called for each slab of a dying page: true when it is free at once, false when a copy still
  // touches it and ReleaseHeld follows.
  using SlabReleaser = std::function<bool(SlabId)>;

  PageLedger(BlockPool* pool, SlabReleaser releaser);
  ~PageLedger();

  // RESOURCE_EXHAUSTED with both numbers when fewer slabs are unreserved.
  absl::Status Reserve(int64_t slabs);
  void Unreserve(int64_t slabs);
  int64_t unreserved() const;

  // Pages of zeroed slabs, charged to `owner`, used by nobody yet. Where the pool has room in one
  // piece, a layer's slabs of these blocks are neighbours, in their order: attention reads them as
  // one stream.
  absl::StatusOr<std::vector<std::shared_ptr<KvPage>>> NewPages(KvSequenceId owner,
                                                                absl::Span<const int32_t> block_ids,
                                                                int first_layer, int num_layers);
  // A sequence's table took or dropped the page.
  void AddUser(KvPage* page);
  void DropUser(KvPage* page, KvSequenceId sequence);
  // The copy that kept a freed slab has ended.
  void ReleaseHeld(SlabId slab);

  KvTierStats counters() const;
  // Recomputes every counter from the live pages; `reserved` is the sum over live sequences.
  absl::Status Check(int64_t reserved) const;
  const absl::flat_hash_set<KvPage*>& live_pages() const { return pages_; }

 private:
  friend class KvPage;
  void Destroy(KvPage* page);

  BlockPool* const pool_;
  const SlabReleaser releaser_;
  absl::flat_hash_set<KvPage*> pages_;
  mutable Mutex mutex_;  // for counters() from other threads
  KvTierStats counters_ ABSL_GUARDED_BY(mutex_);
  int64_t orphaned_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace slim

#endif  // KVCACHE_PAGE_LEDGER_H_
