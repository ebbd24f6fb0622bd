// The kernels for any processor. Compiled with flags of its own, see CMakeLists.txt.
#include <cstring>

#include "engine/backend/cpu/kernels.h"

namespace slim {
namespace portable {
namespace {

// The order matters: each part uses the ones before.
// clang-format off
#include "engine/backend/cpu/simd_portable.inc"
#include "engine/backend/cpu/kernels_rows.inc"
#include "engine/backend/cpu/kernels_finish.inc"
#include "engine/backend/cpu/gemm_int8_portable.inc"
#include "engine/backend/cpu/kernels_gemm.inc"
#include "engine/backend/cpu/kernels_attention.inc"
#include "engine/backend/cpu/attention_portable.inc"
#include "engine/backend/cpu/kernels_table.inc"
// clang-format on

}  // namespace
}  // namespace portable

const KernelTable kPortableKernels = portable::MakeTable("portable");

}  // namespace slim
