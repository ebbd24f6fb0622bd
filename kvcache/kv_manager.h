// The KV cache as the engine sees it: sequences own pages per segment, a layer's pages are acquired
// right before its attention and released right after. Behind it, in the `discrete` tier, the KV
// service thread moves slabs between a host pool and a bounded device arena, ahead of use.
//
// Words. Slab: one layer of one block (kv_layout.h). Page: (sequence, segment, block) = one slab
// per layer of the segment, taken and freed together. Segment: a run of layers that caches the same
// blocks. Prompt pages are immutable once sealed; the last, partly filled one and the pages of
// generated tokens are written in place.
//
// Thread rule: every method is called by the worker thread only, except stats(), which is
// thread-safe. Ownership: the manager owns pools, tables, copier and service thread.
#ifndef KVCACHE_KV_MANAGER_H_
#define KVCACHE_KV_MANAGER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/base/clock.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_memories.h"

namespace slim {

// Identifies a sequence inside one KvManager; never reused.
enum class KvSequenceId : uint64_t {};

enum class KvTier {
  kUnified,   // one memory: acquired pages are the pool's own memory, nothing is copied
  kDiscrete,  // a host pool holds every page, a bounded device arena holds what a step uses
};

// What a sequence may come to need in one segment.
struct KvSegmentSpec {
  int first_layer = 0;
  int num_layers = 0;
  int64_t max_blocks = 0;  // prompt blocks retained in this segment plus blocks of generated tokens
  // RESELECT scores all keys of a decision layer, which is the last one of its segment: with this
  // flag that layer's pages are all acquired, whatever SetActiveBlocks says.
  bool last_layer_full = false;
};

// A page that outlives its sequence (the prefix cache's handle): one block's slabs in all layers of
// the segment it was published from, sealed. Copying counts up, the last drop frees the slabs.
// Copied and dropped by the worker thread only, and dropped before the manager is destroyed.
class KvPage;
using KvPageRef = std::shared_ptr<const KvPage>;

// One layer's pages of one sequence, ascending by position. Valid until ReleaseLayer.
struct KvPages {
  absl::Span<void* const> slabs;        // slabs[i] holds block block_ids[i], layout KvLayout
  absl::Span<const int32_t> block_ids;  // block j holds the tokens at positions [B j, B (j + 1))
};

// What one step will touch of one sequence: layers [first_layer, end_layer). The manager prefetches
// in layer order; sequences of one layer in the order given.
struct KvUse {
  KvSequenceId sequence;
  int first_layer = 0;
  int end_layer = 0;
  // Pages of lower blocks are only read, so they need no write-back even where they are not sealed.
  int32_t first_written_block = 0;
};

// A snapshot for metrics and tests. Slab counts: free + used + cached + held_by_transfer == total
// holds for each tier after every step (rule R6).
struct KvTierStats {
  int64_t total_slabs = 0;
  int64_t free_slabs = 0;
  int64_t used_slabs = 0;  // belong to live sequences
  // Belong to nobody, kept for the prefix cache. In the discrete tier's device arena: can be
  // evicted at no cost.
  int64_t cached_slabs = 0;
  int64_t held_by_transfer_slabs = 0;  // freed by their owner while a copy was still in flight
  int64_t reserved_slabs = 0;          // promised to live sequences, used or not
};
struct KvStats {
  KvTierStats device;
  KvTierStats host;  // all zero in the unified tier
  int64_t bytes_to_device = 0;
  int64_t bytes_to_host = 0;
  double seconds_to_device = 0;  // time the copier was busy, per direction
  double seconds_to_host = 0;
  int64_t prefetch_on_time = 0;  // slabs that were there when the layer asked for them
  int64_t prefetch_late = 0;     // slabs that the layer had to wait for
  int64_t prefetch_dropped = 0;  // tickets cancelled before their copy began
  int64_t prefetch_wasted = 0;   // slabs fetched and evicted without a use
  int64_t late_completions = 0;  // completions of transfers already closed, counted and dropped
  double stall_seconds = 0;      // total time that AcquireLayer waited
};

class KvManager {
 public:
  struct Options {
    KvLayout layout;
    int num_layers = 0;
    KvTier tier = KvTier::kUnified;
    int64_t device_bytes = 0;  // pool (unified) or arena (discrete)
    int64_t host_bytes = 0;    // host pool (discrete only)
    // Unified tier only: the keys of all slabs before the values of all, so that the keys of
    // neighbouring slabs are one stream, and so are their values (KvLayout::values_after).
    bool keys_apart = false;
    bool prefetch = true;  // false: every slab is fetched when asked for (to measure the gain)
    absl::Duration transfer_timeout = absl::Seconds(10);
    bool verify_transfers = false;  // compare a hash of each copy's two ends: DATA_LOSS on a change
    bool poison_freed = false;      // tests: fill freed slabs with 0xFB, so that a stale read shows
  };

  virtual ~KvManager() = default;

  // Slabs that all sequences together can hold, and how many of them no sequence has reserved.
  virtual int64_t capacity_slabs() const = 0;
  virtual int64_t unreserved_slabs() const = 0;
  // Discrete: the most slabs of one layer that one step may acquire at a time, summed over its
  // sequences. Unified: capacity_slabs().
  virtual int64_t max_layer_slabs_per_step() const = 0;
  virtual const KvLayout& layout() const = 0;  // see KvLayoutOf

  // Reserves the worst case, sum over segments of num_layers * max_blocks slabs.
  // Segments cover [0, num_layers) in order without gaps, else INVALID_ARGUMENT.
  // RESOURCE_EXHAUSTED with both numbers when fewer slabs are unreserved.
  virtual absl::StatusOr<KvSequenceId> AddSequence(absl::Span<const KvSegmentSpec> segments) = 0;

  // As AddSequence, and segment 0 begins with these pages (ascending, from PublishBlocks of a
  // sequence whose segment 0 had the same layers, else INVALID_ARGUMENT). They count against
  // max_blocks but need no reservation. ABORTED when a page was lost in a failed copy: drop it.
  virtual absl::StatusOr<KvSequenceId> AddSequenceWithPrefix(
      absl::Span<const KvSegmentSpec> segments, absl::Span<const KvPageRef> prefix) = 0;

  // Handles to the sealed pages of blocks [begin_block, end_block) of a segment.
  // FAILED_PRECONDITION when one of them is not sealed, NOT_FOUND when one is absent.
  // Pages kept by nobody but such handles are counted as cached; no sequence can reserve their
  // slabs until the handles are dropped.
  virtual absl::StatusOr<std::vector<KvPageRef>> PublishBlocks(KvSequenceId sequence, int segment,
                                                               int32_t begin_block,
                                                               int32_t end_block) = 0;

  // Frees every page and the reservation. Slabs with a copy in flight become free when it ends.
  // A sequence may be removed at any time, also with prefetches pending, but not while one of its
  // layers is acquired.
  virtual void RemoveSequence(KvSequenceId sequence) = 0;

  // Appends empty (zeroed) pages to a segment; ids ascending and above those already there.
  // RESOURCE_EXHAUSTED when that exceeds the segment's max_blocks, FAILED_PRECONDITION while a
  // layer of the segment is acquired.
  virtual absl::Status AppendBlocks(KvSequenceId sequence, int segment,
                                    absl::Span<const int32_t> block_ids) = 0;

  // Declares that the pages of blocks < end_block in `segment` are complete and immutable:
  // they may be offloaded from now on, while later layers still compute.
  virtual void SealBlocks(KvSequenceId sequence, int segment, int32_t end_block) = 0;

  // RESELECT: only these prompt blocks of `segment` (ascending, all present) and every unsealed
  // page are acquired from now on; the others may leave the device. Empty span: all are active.
  // May be called inside a step, before the segment's layers are acquired: the prefetch of the step
  // follows. FAILED_PRECONDITION while a layer of the segment is acquired.
  virtual absl::Status SetActiveBlocks(KvSequenceId sequence, int segment,
                                       absl::Span<const int32_t> block_ids) = 0;

  // A step: BeginStep, then for each layer and sequence AcquireLayer .. ReleaseLayer, then EndStep.
  virtual absl::Status BeginStep(absl::Span<const KvUse> uses) = 0;

  // The active pages of the sequence's segment at `layer`, resident in device memory. Waits for
  // what is still in flight, and counts the wait. ABORTED when a copy failed or timed out,
  // DATA_LOSS when one arrived changed: that sequence is to be removed, others are not affected.
  // RESOURCE_EXHAUSTED when the arena cannot hold what is acquired at the same time.
  virtual absl::StatusOr<KvPages> AcquireLayer(KvSequenceId sequence, int layer) = 0;
  virtual void ReleaseLayer(KvSequenceId sequence, int layer) = 0;
  virtual void EndStep() = 0;

  virtual KvStats stats() const = 0;

  // Rules R1-R6 of the KV design, recomputed from the tables: INTERNAL with the numbers when one is
  // broken. Linear in live slabs; for tests and debug builds, after every step.
  virtual absl::Status CheckInvariants() = 0;
};

// Builds the manager of `options.tier`. INVALID_ARGUMENT with the value seen when an option is out
// of range, RESOURCE_EXHAUSTED when the memory cannot be mapped. The clock outlives the manager.
// `memories`: of the sizes that KvMemorySizesOf names. verify_transfers needs memory that the host
// can read.
absl::StatusOr<std::unique_ptr<KvManager>> CreateKvManager(const KvManager::Options& options,
                                                           const Clock* clock,
                                                           KvMemories memories = {});

// How many slabs the pools of these options have. INVALID_ARGUMENT as CreateKvManager.
absl::StatusOr<KvMemorySizes> KvMemorySizesOf(const KvManager::Options& options);

// KvManager::layout() of a manager with these options. INVALID_ARGUMENT as CreateKvManager.
absl::StatusOr<KvLayout> KvLayoutOf(const KvManager::Options& options);

}  // namespace slim

#endif  // KVCACHE_KV_MANAGER_H_
