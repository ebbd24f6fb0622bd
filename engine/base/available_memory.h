// How much memory this process may still take. Thread-safe.
#ifndef ENGINE_BASE_AVAILABLE_MEMORY_H_
#define ENGINE_BASE_AVAILABLE_MEMORY_H_

#include <cstdint>
#include <string>

namespace slim {

// The smallest of what the machine has free and what the process's cgroup and those above it leave
// (version 1 or 2; cached file pages, a mapped model's for example, count as free). 1 GiB when none
// can be read. `root` is where proc and sys are, for tests.
int64_t AvailableMemoryBytes(const std::string& root = "");

}  // namespace slim

#endif  // ENGINE_BASE_AVAILABLE_MEMORY_H_
