// What this processor can run, found with CPUID and XGETBV, and how many CPUs this process may use.
// Plain functions, thread-safe, nothing is cached.
#ifndef ENGINE_BACKEND_CPU_CPU_FEATURES_H_
#define ENGINE_BACKEND_CPU_CPU_FEATURES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace slim {

// The kernel variants, weakest first. Each is compiled into every binary for its processor family.
enum class CpuIsa : uint8_t {
  kPortable,    // plain loops, the compiler's baseline instruction set
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ and VNNI
  kAvx512Bf16,  // the same and AVX512_BF16
  kAmx,         // the same and AMX's tiles of bytes, for the linear layers of prompt rows
};

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C, saved by the operating system
  bool avx512 = false;       // AVX-512 F, BW, VL, DQ and VNNI, saved by the operating system
  bool avx512_bf16 = false;  // on top of avx512
  bool amx = false;          // AMX tiles and int8, on top of avx512_bf16, and allowed to be used
  std::string model_name;    // the processor's brand string, "unknown" where there is none
};

// Where the processor has AMX, asks the operating system for the permission to use its registers,
// for this process and all its threads.
CpuFeatures DetectCpuFeatures();

// "portable", "avx2", "avx512vnni", "avx512vnni+bf16", "avx512vnni+bf16+amx".
absl::string_view CpuIsaName(CpuIsa isa);

// Variants that this processor can run, weakest first; never empty.
std::vector<CpuIsa> SupportedIsas(const CpuFeatures& features);

// CPUs this process may keep busy: the smaller of its affinity mask and its cgroup's CPU quota
// (rounded up), at least 1.
int AvailableCpus();

// The CPUs a cgroup quota allows, from the text of cpu.max ("max 100000", "150000 100000") ; 0 when
// there is no limit or the text is not understood. Apart for tests.
int CpusOfQuota(absl::string_view cpu_max);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_CPU_FEATURES_H_
