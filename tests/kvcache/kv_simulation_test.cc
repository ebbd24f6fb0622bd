// Runs the simulator over many seeds. SLIM_KV_SIM_SEED runs one seed, SLIM_KV_SIM_SEEDS sets how
// many, SLIM_KV_SIM_FIRST where they begin.
#include <cstdlib>
#include <iostream>

#include "gtest/gtest.h"
#include "tests/kvcache/kv_simulator.h"

namespace slim {
namespace {

constexpr int kOperations = 2000;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(KvSimulationTest, NoSeedBreaksARule) {
  uint64_t first = FromEnvironment("SLIM_KV_SIM_FIRST", 1);
  uint64_t count = FromEnvironment("SLIM_KV_SIM_SEEDS", 500);
  if (std::getenv("SLIM_KV_SIM_SEED") != nullptr) {
    first = FromEnvironment("SLIM_KV_SIM_SEED", 1);
    count = 1;
  }
  KvSimulationResult sum;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const KvSimulationResult r = RunKvSimulation(seed, kOperations);
    ASSERT_EQ(r.violation, "") << "replay: SLIM_KV_SIM_SEED=" << seed
                               << " build/tests/kv_simulation_test";
    sum.tokens += r.tokens;
    sum.steps += r.steps;
    sum.submitted += r.submitted;
    sum.cancelled += r.cancelled;
    sum.aborted += r.aborted;
    sum.adopted += r.adopted;
    sum.reselected += r.reselected;
    sum.faults += r.faults;
    sum.stats.prefetch_on_time += r.stats.prefetch_on_time;
    sum.stats.prefetch_late += r.stats.prefetch_late;
    sum.stats.late_completions += r.stats.late_completions;
    sum.stats.bytes_to_device += r.stats.bytes_to_device;
    sum.stats.bytes_to_host += r.stats.bytes_to_host;
  }
  std::cout << count << " seeds: " << sum.steps << " steps, " << sum.tokens << " tokens, "
            << sum.submitted << " submitted, " << sum.cancelled << " cancelled, " << sum.aborted
            << " ended by a fault, " << sum.adopted << " prefixes adopted, " << sum.reselected
            << " reselected, " << sum.faults << " faults, " << sum.stats.late_completions
            << " late completions, slabs on time " << sum.stats.prefetch_on_time << " late "
            << sum.stats.prefetch_late << ", MB moved " << sum.stats.bytes_to_device / 1e6 << " + "
            << sum.stats.bytes_to_host / 1e6 << "\n";
  if (count < 100) return;
  // The run must have been worth something.
  EXPECT_GT(sum.tokens, 10000);
  EXPECT_GT(sum.adopted, 100);
  EXPECT_GT(sum.faults, 100);
  EXPECT_GT(sum.aborted, 100);
  EXPECT_GT(sum.stats.late_completions, 100);
}

TEST(KvSimulationTest, ASeedRunsTheSameTwice) {
  for (const uint64_t seed : {3, 17}) {
    const KvSimulationResult a = RunKvSimulation(seed, 500);
    const KvSimulationResult b = RunKvSimulation(seed, 500);
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.stats.bytes_to_device, b.stats.bytes_to_device);
    EXPECT_EQ(a.faults, b.faults);
  }
}

}  // namespace
}  // namespace slim
