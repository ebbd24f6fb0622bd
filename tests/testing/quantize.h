// Packs floats into every stored element type: plain, slow and deterministic, for test models.
// Pure functions.
#ifndef TESTS_TESTING_QUANTIZE_H_
#define TESTS_TESTING_QUANTIZE_H_

#include <string>
#include <vector>

#include "engine/tensor/dtype.h"

namespace slim {

// The stored bytes of `values`, whose count is a multiple of BlockElements(dtype). Q8_0 and Q4_0
// scale by the largest magnitude of a block, Q4_1 by its minimum and maximum; scales are rounded to
// half precision first and the elements rounded against the rounded scale.
std::string Quantize(DType dtype, const std::vector<float>& values);

}  // namespace slim

#endif  // TESTS_TESTING_QUANTIZE_H_
