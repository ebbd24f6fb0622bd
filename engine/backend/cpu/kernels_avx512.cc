// The kernels for AVX-512 with VNNI. Compiled with flags of its own, see CMakeLists.txt.
#include <immintrin.h>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace avx512 {
namespace {

// The order matters: each part uses the ones before.
// clang-format off
#include "engine/backend/cpu/simd_avx512.inc"
#include "engine/backend/cpu/kernels_rows.inc"
#include "engine/backend/cpu/kernels_finish.inc"
#include "engine/backend/cpu/gemm_int8_avx512.inc"
#include "engine/backend/cpu/kernels_gemm.inc"
#include "engine/backend/cpu/gemm_prompt_avx512.inc"

// Queries that share the registers with the keys (scores) or the values, and vectors of these.
constexpr int kQueryRows = 12;
constexpr int kValueRows = 6;
constexpr int ValueVectors(int /*queries*/) { return 4; }

#include "engine/backend/cpu/kernels_attention.inc"
#include "engine/backend/cpu/attention_bytes_avx512.inc"
#include "engine/backend/cpu/attention_bytes.inc"
#define SLIM_PROMPT_ROWS
#define SLIM_BYTE_KV
#include "engine/backend/cpu/kernels_table.inc"
// clang-format on

}  // namespace
}  // namespace avx512

const KernelTable kAvx512Kernels = avx512::MakeTable("avx512vnni");

}  // namespace slim
