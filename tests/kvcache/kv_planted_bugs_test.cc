// Positive control of the simulator: each planted bug must be caught, or "no violation" would prove
// nothing. Prints a table: the seed that caught each bug first, the median over three series of
// seeds, and how. A crash of the child process (an invariant's abort) counts as caught.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "kvcache/planted_bug.h"
#include "tests/kvcache/kv_simulator.h"

namespace slim {

PlantedBug g_planted_bug = PlantedBug::kNone;

namespace {

constexpr int kOperations = 2000;
constexpr int kMaxSeeds = 2000;

struct Report {
  int seeds = 0;  // run so far, the catching one included
  bool caught = false;
  char how[200] = {};
};

// Runs seeds first, first + 1, ... in a child process until one is caught.
Report Hunt(PlantedBug bug, uint64_t first, int max_seeds) {
  void* memory =
      mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(memory, MAP_FAILED);
  Report* shared = new (memory) Report();
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(1);
    alarm(100);
    g_planted_bug = bug;
    for (int i = 0; i < max_seeds; ++i) {
      shared->seeds = i + 1;
      const KvSimulationResult result =
          RunKvSimulation(first + static_cast<uint64_t>(i), kOperations);
      if (result.violation.empty()) continue;
      shared->caught = true;
      std::strncpy(shared->how, result.violation.c_str(), sizeof(shared->how) - 1);
      break;
    }
    _exit(0);
  }
  int state = 0;
  waitpid(child, &state, 0);
  Report report = *shared;
  munmap(memory, sizeof(Report));
  if (!(WIFEXITED(state) && WEXITSTATUS(state) == 0)) {
    report.caught = !(WIFSIGNALED(state) && WTERMSIG(state) == SIGALRM);
    std::snprintf(report.how, sizeof(report.how), "stopped by an invariant (signal %d)",
                  WIFSIGNALED(state) ? WTERMSIG(state) : 0);
  }
  return report;
}

const char* NameOf(PlantedBug bug) {
  static constexpr const char* kNames[] = {"none",
                                           "free despite transfer",
                                           "leak on lost completion",
                                           "double completion applied",
                                           "seal one past the end",
                                           "orphans uncharged",
                                           "global abort",
                                           "swapped slabs",
                                           "short copy accepted",
                                           "infinite time-out",
                                           "evict dirty",
                                           "evict pinned",
                                           "stale slab reused",
                                           "write during write-back",
                                           "failed copy ignored",
                                           "quarantine skipped",
                                           "active set drops unsealed",
                                           "lost slab served",
                                           "held for ever"};
  static_assert(std::size(kNames) == static_cast<size_t>(PlantedBug::kCount));
  return kNames[static_cast<size_t>(bug)];
}

TEST(KvPlantedBugsTest, TheTestBuildWithoutABugIsClean) {
  const Report report = Hunt(PlantedBug::kNone, 1, 30);
  EXPECT_FALSE(report.caught) << report.how;
}

TEST(KvPlantedBugsTest, EveryPlantedBugIsCaught) {
  std::printf("%-26s %6s %7s  %s\n", "planted bug", "seeds", "median", "how");
  for (int i = 1; i < static_cast<int>(PlantedBug::kCount); ++i) {
    const PlantedBug bug = static_cast<PlantedBug>(i);
    std::array<int, 3> seeds{};
    Report first;
    for (size_t series = 0; series < seeds.size(); ++series) {
      const Report report = Hunt(bug, 1 + 10000 * series, kMaxSeeds);
      EXPECT_TRUE(report.caught) << NameOf(bug) << " escaped " << report.seeds << " seeds";
      seeds[series] = report.seeds;
      if (series == 0) first = report;
      if (!report.caught) break;
    }
    std::sort(seeds.begin(), seeds.end());
    std::printf("%-26s %6d %7d  %s\n", NameOf(bug), first.seeds, seeds[1], first.how);
  }
}

}  // namespace
}  // namespace slim
