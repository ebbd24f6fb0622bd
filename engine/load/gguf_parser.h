// Parses and checks the directory of a GGUF file: header, key/value pairs, tensor table.
// A pure function over bytes in memory; nothing large is copied, the result points into the bytes.
#ifndef ENGINE_LOAD_GGUF_PARSER_H_
#define ENGINE_LOAD_GGUF_PARSER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/load/gguf_format.h"
#include "engine/tensor/dtype.h"

namespace slim {

// Where a metadata value lies. Scalars and strings have count 1; element_type equals type for them.
struct GgufPair {
  absl::string_view key;
  GgufType type = GgufType::kUint8;
  GgufType element_type = GgufType::kUint8;
  uint64_t count = 0;
  absl::string_view payload;  // the encoded elements, strings with their length prefixes
};

struct GgufTensor {
  absl::string_view name;
  DType dtype = DType::kF32;
  int64_t rows = 0;  // product of all dimensions but the innermost
  int64_t cols = 0;
  absl::string_view data;
};

// All views point into the bytes given to ParseGguf.
struct GgufContents {
  uint32_t version = 0;
  uint32_t alignment_bytes = kGgufDefaultAlignment;
  std::vector<GgufPair> pairs;                                    // in file order
  std::vector<GgufTensor> tensors;                                // in file order
  absl::flat_hash_map<absl::string_view, uint32_t> pair_index;    // by key
  absl::flat_hash_map<absl::string_view, uint32_t> tensor_index;  // by name
};

// Accepts GGUF 2 and 3, little-endian. `file` is the whole file; tensor ranges are checked against
// its length. INVALID_ARGUMENT: damaged or beyond a limit of gguf_format.h. UNIMPLEMENTED: another
// version or byte order, or an otherwise sound file with a tensor type we cannot compute with; the
// message names the tensor and the type. `contents` is unspecified after an error.
absl::Status ParseGguf(absl::string_view file, GgufContents* contents);

}  // namespace slim

#endif  // ENGINE_LOAD_GGUF_PARSER_H_
