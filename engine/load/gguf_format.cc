#include "engine/load/gguf_format.h"

namespace slim {
namespace {

struct NumberedTensorType {
  uint32_t number;
  GgufTensorType type;
};

constexpr NumberedTensorType kTensorTypes[] = {
    {0, {"F32", 1, 4, DType::kF32}},
    {1, {"F16", 1, 2, DType::kF16}},
    {2, {"Q4_0", 32, 18, DType::kQ4_0}},
    {3, {"Q4_1", 32, 20, DType::kQ4_1}},
    {4, {"Q4_2 (withdrawn)"}},
    {5, {"Q4_3 (withdrawn)"}},
    {6, {"Q5_0", 32, 22}},
    {7, {"Q5_1", 32, 24}},
    {8, {"Q8_0", 32, 34, DType::kQ8_0}},
    {9, {"Q8_1", 32, 36}},
    {10, {"Q2_K", 256, 84}},
    {11, {"Q3_K", 256, 110}},
    {12, {"Q4_K", 256, 144}},
    {13, {"Q5_K", 256, 176}},
    {14, {"Q6_K", 256, 210}},
    {15, {"Q8_K", 256, 292}},
    {16, {"IQ2_XXS", 256, 66}},
    {17, {"IQ2_XS", 256, 74}},
    {18, {"IQ3_XXS", 256, 98}},
    {19, {"IQ1_S", 256, 50}},
    {20, {"IQ4_NL", 32, 18}},
    {21, {"IQ3_S", 256, 110}},
    {22, {"IQ2_S", 256, 82}},
    {23, {"IQ4_XS", 256, 136}},
    {24, {"I8", 1, 1}},
    {25, {"I16", 1, 2}},
    {26, {"I32", 1, 4}},
    {27, {"I64", 1, 8}},
    {28, {"F64", 1, 8}},
    {29, {"IQ1_M", 256, 56}},
    {30, {"BF16", 1, 2, DType::kBF16}},
    {31, {"Q4_0_4_4 (withdrawn)"}},
    {32, {"Q4_0_4_8 (withdrawn)"}},
    {33, {"Q4_0_8_8 (withdrawn)"}},
    {34, {"TQ1_0", 256, 54}},
    {35, {"TQ2_0", 256, 66}},
    {36, {"IQ4_NL_4_4 (withdrawn)"}},
    {37, {"IQ4_NL_4_8 (withdrawn)"}},
    {38, {"IQ4_NL_8_8 (withdrawn)"}},
    {39, {"MXFP4", 32, 17}},
    {40, {"NVFP4"}},
    {41, {"Q1_0"}},
    {42, {"Q2_0"}},
};

constexpr bool SupportedTypesAgreeWithDType() {
  for (const NumberedTensorType& entry : kTensorTypes) {
    if (!entry.type.dtype.has_value()) continue;
    if (BlockElements(*entry.type.dtype) != entry.type.block_elements) return false;
    if (BlockBytes(*entry.type.dtype) != entry.type.block_bytes) return false;
  }
  return true;
}
static_assert(SupportedTypesAgreeWithDType());

constexpr absl::string_view kTypeNames[kGgufTypeCount] = {
    "UINT8", "INT8",   "UINT16", "INT16",  "UINT32", "INT32",  "FLOAT32",
    "BOOL",  "STRING", "ARRAY",  "UINT64", "INT64",  "FLOAT64"};
constexpr size_t kTypeBytes[kGgufTypeCount] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

}  // namespace

absl::string_view GgufTypeName(GgufType type) {
  const auto number = static_cast<uint32_t>(type);
  return number < kGgufTypeCount ? kTypeNames[number] : "?";
}

size_t GgufTypeBytes(GgufType type) {
  const auto number = static_cast<uint32_t>(type);
  return number < kGgufTypeCount ? kTypeBytes[number] : 0;
}

bool GgufTypeIsInteger(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kUint16:
    case GgufType::kInt16:
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kUint64:
    case GgufType::kInt64:
      return true;
    default:
      return false;
  }
}

bool GgufTypeIsFloat(GgufType type) {
  return type == GgufType::kFloat32 || type == GgufType::kFloat64;
}

const GgufTensorType* FindGgufTensorType(uint32_t number) {
  for (const NumberedTensorType& entry : kTensorTypes) {
    if (entry.number == number) return &entry.type;
  }
  return nullptr;
}

}  // namespace slim
