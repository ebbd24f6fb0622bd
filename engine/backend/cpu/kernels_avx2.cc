// The kernels for AVX2, FMA and F16C. Compiled with flags of its own, see CMakeLists.txt.
#include <immintrin.h>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace avx2 {
namespace {

// The order matters: each part uses the ones before.
// clang-format off
#include "engine/backend/cpu/simd_avx2.inc"
#include "engine/backend/cpu/kernels_rows.inc"
#include "engine/backend/cpu/kernels_finish.inc"
#include "engine/backend/cpu/gemm_int8_avx2.inc"
#include "engine/backend/cpu/kernels_gemm.inc"

// Queries that share the registers with the keys (scores) or the values, and vectors of these.
constexpr int kQueryRows = 6;
constexpr int kValueRows = 6;
constexpr int ValueVectors(int queries) { return queries > 3 ? 1 : 2; }

#include "engine/backend/cpu/kernels_attention.inc"
#include "engine/backend/cpu/attention_bytes_avx2.inc"
#include "engine/backend/cpu/attention_bytes.inc"
#define SLIM_BYTE_KV
#include "engine/backend/cpu/kernels_table.inc"
// clang-format on

}  // namespace
}  // namespace avx2

const KernelTable kAvx2Kernels = avx2::MakeTable("avx2");

}  // namespace slim
