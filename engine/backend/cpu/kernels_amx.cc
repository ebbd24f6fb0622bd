// The one kernel for AMX: products of prompt rows. Compiled with flags of its own, see
// CMakeLists.txt.
#include <immintrin.h>

#include "engine/backend/cpu/kernels.h"

// gcc 12 believes that only the first eight bytes of the configuration are read, hence the first
// statement, which says that all are.
#define SLIM_TILE_CONFIGURE(config)       \
  do {                                    \
    __asm__ volatile("" : : "m"(config)); \
    _tile_loadconfig(&(config));          \
  } while (false)
#define SLIM_TILE_RELEASE() _tile_release()
#define SLIM_TILE_ZERO(t) _tile_zero(t)
#define SLIM_TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define SLIM_TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define SLIM_TILE_DOT(sums, inputs, weights) _tile_dpbusd(sums, inputs, weights)

namespace slim {
namespace {

// The order matters: each part uses the ones before.
// clang-format off
#include "engine/backend/cpu/simd_avx512.inc"
#include "engine/backend/cpu/kernels_rows.inc"
#include "engine/backend/cpu/kernels_finish.inc"
#include "engine/backend/cpu/gemm_prompt_amx.inc"
// clang-format on

}  // namespace

void GemmPromptAmx(const GemmArgs& args) { GemmPromptTiles(args); }

}  // namespace slim
