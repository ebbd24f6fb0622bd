#include "tests/bench/kernel_probes.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "engine/backend/cpu/workspace.h"

namespace slim {
namespace {

constexpr int kChains = 12;  // independent sums, enough to hide the latency

// Keeps the compiler from knowing the operands or dropping the sums.
#define SLIM_HIDE(constraint, value) __asm__ volatile("" : "+" constraint(value))

__attribute__((target("avx512f,avx512bw,avx512vnni"))) void Vnni(int64_t steps) {
  __m512i sum[kChains], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (auto& s : sum) s = _mm512_setzero_si512();
  for (int64_t i = 0; i < steps; ++i) {
    SLIM_HIDE("v", a);
    for (auto& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
  }
  for (auto& s : sum) SLIM_HIDE("v", s);
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) void Bf16(int64_t steps) {
  __m512 sum[kChains];
  __m512i a = _mm512_set1_epi32(0x3f803f80), b = a;
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
    SLIM_HIDE("v", a);
    for (auto& s : sum) s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)b);
  }
  for (auto& s : sum) SLIM_HIDE("v", s);
}

__attribute__((target("avx512f"))) void Fma512(int64_t steps) {
  __m512 sum[kChains], a = _mm512_set1_ps(1e-9f), b = a;
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
    SLIM_HIDE("v", a);
    for (auto& s : sum) s = _mm512_fmadd_ps(a, b, s);
  }
  for (auto& s : sum) SLIM_HIDE("v", s);
}

__attribute__((target("avx2,fma"))) void Fma256(int64_t steps) {
  __m256 sum[kChains], a = _mm256_set1_ps(1e-9f), b = a;
  for (auto& s : sum) s = _mm256_setzero_ps();
  for (int64_t i = 0; i < steps; ++i) {
    SLIM_HIDE("x", a);
    for (auto& s : sum) s = _mm256_fmadd_ps(a, b, s);
  }
  for (auto& s : sum) SLIM_HIDE("x", s);
}

__attribute__((target("avx2"))) void Maddubs(int64_t steps) {
  __m256i sum[kChains], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (auto& s : sum) s = _mm256_setzero_si256();
  for (int64_t i = 0; i < steps; ++i) {
    for (auto& s : sum) {
      SLIM_HIDE("x", a);
      s = _mm256_add_epi16(s, _mm256_maddubs_epi16(a, b));
    }
  }
  for (auto& s : sum) SLIM_HIDE("x", s);
}

__attribute__((target("avx2"))) void Read(const char* memory, int64_t begin, int64_t end) {
  __m256i sum[8];
  for (auto& s : sum) s = _mm256_setzero_si256();
  for (int64_t i = begin; i + 256 <= end; i += 256) {
    for (int j = 0; j < 8; ++j) {
      const auto* p = reinterpret_cast<const __m256i*>(memory + i + 32 * j);
      sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(p));
    }
  }
  for (auto& s : sum) SLIM_HIDE("x", s);
}

// Units per second of `work(part, parts)` run by all threads at once, best of seven.
template <typename Work>
double Best(ThreadPool& pool, double units, const Work& work) {
  double best = 0;
  for (int round = 0; round < 7; ++round) {
    const auto start = std::chrono::steady_clock::now();
    // Sixteen parts a thread, so that a thread that starts late costs little.
    const int64_t parts = 16 * pool.num_threads();
    pool.ParallelFor(parts, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) work(i, parts);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, units / seconds.count());
  }
  return best;
}

double Compute(ThreadPool& pool, void (*kernel)(int64_t), double ops_per_instruction) {
  const int64_t steps = 200000;
  const double ops = 16.0 * pool.num_threads() * steps * kChains * ops_per_instruction;
  return Best(pool, ops, [&](int64_t, int64_t) { kernel(steps); });
}

}  // namespace

MachinePeaks MeasurePeaks(CpuIsa isa, ThreadPool& pool) {
  MachinePeaks peaks;
  if (isa == CpuIsa::kPortable) return peaks;
  if (isa == CpuIsa::kAvx2) {
    peaks.int8_ops = Compute(pool, Maddubs, 64);
    peaks.fp32_ops = Compute(pool, Fma256, 16);
  } else {
    peaks.int8_ops = Compute(pool, Vnni, 128);
    peaks.fp32_ops = Compute(pool, Fma512, 32);
    if (isa == CpuIsa::kAvx512Bf16) peaks.bf16_ops = Compute(pool, Bf16, 64);
  }
  const int64_t bytes = int64_t{512} << 20;
  absl::StatusOr<Buffer> buffer = AllocateAligned(bytes);
  if (!buffer.ok()) return peaks;
  auto* memory = static_cast<char*>(buffer->data());
  std::memset(memory, 1, bytes);  // untouched pages would all be the one zero page
  peaks.read_bytes = Best(pool, static_cast<double>(bytes), [&](int64_t part, int64_t parts) {
    Read(memory, bytes * part / parts, bytes * (part + 1) / parts);
  });
  return peaks;
}

}  // namespace slim
