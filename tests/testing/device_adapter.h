// Runs the ops of a backend whose memory is elsewhere on host operands: everything the caller holds
// (activations, slabs) is float32 or bf16 slabs in host memory; each op uploads, runs, downloads.
// Activations cross in the backend's activation type, as the engine would hold them: hidden states,
// scores' queries and precise outputs in float32. Slow; for tests. Thread rule: as Backend.
#ifndef TESTS_TESTING_DEVICE_ADAPTER_H_
#define TESTS_TESTING_DEVICE_ADAPTER_H_

#include <memory>

#include "engine/backend/backend.h"

namespace slim {

std::unique_ptr<Backend> MakeDeviceAdapter(std::unique_ptr<Backend> device);

}  // namespace slim

#endif  // TESTS_TESTING_DEVICE_ADAPTER_H_
