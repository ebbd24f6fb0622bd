// The GGUF container as numbers: value types, tensor types, and the limits we accept.
// Constants and pure functions only.
#ifndef ENGINE_LOAD_GGUF_FORMAT_H_
#define ENGINE_LOAD_GGUF_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "engine/tensor/dtype.h"

namespace slim {

inline constexpr absl::string_view kGgufMagic = "GGUF";
inline constexpr uint32_t kGgufDefaultAlignment = 32;

// What a file may ask of us. Larger than any real model needs, small enough to bound the work.
inline constexpr uint64_t kGgufMaxPairs = 65'536;
inline constexpr uint64_t kGgufMaxTensors = 65'536;
inline constexpr uint64_t kGgufMaxKeyBytes = 1'024;
inline constexpr uint64_t kGgufMaxTensorNameBytes = 64;
inline constexpr uint64_t kGgufMaxStringBytes = uint64_t{16} << 20;
inline constexpr uint64_t kGgufMaxArrayElements = uint64_t{1} << 24;
inline constexpr uint64_t kGgufMaxMetadataBytes = uint64_t{256} << 20;
inline constexpr uint32_t kGgufMaxDims = 4;
inline constexpr uint32_t kGgufMinAlignment = 8;
inline constexpr uint32_t kGgufMaxAlignment = 65'536;

// Smallest possible encodings, to compare a count with the bytes left before allocating for it.
inline constexpr uint64_t kGgufMinPairBytes = 8 + 1 + 4 + 1;
inline constexpr uint64_t kGgufMinTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Types of metadata values; the numbers are those of the file.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
inline constexpr uint32_t kGgufTypeCount = 13;

// "UINT32", "ARRAY", ...; "?" for a number that is no type.
absl::string_view GgufTypeName(GgufType type);

// Bytes of one value of a fixed-size type; 0 for strings and arrays.
size_t GgufTypeBytes(GgufType type);

bool GgufTypeIsInteger(GgufType type);
bool GgufTypeIsFloat(GgufType type);

// What a tensor type number in a file means.
struct GgufTensorType {
  absl::string_view name;        // as the format's own tools print it, e.g. "Q4_K"
  int32_t block_elements = 0;    // 0: a type whose block size this table does not know
  int32_t block_bytes = 0;       // 0 likewise
  std::optional<DType> dtype{};  // set for the types we can compute with
};

// Null for a number the format has never assigned.
const GgufTensorType* FindGgufTensorType(uint32_t number);

}  // namespace slim

#endif  // ENGINE_LOAD_GGUF_FORMAT_H_
