// A deterministic simulator of scheduler, model and KV manager, driven by a seed.
//
// The model is a hash: each token writes hash values into its slots, each layer's output is a hash
// of everything read through the pages, the next token is a hash of the last layer. A shadow in
// plain arrays computes the same without any manager, so a misplaced, stale, foreign or forgotten
// slab shows as a difference, with no tolerance. After every operation the manager's invariants are
// checked; at the end everything is given back and the pools must be whole.
#ifndef TESTS_KVCACHE_KV_SIMULATOR_H_
#define TESTS_KVCACHE_KV_SIMULATOR_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "engine/base/clock.h"
#include "kvcache/discrete_kv_manager.h"
#include "kvcache/kv_manager.h"
#include "tests/kvcache/fault_injecting_copier.h"

namespace slim {

struct KvSimulationResult {
  std::string violation;  // empty: none
  int64_t tokens = 0;
  int64_t steps = 0;
  int64_t submitted = 0;
  int64_t cancelled = 0;
  int64_t aborted = 0;
  int64_t adopted = 0;
  int64_t reselected = 0;
  int64_t faults = 0;
  KvStats stats;
};

// Runs `operations` operations of the simulation named by `seed`.
KvSimulationResult RunKvSimulation(uint64_t seed, int operations);

class KvSimulator {
 public:
  KvSimulator(uint64_t seed, int operations);
  ~KvSimulator();
  KvSimulationResult Run();

  static uint64_t Mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ (b + 0x9E3779B97F4A7C15u)) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 29;
    return x * 0x94D049BB133111EBu ^ (x >> 32);
  }

 private:
  static constexpr absl::Duration kTimeout = absl::Milliseconds(160);
  static constexpr int kBlock = 4;  // tokens per block; a slab is 8 words
  static constexpr int kWords = 2 * kBlock;

  struct Segment {
    int first_layer = 0, end_layer = 0;
    bool last_layer_full = false;
    std::vector<int32_t> prompt_blocks;  // retained, ascending
    std::vector<int32_t> present;        // blocks with pages
    std::vector<int32_t> active;         // what a layer acquires
    bool all_active = true;
    int32_t sealed_end = 0;
  };
  struct Sequence {
    KvSequenceId id{};
    int prompt = 0;  // tokens
    int max_new = 0;
    int source = 0;  // which text the prompt is a prefix of
    std::vector<uint64_t> tokens;
    std::vector<Segment> segments;
    int segment = 0;                            // being prefilled; segments.size(): decoding
    size_t next_block = 0;                      // index into prompt_blocks of the next chunk
    std::vector<uint64_t> hidden;               // by position
    std::vector<std::vector<uint64_t>> values;  // [layer][position]: the shadow
    bool dead = false;
  };
  struct CacheEntry {
    int source = 0;
    int num_layers = 0;
    std::vector<KvPageRef> pages;
    std::vector<std::vector<uint64_t>> values;
    std::vector<uint64_t> hidden;
  };
  // One sequence's part of a step.
  struct Work {
    Sequence* sequence = nullptr;
    int first_layer = 0, end_layer = 0;
    std::vector<int> positions;  // ascending: rows of this step
    bool acquired = false;
  };

  uint64_t Random(uint64_t bound);
  bool Chance(int percent) { return Random(100) < static_cast<uint64_t>(percent); }
  void Fail(const std::string& what);
  bool ok() const { return result_.violation.empty(); }

  void Setup();
  void Operate();
  void Submit();
  void Remove(size_t index);
  void Step();
  bool PlanPrefill(Sequence& s, Work* work);
  bool PlanDecode(Sequence& s, Work* work);
  bool AppendBlock(Sequence& s, size_t segment, int32_t block);
  void RunLayers(std::vector<Work>& works);
  bool AcquireOne(Work& work, int layer);
  void ComputeLayer(Work& work, int layer, const KvPages& pages);
  void FinishWork(Work& work);
  void Seal(Sequence& s, size_t segment, int32_t end_block);
  void Reselect();
  void ReselectSegment(Sequence& s, size_t index);
  void Publish(Sequence& s);
  void EvictCache();
  void Chaos(bool must_progress);
  void DeliverOne();
  void CheckAbort(const Sequence& s, const absl::Status& status);
  void Quiesce();

  std::vector<int32_t> Expected(const Segment& g, int layer) const;
  SlabId HostSlabOf(const void* data) const;
  void Taint(const CopyRequest& request);
  bool IsTainted(const Sequence& s) const;

  const int operations_;
  uint64_t state_;
  FakeClock clock_;
  KvManager::Options options_;
  int cut_ = 0;  // layers of segment 0 when there are several
  int max_prompt_ = 0, max_new_ = 0;
  int fault_percent_ = 0, delay_percent_ = 0, cancel_stops_percent_ = 50;
  FaultInjectingCopier* copier_ = nullptr;  // null in the unified tier
  DiscreteKvManager* discrete_ = nullptr;
  std::unique_ptr<KvManager> kv_;
  std::deque<Sequence> sequences_;
  std::deque<CacheEntry> cache_;
  absl::flat_hash_set<SlabId> tainted_;
  int idle_rounds_ = 0;
  KvSimulationResult result_;
};

}  // namespace slim

#endif  // TESTS_KVCACHE_KV_SIMULATOR_H_
