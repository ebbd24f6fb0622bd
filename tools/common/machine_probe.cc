#include "tools/common/machine_probe.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "absl/strings/string_view.h"
#include "engine/backend/cpu/cpu_features.h"
#include "engine/backend/cpu/thread_pool.h"
#include "engine/backend/cpu/workspace.h"
#include "engine/base/status_macros.h"
#endif

namespace slim {

#if defined(__x86_64__)
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

// Needs DetectCpuFeatures().amx. An instruction takes so much longer than the others' that a
// sixteenth of the steps will do.
__attribute__((target("avx512f,amx-tile,amx-int8"))) void Amx(int64_t steps) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  SLIM_HIDE("m", config);     // gcc 12 believes that only its first eight bytes are read
  _tile_loadconfig(&config);  // makes all tiles zero
  static_assert(kChains % 6 == 0);
  for (int64_t i = 0; i < steps / 16; ++i) {
    for (int j = 0; j < kChains; j += 6) {
      _tile_dpbusd(0, 6, 7);
      _tile_dpbusd(1, 6, 7);
      _tile_dpbusd(2, 6, 7);
      _tile_dpbusd(3, 6, 7);
      _tile_dpbusd(4, 6, 7);
      _tile_dpbusd(5, 6, 7);
    }
  }
  _tile_release();
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

// Reads `bytes` from `streams` places at a time, which are equally far apart.
template <int streams>
__attribute__((target("avx2"))) void Read(const char* memory, int64_t bytes) {
  constexpr int kStep = 256 / streams;
  __m256i sum[8];
  for (auto& s : sum) s = _mm256_setzero_si256();
  const int64_t stream_bytes = bytes / streams;
  for (int64_t i = 0; i + kStep <= stream_bytes; i += kStep) {
    for (int j = 0; j < 8; ++j) {
      const int64_t at = (32 * j / kStep) * stream_bytes + i + 32 * j % kStep;
      const auto* p = reinterpret_cast<const __m256i*>(memory + at);
      sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(p));
    }
  }
  for (auto& s : sum) SLIM_HIDE("x", s);
}

using ComputeKernel = void (*)(int64_t steps);

// The kernel that shows the peak and the operations of one of its instructions.
struct ComputeProbe {
  ComputeKernel kernel = nullptr;
  double ops_per_instruction = 0;
};

ComputeProbe FindComputeProbe(absl::string_view isa, Arithmetic arithmetic) {
  const bool avx2 = isa == CpuIsaName(CpuIsa::kAvx2);
  const bool amx = isa == CpuIsaName(CpuIsa::kAmx);
  const bool bf16 = amx || isa == CpuIsaName(CpuIsa::kAvx512Bf16);
  if (!avx2 && !bf16 && isa != CpuIsaName(CpuIsa::kAvx512)) return {};
  switch (arithmetic) {
    case Arithmetic::kInt8:
      if (amx) return ComputeProbe{Amx, 2.0 * 16 * 16 * 64 / 16};
      return avx2 ? ComputeProbe{Maddubs, 64} : ComputeProbe{Vnni, 128};
    case Arithmetic::kBf16:
      return bf16 ? ComputeProbe{Bf16, 64} : ComputeProbe{};
    case Arithmetic::kFp32:
      return avx2 ? ComputeProbe{Fma256, 16} : ComputeProbe{Fma512, 32};
  }
  return {};
}

// Sixteen parts a thread, so that a thread that starts late costs little.
int64_t Parts(int num_threads) { return int64_t{16} * num_threads; }

// Units per second of work(part), 0 <= part < Parts, run by all threads at once, best of `rounds`.
// The pool lives for one probe only: one that was kept could have decided to run alone for a while.
template <typename Work>
absl::StatusOr<double> Best(int num_threads, int rounds, double units, const Work& work) {
  ThreadPool::Options options;
  options.num_threads = num_threads;
  SLIM_ASSIGN_OR_RETURN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Create(options));
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    pool->ParallelFor(Parts(num_threads), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t part = begin; part < end; ++part) work(part);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, units / seconds.count());
  }
  return best;
}

}  // namespace

absl::StatusOr<double> MachineProbe::PeakOps(Arithmetic arithmetic) const {
  const ComputeProbe probe = FindComputeProbe(isa_, arithmetic);
  if (probe.kernel == nullptr) return 0.0;
  const int64_t steps = 200000;
  const double ops = static_cast<double>(Parts(num_threads_) * steps * kChains);
  return Best(num_threads_, 7, ops * probe.ops_per_instruction,
              [&](int64_t) { probe.kernel(steps); });
}

absl::StatusOr<double> MachineProbe::ReadBandwidth() {
  if (FindComputeProbe(isa_, Arithmetic::kInt8).kernel == nullptr) return 0.0;
  const int64_t bytes = std::max<int64_t>(256, int64_t{16} * num_threads_) << 20;
  const int64_t part_bytes = bytes / Parts(num_threads_);
  const auto part_at = [&](int64_t part) {
    return static_cast<char*>(buffer_.data()) + part * part_bytes;
  };
  if (buffer_.data() == nullptr) {
    SLIM_ASSIGN_OR_RETURN(buffer_, AllocateAligned(bytes));
    // Untouched pages would all be the one zero page.
    const auto touch = [&](int64_t part) { std::memset(part_at(part), 1, part_bytes); };
    SLIM_RETURN_IF_ERROR(Best(num_threads_, 1, 0, touch).status());
  }
  const auto units = static_cast<double>(part_bytes * Parts(num_threads_));
  double best = 0;
  // Which pattern the memory likes best differs from machine to machine.
  for (const auto read : {Read<1>, Read<2>, Read<4>}) {
    SLIM_ASSIGN_OR_RETURN(const double rate, Best(num_threads_, 6, units, [&](int64_t part) {
                            read(part_at(part), part_bytes);
                          }));
    best = std::max(best, rate);
  }
  return best;
}

#else  // no kernels but the portable ones, no probes

absl::StatusOr<double> MachineProbe::PeakOps(Arithmetic) const { return 0.0; }
absl::StatusOr<double> MachineProbe::ReadBandwidth() { return 0.0; }

#endif

std::string ArithmeticName(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kInt8:
      return "int8";
    case Arithmetic::kBf16:
      return "bf16";
    case Arithmetic::kFp32:
      return "fp32";
  }
  return "?";
}

}  // namespace slim
