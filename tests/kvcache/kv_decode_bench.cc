// Decode over a bounded arena with the real threads: one sequence, each layer reads all its slabs
// once (what attention does to memory), the link is played by HostBlockCopier.
//   kv_decode_bench [blocks] [arena share] [link GB/s] [steps]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "kvcache/block_copier_host.h"
#include "kvcache/kv_manager.h"

namespace slim {
namespace {

constexpr int kLayers = 30;
constexpr KvLayout kLayout{3, 64, 32, KvType::kBF16};  // 24 KiB slabs

uint64_t ReadAll(const KvPages& pages) {
  uint64_t sum = 0;
  for (const void* slab : pages.slabs) {
    const uint64_t* words = static_cast<const uint64_t*>(slab);
    for (int64_t i = 0; i < kLayout.slab_bytes() / 8; ++i) sum += words[i] * (sum | 1);
  }
  return sum;
}

int Run(bool discrete, bool prefetch, int blocks, double share, double gigabytes_per_second,
        int steps) {
  SteadyClock clock;
  const int64_t all = int64_t{kLayers} * blocks * kLayout.slab_bytes();
  KvManager::Options options;
  options.tier = discrete ? KvTier::kDiscrete : KvTier::kUnified;
  options.layout = kLayout;
  options.num_layers = kLayers;
  options.host_bytes = all;
  options.device_bytes = discrete ? static_cast<int64_t>(static_cast<double>(all) * share) : all;
  options.prefetch = prefetch;
  auto manager = CreateKvManager(
      options, &clock,
      KvMemories{nullptr, nullptr, std::make_unique<HostBlockCopier>(gigabytes_per_second * 1e9)});
  if (!manager.ok()) {
    std::fprintf(stderr, "%s\n", manager.status().ToString().c_str());
    return 1;
  }
  KvManager& kv = **manager;
  const KvSequenceId id = *kv.AddSequence({{0, kLayers, blocks}});
  absl::Time begin;
  KvStats before;
  uint64_t sum = 0;
  for (int step = 0; step < blocks + 2 + steps; ++step) {
    const bool prefill = step < blocks;
    if (prefill && !kv.AppendBlocks(id, 0, {step}).ok()) return 1;
    if (step == blocks + 2) {
      begin = clock.Now();
      before = kv.stats();
    }
    if (!kv.BeginStep({KvUse{id, 0, kLayers, prefill ? step : blocks - 1}}).ok()) return 1;
    for (int layer = 0; layer < kLayers; ++layer) {
      auto pages = kv.AcquireLayer(id, layer);
      if (!pages.ok()) return 1;
      if (prefill) {
        std::memset(pages->slabs.back(), step + layer, kLayout.slab_bytes());
      } else {
        sum += ReadAll(*pages);
      }
      kv.ReleaseLayer(id, layer);
    }
    kv.EndStep();
    if (prefill && step + 1 < blocks) kv.SealBlocks(id, 0, step + 1);
  }
  const double seconds = absl::ToDoubleSeconds(clock.Now() - begin);
  const KvStats after = kv.stats();
  const double on_time = static_cast<double>(after.prefetch_on_time - before.prefetch_on_time);
  const double late = static_cast<double>(after.prefetch_late - before.prefetch_late);
  std::printf(
      "%-8s prefetch %-3s  step %7.2f ms  stall %5.1f %%  on time %5.1f %%  fetched "
      "%6.1f MB per step  (sum %llx)\n",
      discrete ? "discrete" : "unified", prefetch ? "on" : "off", seconds / steps * 1e3,
      (after.stall_seconds - before.stall_seconds) / seconds * 100,
      on_time + late > 0 ? on_time / (on_time + late) * 100 : 100.0,
      static_cast<double>(after.bytes_to_device - before.bytes_to_device) / 1e6 / steps,
      static_cast<unsigned long long>(sum));
  return 0;
}

}  // namespace
}  // namespace slim

int main(int argc, char** argv) {
  const int blocks = argc > 1 ? std::atoi(argv[1]) : 256;
  const double share = argc > 2 ? std::atof(argv[2]) : 0.25;
  const double link = argc > 3 ? std::atof(argv[3]) : 8;
  const int steps = argc > 4 ? std::atoi(argv[4]) : 20;
  if (!(blocks > 0 && share > 0 && link >= 0 && steps > 0)) return 2;
  std::printf("%d blocks x %d layers, arena %.2f of the KV, link %.1f GB/s each way\n", blocks,
              slim::kLayers, share, link);
  return slim::Run(false, true, blocks, share, link, steps) +
         slim::Run(true, true, blocks, share, link, steps) +
         slim::Run(true, false, blocks, share, link, steps);
}
