#include "engine/backend/cpu/cpu_features.h"

#include <cpuid.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace slim {
namespace {

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers Cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return Registers{};
  return r;
}

// Register state that the operating system saves (XCR0).
uint64_t EnabledState() {
  const Registers leaf1 = Cpuid(1, 0);
  if ((leaf1.c & (1u << 27)) == 0) return 0;  // OSXSAVE
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool Has(uint32_t word, int bit) { return ((word >> bit) & 1u) != 0; }

// The quota of the control group in whole processors, or a large number.
int CgroupThreads() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 1 << 20;
  const double processors = std::strtod(quota.c_str(), nullptr) / period;
  return std::max(1, static_cast<int>(processors + 0.5));
}

}  // namespace

absl::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512Vnni:
      return "avx512vnni";
    case CpuIsa::kAvx512Bf16:
      return "avx512vnni+bf16";
  }
  return "unknown";
}

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas = {CpuIsa::kPortable};
  const uint64_t state = EnabledState();
  const Registers leaf1 = Cpuid(1, 0), leaf7 = Cpuid(7, 0), leaf7_1 = Cpuid(7, 1);
  const bool avx_state = (state & 0x6) == 0x6;
  const bool avx512_state = (state & 0xe6) == 0xe6;
  const bool avx2 = avx_state && Has(leaf7.b, 5) && Has(leaf1.c, 12) && Has(leaf1.c, 29);
  if (!avx2) return isas;
  isas.push_back(CpuIsa::kAvx2);
  const bool avx512 = avx512_state && Has(leaf7.b, 16) && Has(leaf7.b, 17) && Has(leaf7.b, 30) &&
                      Has(leaf7.b, 31) && Has(leaf7.c, 11);
  if (!avx512) return isas;
  isas.push_back(CpuIsa::kAvx512Vnni);
  if (Has(leaf7_1.a, 5)) isas.push_back(CpuIsa::kAvx512Bf16);
  return isas;
}

int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = 1;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
  return std::max(1, std::min(count, CgroupThreads()));
}

std::string CpuModelName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (!absl::StartsWith(line, "model name")) continue;
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() == 2) return std::string(absl::StripAsciiWhitespace(parts[1]));
  }
  return "unknown processor";
}

}  // namespace slim
