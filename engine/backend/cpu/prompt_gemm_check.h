// A quick look, when a backend is made, at a kernel that few processors can run: gives it the same
// products as one that is known to be right? Thread rule: pure function.
#ifndef ENGINE_BACKEND_CPU_PROMPT_GEMM_CHECK_H_
#define ENGINE_BACKEND_CPU_PROMPT_GEMM_CHECK_H_

#include "engine/backend/cpu/kernels.h"

namespace slim {

using PromptGemm = void (*)(const GemmArgs& args);

// Whether two kernels (KernelTable::gemm_prompt) give the same bits for 33 rows, two spans and two
// tiles of varied numbers. Takes some microseconds.
bool SamePromptProducts(PromptGemm one, PromptGemm other);

}  // namespace slim

#endif  // ENGINE_BACKEND_CPU_PROMPT_GEMM_CHECK_H_
