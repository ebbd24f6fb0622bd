// What this machine can do at best, measured: the peaks that the benches compare their figures
// with. Each is the best of a few rounds, over so many threads as the engine has, in about a tenth
// of a second. Thread rule: one thread, while the engine rests.
#ifndef TOOLS_COMMON_MACHINE_PROBE_H_
#define TOOLS_COMMON_MACHINE_PROBE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"

namespace slim {

enum class Arithmetic : uint8_t {
  kInt8,  // VNNI; AVX2: maddubs with 16-bit sums, as 4-bit weights allow
  kBf16,  // pairwise bf16 dot products
  kFp32,  // fused multiply-adds of the instruction set's vectors
};

// "int8", "bf16", "fp32".
std::string ArithmeticName(Arithmetic arithmetic);

class MachineProbe {
 public:
  // For the kernels of a CPU backend, named as in BackendInfo::isa.
  MachineProbe(std::string isa, int num_threads)
      : isa_(std::move(isa)), num_threads_(num_threads) {}

  // Operations per second (a multiply and an add are two); 0: these kernels have no such
  // instruction, or (portable) there is no probe for them. RESOURCE_EXHAUSTED: no thread.
  absl::StatusOr<double> PeakOps(Arithmetic arithmetic) const;

  // Bytes per second read from memory in order; 0 as above. The first call makes a buffer far
  // larger than the caches (256 MiB, with many threads 16 MiB for each), which the object keeps.
  // RESOURCE_EXHAUSTED: no memory or no thread.
  absl::StatusOr<double> ReadBandwidth();

 private:
  const std::string isa_;
  const int num_threads_;
  Buffer buffer_;
};

}  // namespace slim

#endif  // TOOLS_COMMON_MACHINE_PROBE_H_
