// How much memory this process may still take. Thread-safe.
#ifndef ENGINE_BASE_AVAILABLE_MEMORY_H_
#define ENGINE_BASE_AVAILABLE_MEMORY_H_

#include <cstdint>

namespace slim {

// The smaller of what the machine has free and what the cgroup leaves. 1 GiB when neither can be
// read.
int64_t AvailableMemoryBytes();

}  // namespace slim

#endif  // ENGINE_BASE_AVAILABLE_MEMORY_H_
