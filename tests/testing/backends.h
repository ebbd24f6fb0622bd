// Every backend this machine can run: the plain one, and the CPU backend per instruction set.
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
};

std::vector<BackendFactory> AllBackends();

}  // namespace slim

#endif  // TESTS_TESTING_BACKENDS_H_
