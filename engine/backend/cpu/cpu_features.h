// What this processor can do, and how many threads this process may use. Thread-safe, constant
// after the first call.
#ifndef ENGINE_BACKEND_CPU_CPU_FEATURES_H_
#define ENGINE_BACKEND_CPU_CPU_FEATURES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace slim {

// Kernel variants, from plain to best. Each needs all of the one before it.
enum class CpuIsa {
  kPortable,    // plain C++, whatever the compiler's baseline is
  kAvx2,        // AVX2, FMA, F16C
  kAvx512Vnni,  // AVX-512 F, BW, DQ, VL and VNNI
  kAvx512Bf16,  // and AVX512_BF16
};

absl::string_view CpuIsaName(CpuIsa isa);

// Variants that this processor and operating system support, plain first. Probed with CPUID and
// XGETBV, since a compiler's own probe does not know all of them.
std::vector<CpuIsa> SupportedIsas();

// Processors that cpuset and cgroup quota leave to this process, at least 1.
int AvailableThreads();

// The processor's name as it gives it, e.g. for benchmarks.
std::string CpuModelName();

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_CPU_FEATURES_H_
