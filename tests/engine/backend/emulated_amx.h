// The AMX kernel over tile registers in plain memory, for machines without AMX.
#ifndef TESTS_ENGINE_BACKEND_EMULATED_AMX_H_
#define TESTS_ENGINE_BACKEND_EMULATED_AMX_H_

#include "engine/backend/cpu/kernels.h"

namespace slim {

// GemmPromptAmx with emulated tiles; needs AVX-512. Returns what a processor would have refused (a
// tile used without or against its configuration), null when all was right.
const char* GemmPromptEmulatedAmx(const GemmArgs& args);

}  // namespace slim

#endif  // TESTS_ENGINE_BACKEND_EMULATED_AMX_H_
