// Every backend this machine can run: the plain one, the CPU backend per instruction set, CUDA.
#ifndef TESTS_TESTING_BACKENDS_H_
#define TESTS_TESTING_BACKENDS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.h"

namespace slim {

struct BackendFactory {
  std::string name;    // letters, digits and underscores
  bool exact = false;  // float weights and float KV: rounding is the only difference to theory
  std::function<std::unique_ptr<Backend>()> make;
  // What a row gives depends on no other row of its call, bit for bit.
  bool batch_invariant = true;
  std::string missing;  // why it cannot be made here; empty: it can
};

// Those that work in host memory.
std::vector<BackendFactory> AllBackends();

// And CUDA, with `missing` set where there is no module or no GPU.
std::vector<BackendFactory> EngineBackends();

}  // namespace slim

#endif  // TESTS_TESTING_BACKENDS_H_
