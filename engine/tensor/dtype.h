// Element types of tensors, as GGUF and safetensors files name them. Quantised types store blocks
// of 32 elements along the innermost axis.
#ifndef ENGINE_TENSOR_DTYPE_H_
#define ENGINE_TENSOR_DTYPE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace slim {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,  // block of 32: f16 scale d, 32 x int8;            w = d * q
  kQ4_0,  // block of 32: f16 scale d, 16 bytes of nibbles;  w = d * (q - 8)
  kQ4_1,  // block of 32: f16 scale d, f16 min m, 16 bytes;  w = d * q + m
};

// Elements that share one stored block: 1 for plain types, 32 for quantised ones.
constexpr int64_t BlockElements(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return 1;
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ4_1:
      return 32;
  }
  return 1;
}

// Bytes of one stored block.
constexpr int64_t BlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_0:
      return 18;
    case DType::kQ4_1:
      return 20;
  }
  return 0;
}

constexpr absl::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kQ8_0:
      return "Q8_0";
    case DType::kQ4_0:
      return "Q4_0";
    case DType::kQ4_1:
      return "Q4_1";
  }
  return "?";
}

}  // namespace slim

#endif  // ENGINE_TENSOR_DTYPE_H_
