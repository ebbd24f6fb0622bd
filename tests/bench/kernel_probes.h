// What this machine can do at best, measured: the peaks that kernel figures are compared with.
// Each returns operations (a multiply and an add are two) or bytes per second over all threads of
// the pool, the best of a few rounds; 0 where the processor lacks the instruction.
#ifndef TESTS_BENCH_KERNEL_PROBES_H_
#define TESTS_BENCH_KERNEL_PROBES_H_

#include "engine/backend/cpu/cpu_features.h"
#include "engine/backend/cpu/thread_pool.h"

namespace slim {

struct MachinePeaks {
  double int8_ops = 0;  // VNNI; AVX2: maddubs with 16-bit sums, as 4-bit weights allow
  double bf16_ops = 0;  // pairwise bf16 dot products
  double fp32_ops = 0;  // fused multiply-adds of the instruction set's vectors
  double read_bytes = 0;
};

MachinePeaks MeasurePeaks(CpuIsa isa, ThreadPool& pool);

}  // namespace slim

#endif  // TESTS_BENCH_KERNEL_PROBES_H_
