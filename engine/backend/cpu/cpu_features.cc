#include "engine/backend/cpu/cpu_features.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace slim {
namespace {

#if defined(__x86_64__)
uint64_t ReadXcr0() {
  uint32_t low = 0, high = 0;
  // The intrinsic would need -mxsave for this file.
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// The tile registers are large, so Linux wants to be asked (arch_prctl(2), since 5.16).
bool AskForTileRegisters() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::string BrandString() {
  unsigned words[12] = {};
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0x80000000u, &a, &b, &c, &d) || a < 0x80000004u) return "unknown";
  for (unsigned i = 0; i < 3; ++i) {
    __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                &words[4 * i + 3]);
  }
  char text[49] = {};
  std::memcpy(text, words, sizeof(words));
  std::string name(text);
  absl::StripAsciiWhitespace(&name);
  return name.empty() ? "unknown" : name;
}
#endif

// The first line of a small file, empty when it cannot be read.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (file) std::getline(file, line);
  return line;
}

// Path of this process' cgroup (version 2) below /sys/fs/cgroup, "" when unknown.
std::string CgroupPath() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (file && std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) return line.substr(3);
  }
  return "";
}

}  // namespace

CpuFeatures DetectCpuFeatures() {
  CpuFeatures features;
  features.model_name = "unknown";
#if defined(__x86_64__)
  features.model_name = BrandString();
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const bool osxsave = (c >> 27) & 1, fma = (c >> 12) & 1, f16c = (c >> 29) & 1;
  if (!osxsave) return features;
  const uint64_t xcr0 = ReadXcr0();
  const bool os_ymm = (xcr0 & 0x6) == 0x6, os_zmm = (xcr0 & 0xe6) == 0xe6;
  unsigned subleaves = 0;
  if (!__get_cpuid_count(7, 0, &subleaves, &b, &c, &d)) return features;
  const bool avx2 = (b >> 5) & 1;
  const bool avx512 =
      ((b >> 16) & 1) && ((b >> 17) & 1) && ((b >> 30) & 1) && ((b >> 31) & 1) && ((c >> 11) & 1);
  const bool amx = ((d >> 24) & 1) && ((d >> 25) & 1);
  const bool os_tiles = (xcr0 & 0x60000) == 0x60000;
  features.avx2 = avx2 && fma && f16c && os_ymm;
  features.avx512 = features.avx2 && avx512 && os_zmm;
  if (features.avx512 && subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    features.avx512_bf16 = (a >> 5) & 1;
  }
  features.amx = features.avx512_bf16 && amx && os_tiles && AskForTileRegisters();
#endif
  return features;
}

absl::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512vnni";
    case CpuIsa::kAvx512Bf16:
      return "avx512vnni+bf16";
    case CpuIsa::kAmx:
      return "avx512vnni+bf16+amx";
  }
  return "?";
}

std::vector<CpuIsa> SupportedIsas(const CpuFeatures& features) {
  std::vector<CpuIsa> isas = {CpuIsa::kPortable};
  if (features.avx2) isas.push_back(CpuIsa::kAvx2);
  if (features.avx512) isas.push_back(CpuIsa::kAvx512);
  if (features.avx512_bf16) isas.push_back(CpuIsa::kAvx512Bf16);
  if (features.amx) isas.push_back(CpuIsa::kAmx);
  return isas;
}

int CpusOfQuota(absl::string_view cpu_max) {
  const std::vector<std::string> parts =
      absl::StrSplit(cpu_max, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
  int64_t quota = 0, period = 100000;
  if (parts.empty() || !absl::SimpleAtoi(parts[0], &quota) || quota <= 0) return 0;
  if (parts.size() > 1 && (!absl::SimpleAtoi(parts[1], &period) || period <= 0)) return 0;
  return static_cast<int>(std::min<int64_t>(1 << 16, (quota + period - 1) / period));
}

int AvailableCpus() {
  int cpus = 0;
  // The mask may be larger than cpu_set_t on very large machines: grow until the kernel accepts it.
  for (int bits = 1024; bits <= (1 << 16) && cpus == 0; bits *= 2) {
    cpu_set_t* set = CPU_ALLOC(bits);
    if (set == nullptr) break;
    if (sched_getaffinity(0, CPU_ALLOC_SIZE(bits), set) == 0) {
      cpus = CPU_COUNT_S(CPU_ALLOC_SIZE(bits), set);
    }
    CPU_FREE(set);
  }
  cpus = std::max(cpus, 1);
  // A limit may be set at any level between our cgroup and the root.
  std::string path = CgroupPath();
  while (true) {
    const int quota = CpusOfQuota(FirstLine(absl::StrCat("/sys/fs/cgroup", path, "/cpu.max")));
    if (quota > 0) cpus = std::min(cpus, quota);
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) break;
    path.resize(slash);
  }
  const std::string v1_quota = FirstLine("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  if (!v1_quota.empty()) {
    const int quota =
        CpusOfQuota(absl::StrCat(v1_quota, " ", FirstLine("/sys/fs/cgroup/cpu/cpu.cfs_period_us")));
    if (quota > 0) cpus = std::min(cpus, quota);
  }
  return std::max(cpus, 1);
}

}  // namespace slim
