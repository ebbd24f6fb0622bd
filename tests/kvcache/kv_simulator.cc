// The scheduler of the simulation. kv_simulator_model.cc has the model and the faults.
#include "tests/kvcache/kv_simulator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/block_copier_verifying.h"

namespace slim {
namespace {

uint64_t TokenOf(int source, int position) {
  return KvSimulator::Mix(static_cast<uint64_t>(source) + 77, static_cast<uint64_t>(position)) %
         50000;
}

}  // namespace

KvSimulationResult RunKvSimulation(uint64_t seed, int operations) {
  return KvSimulator(seed, operations).Run();
}

KvSimulator::KvSimulator(uint64_t seed, int operations)
    : operations_(operations), state_(KvSimulator::Mix(seed, 4711)) {
  Setup();
}

KvSimulator::~KvSimulator() {
  cache_.clear();  // handles go before the manager
}

uint64_t KvSimulator::Random(uint64_t bound) {
  state_ += 0x9E3779B97F4A7C15u;
  return KvSimulator::Mix(state_, 1) % bound;
}

void KvSimulator::Fail(const std::string& what) {
  if (result_.violation.empty()) result_.violation = what;
}

void KvSimulator::Setup() {
  options_.layout = KvLayout{1, 2, kBlock, KvType::kF32};  // 64 bytes
  options_.num_layers = 2 + static_cast<int>(Random(4));
  cut_ = 1 + static_cast<int>(Random(options_.num_layers - 1));
  options_.poison_freed = true;
  options_.prefetch = !Chance(10);
  options_.transfer_timeout = kTimeout;
  max_prompt_ = 4 + static_cast<int>(Random(25));
  max_new_ = 1 + static_cast<int>(Random(12));
  const int64_t most_blocks = (max_prompt_ + max_new_ + kBlock - 1) / kBlock;
  const int64_t slab = options_.layout.slab_bytes();
  // From a pool that only just holds one sequence to one that holds several.
  const int64_t one = most_blocks * options_.num_layers;
  const int64_t host = one + static_cast<int64_t>(Random(4 * one + 1));
  // The arena: what one layer of one sequence needs at the least, all of the pool at the most.
  int64_t arena = most_blocks;
  if (Chance(85)) arena = 2 * most_blocks + static_cast<int64_t>(Random(2 * most_blocks + 1));
  if (Chance(20)) arena = 2 * most_blocks + static_cast<int64_t>(Random(host + 1));
  options_.host_bytes = host * slab;
  options_.device_bytes = arena * slab;
  const bool unified = Chance(8);
  fault_percent_ = Chance(50) ? 0 : 1 + static_cast<int>(Random(4));
  delay_percent_ = static_cast<int>(Random(95));
  cancel_stops_percent_ = static_cast<int>(Random(101));
  if (unified) {
    options_.tier = KvTier::kUnified;
    options_.device_bytes = options_.host_bytes;
    kv_ = *CreateKvManager(options_, &clock_);
    return;
  }
  options_.tier = KvTier::kDiscrete;
  auto copier = std::make_unique<FaultInjectingCopier>();
  copier_ = copier.get();
  copier_->on_fault = [this](const CopyRequest& request) { Taint(request); };
  copier_->cancel_stops = [this](const CopyRequest&) { return Chance(cancel_stops_percent_); };
  copier_->late_after_cancel = true;
  options_.verify_transfers = Chance(30);
  std::unique_ptr<BlockCopier> outer = std::move(copier);
  if (options_.verify_transfers) outer = std::make_unique<VerifyingCopier>(std::move(outer));
  auto manager =
      DiscreteKvManager::Create(options_, &clock_, KvMemories{nullptr, nullptr, std::move(outer)},
                                [this] { Chaos(/*must_progress=*/true); });
  discrete_ = manager->get();
  kv_ = *std::move(manager);
}

KvSimulationResult KvSimulator::Run() {
  for (int i = 0; i < operations_ && ok(); ++i) {
    Operate();
    const absl::Status status = kv_->CheckInvariants();
    if (!status.ok()) Fail(std::string(status.message()));
  }
  if (ok()) Quiesce();
  result_.stats = kv_->stats();
  return result_;
}

void KvSimulator::Operate() {
  const uint64_t dice = Random(100);
  if (dice < 12) {
    Submit();
  } else if (dice < 15) {
    if (!sequences_.empty()) {
      ++result_.cancelled;
      Remove(Random(sequences_.size()));
    }
  } else if (dice < 20) {
    Reselect();
  } else if (dice < 23) {
    EvictCache();
  } else if (dice < 40) {
    Chaos(/*must_progress=*/false);
  } else {
    Step();
  }
}

// --- Scheduler.

void KvSimulator::Submit() {
  if (sequences_.size() >= 6) return;
  ++result_.submitted;
  Sequence s;
  s.prompt = 1 + static_cast<int>(Random(max_prompt_));
  s.max_new = 1 + static_cast<int>(Random(max_new_));
  s.source = static_cast<int>(Random(2));
  for (int p = 0; p < s.prompt; ++p) s.tokens.push_back(TokenOf(s.source, p));
  const int last_block = (s.prompt - 1) / kBlock;
  const int new_blocks = (s.prompt + s.max_new - 1) / kBlock - last_block;
  const bool pruned = Chance(70);
  std::vector<KvSegmentSpec> specs;
  for (int i = 0; i < (pruned ? 2 : 1); ++i) {
    Segment g;
    g.first_layer = i == 0 ? 0 : cut_;
    g.end_layer = pruned && i == 0 ? cut_ : options_.num_layers;
    g.last_layer_full = Chance(30);
    for (int32_t b = 0; b <= last_block; ++b) {
      if (i == 0 || b == 0 || b == last_block || Chance(50)) g.prompt_blocks.push_back(b);
    }
    specs.push_back({g.first_layer, g.end_layer - g.first_layer,
                     static_cast<int64_t>(g.prompt_blocks.size()) + new_blocks, g.last_layer_full});
    s.segments.push_back(std::move(g));
  }
  s.hidden.resize(s.prompt + s.max_new);
  s.values.assign(options_.num_layers, std::vector<uint64_t>(s.prompt + s.max_new));
  // The longest cached prefix that leaves a token to compute.
  const CacheEntry* hit = nullptr;
  size_t hit_blocks = 0;
  for (const CacheEntry& e : cache_) {
    if (e.source != s.source || e.num_layers != specs[0].num_layers) continue;
    const size_t blocks = std::min<size_t>(e.pages.size(), (s.prompt - 1) / kBlock);
    if (blocks > hit_blocks) {
      hit = &e;
      hit_blocks = blocks;
    }
  }
  std::vector<KvPageRef> prefix;
  if (hit != nullptr) prefix.assign(hit->pages.begin(), hit->pages.begin() + hit_blocks);
  int64_t needed = 0;
  for (const KvSegmentSpec& spec : specs) needed += spec.num_layers * spec.max_blocks;
  needed -= static_cast<int64_t>(prefix.size()) * specs[0].num_layers;
  const int64_t unreserved = kv_->unreserved_slabs();
  auto id = kv_->AddSequenceWithPrefix(specs, prefix);
  if (!id.ok()) {
    const bool full = id.status().code() == absl::StatusCode::kResourceExhausted;
    const bool lost = id.status().code() == absl::StatusCode::kAborted && hit != nullptr;
    if (lost) {
      if (result_.faults == 0) Fail("a cached page was lost without a fault");
      EvictCache();
    } else if (!full || needed <= unreserved) {
      Fail(absl::StrCat("admission refused: ", id.status().ToString()));
    }
    if (full && Chance(50)) EvictCache();
    return;
  }
  if (needed > unreserved) Fail("more reserved than there was");
  s.id = *id;
  if (hit != nullptr) {
    ++result_.adopted;
    const size_t positions = hit_blocks * kBlock;
    for (int l = 0; l < specs[0].num_layers; ++l) {
      std::copy_n(hit->values[l].begin(), positions, s.values[l].begin());
    }
    std::copy_n(hit->hidden.begin(), positions, s.hidden.begin());
    for (size_t b = 0; b < hit_blocks; ++b) {
      s.segments[0].present.push_back(static_cast<int32_t>(b));
      s.segments[0].active.push_back(static_cast<int32_t>(b));
    }
    s.segments[0].sealed_end = static_cast<int32_t>(hit_blocks);
    s.next_block = hit_blocks;
  }
  sequences_.push_back(std::move(s));
}

void KvSimulator::Remove(size_t index) {
  kv_->RemoveSequence(sequences_[index].id);
  sequences_.erase(sequences_.begin() + static_cast<int64_t>(index));
}

bool KvSimulator::AppendBlock(Sequence& s, size_t segment, int32_t block) {
  Segment& g = s.segments[segment];
  const absl::Status status = kv_->AppendBlocks(s.id, static_cast<int>(segment), {block});
  if (!status.ok()) {
    Fail(absl::StrCat("a reserved block was refused: ", status.ToString()));
    return false;
  }
  g.present.push_back(block);
  g.active.push_back(block);
  if (discrete_ != nullptr) {
    const KvSequence& sequence = **discrete_->sequences().Find(s.id);
    for (const SlabId slab : sequence.segments[segment].pages().back()->slabs()) {
      tainted_.erase(slab);
    }
  }
  return true;
}

bool KvSimulator::PlanPrefill(Sequence& s, Work* work) {
  Segment& g = s.segments[s.segment];
  const size_t chunk = 1 + Random(2);
  const size_t end = std::min(g.prompt_blocks.size(), s.next_block + chunk);
  for (size_t i = s.next_block; i < end; ++i) {
    const int32_t block = g.prompt_blocks[i];
    if (!AppendBlock(s, s.segment, block)) return false;
    for (int p = block * kBlock; p < std::min(s.prompt, (block + 1) * kBlock); ++p) {
      if (s.segment == 0) s.hidden[p] = KvSimulator::Mix(s.tokens[p], static_cast<uint64_t>(p));
      work->positions.push_back(p);
    }
  }
  s.next_block = end;
  work->sequence = &s;
  work->first_layer = g.first_layer;
  work->end_layer = g.end_layer;
  return true;
}

bool KvSimulator::PlanDecode(Sequence& s, Work* work) {
  const int position = static_cast<int>(s.tokens.size()) - 1;
  const int32_t block = position / kBlock;
  for (size_t i = 0; i < s.segments.size(); ++i) {
    if (s.segments[i].present.back() >= block) continue;
    if (!AppendBlock(s, i, block)) return false;
  }
  s.hidden[position] = KvSimulator::Mix(s.tokens[position], static_cast<uint64_t>(position));
  work->sequence = &s;
  work->end_layer = options_.num_layers;
  work->positions = {position};
  return true;
}

void KvSimulator::Step() {
  if (sequences_.empty()) return;
  ++result_.steps;
  std::vector<Work> works;
  bool prefilling = false;
  for (Sequence& s : sequences_) {
    Work work;
    if (s.segment < static_cast<int>(s.segments.size())) {
      if (prefilling || !Chance(80)) continue;
      prefilling = true;
      if (!PlanPrefill(s, &work)) return;
    } else {
      if (!Chance(85)) continue;
      if (!PlanDecode(s, &work)) return;
    }
    works.push_back(std::move(work));
  }
  std::vector<KvUse> uses;
  for (const Work& work : works) {
    const int32_t written = Chance(70) ? work.positions.front() / kBlock : 0;
    uses.push_back({work.sequence->id, work.first_layer, work.end_layer, written});
  }
  const absl::Status status = kv_->BeginStep(uses);
  if (!status.ok()) return Fail(absl::StrCat("BeginStep: ", status.ToString()));
  RunLayers(works);
  kv_->EndStep();
  if (!ok()) return;
  for (Work& work : works) {
    if (!work.sequence->dead) FinishWork(work);
  }
  for (size_t i = sequences_.size(); i-- > 0;) {
    const Sequence& s = sequences_[i];
    const bool finished = static_cast<int>(s.tokens.size()) >= s.prompt + s.max_new;
    if (s.dead || finished) Remove(i);
  }
}

void KvSimulator::RunLayers(std::vector<Work>& works) {
  for (int layer = 0; layer < options_.num_layers && ok(); ++layer) {
    int64_t together = 0;
    for (const Work& work : works) {
      if (layer < work.first_layer || layer >= work.end_layer || work.sequence->dead) continue;
      const Segment& g =
          work.sequence->segments[layer < work.sequence->segments[0].end_layer ? 0 : 1];
      together += static_cast<int64_t>(Expected(g, layer).size());
    }
    // All sequences of a layer at a time where the manager says that it can, else one by one.
    const bool batch = together <= kv_->max_layer_slabs_per_step() && Chance(70);
    for (Work& work : works) {
      work.acquired = layer >= work.first_layer && layer < work.end_layer && !work.sequence->dead &&
                      AcquireOne(work, layer);
      if (!ok()) break;
      if (work.acquired && !batch) {
        kv_->ReleaseLayer(work.sequence->id, layer);
        work.acquired = false;
      }
    }
    for (Work& work : works) {
      if (work.acquired) kv_->ReleaseLayer(work.sequence->id, layer);
      work.acquired = false;
    }
    if (Chance(50)) Chaos(/*must_progress=*/false);
  }
}

bool KvSimulator::AcquireOne(Work& work, int layer) {
  idle_rounds_ = 0;
  auto pages = kv_->AcquireLayer(work.sequence->id, layer);
  if (!ok()) {
    if (pages.ok()) kv_->ReleaseLayer(work.sequence->id, layer);
    return false;
  }
  if (!pages.ok()) {
    CheckAbort(*work.sequence, pages.status());
    work.sequence->dead = true;
    ++result_.aborted;
    return false;
  }
  ComputeLayer(work, layer, *pages);
  if (Chance(20)) Chaos(/*must_progress=*/false);
  // As a decision layer does: select for the next segment while its own layer is held.
  Sequence& s = *work.sequence;
  const bool decides = s.segments.size() == 2 && layer == s.segments[0].end_layer - 1;
  if (ok() && decides && work.end_layer > layer + 1 && Chance(30)) ReselectSegment(s, 1);
  return true;  // held, whatever was found in it
}

void KvSimulator::FinishWork(Work& work) {
  Sequence& s = *work.sequence;
  const size_t segments = s.segments.size();
  if (s.segment < static_cast<int>(segments)) {
    Segment& g = s.segments[s.segment];
    const int32_t whole = s.prompt / kBlock;
    const bool last = s.next_block == g.prompt_blocks.size();
    if (last || Chance(60)) {
      const int32_t done = work.positions.back() / kBlock + 1;
      Seal(s, s.segment, std::min(whole, done));
    }
    if (!last) return;
    if (s.segment == 0 && Chance(50)) Publish(s);
    ++s.segment;
    s.next_block = 0;
    if (s.segment < static_cast<int>(segments)) return;
  }
  const int position = work.positions.back();
  s.tokens.push_back(s.hidden[position] % 50000);
  ++result_.tokens;
  // Some engines seal what decode has filled; then it must stay active.
  if (Chance(20)) {
    for (size_t i = 0; i < segments; ++i) {
      if (s.segments[i].all_active) Seal(s, i, (position + 1) / kBlock);
    }
  }
}

void KvSimulator::Seal(Sequence& s, size_t segment, int32_t end_block) {
  kv_->SealBlocks(s.id, static_cast<int>(segment), end_block);
  s.segments[segment].sealed_end = std::max(s.segments[segment].sealed_end, end_block);
}

void KvSimulator::Reselect() {
  if (sequences_.empty()) return;
  Sequence& s = sequences_[Random(sequences_.size())];
  if (s.segment < static_cast<int>(s.segments.size())) return;
  ReselectSegment(s, Random(s.segments.size()));
}

void KvSimulator::ReselectSegment(Sequence& s, size_t index) {
  Segment& g = s.segments[index];
  std::vector<int32_t> chosen;
  for (const int32_t b : g.present) {
    if (b < g.sealed_end && Chance(50)) chosen.push_back(b);
  }
  const absl::Status status = kv_->SetActiveBlocks(s.id, static_cast<int>(index), chosen);
  if (!status.ok()) return Fail(absl::StrCat("SetActiveBlocks: ", status.ToString()));
  ++result_.reselected;
  g.all_active = chosen.empty();
  g.active.clear();
  for (const int32_t b : g.present) {
    const bool named = std::binary_search(chosen.begin(), chosen.end(), b);
    if (g.all_active || named || b >= g.sealed_end) g.active.push_back(b);
  }
}

void KvSimulator::Publish(Sequence& s) {
  const Segment& g = s.segments[0];
  const int32_t end = s.prompt / kBlock;
  if (end == 0) return;
  if (end < g.prompt_blocks.back() + 1 && Chance(20)) {
    if (kv_->PublishBlocks(s.id, 0, 0, end + 1).ok()) Fail("an unsealed page was published");
  }
  auto pages = kv_->PublishBlocks(s.id, 0, 0, end);
  if (!pages.ok()) return Fail(absl::StrCat("PublishBlocks: ", pages.status().ToString()));
  CacheEntry entry;
  entry.source = s.source;
  entry.num_layers = g.end_layer;
  entry.pages = *std::move(pages);
  entry.values.assign(s.values.begin(), s.values.begin() + g.end_layer);
  entry.hidden = s.hidden;
  cache_.push_back(std::move(entry));
  if (cache_.size() > 3) EvictCache();
}

void KvSimulator::EvictCache() {
  if (!cache_.empty()) cache_.pop_front();
}

}  // namespace slim
