// Reads everything an opened model offers, the way a caller would: what was accepted must be
// consistent. Shared by the damage tests and the fuzz target.
#ifndef TESTS_ENGINE_LOAD_EXERCISE_H_
#define TESTS_ENGINE_LOAD_EXERCISE_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/base/check.h"
#include "engine/load/gguf_reader.h"
#include "engine/tensor/dequantize.h"

namespace slim {

// Aborts when the reader contradicts itself; the sanitizers watch the reads. Returns a number that
// depends on all that was read, so that nothing is optimised away.
inline uint64_t ExerciseReader(const GgufReader& reader) {
  uint64_t sum = reader.alignment_bytes();
  for (const std::string& key : reader.Keys()) {
    SLIM_CHECK(reader.HasKey(key));
    int readable = 0;
    if (const auto value = reader.GetInt(key); value.ok()) ++readable, sum += *value;
    if (const auto value = reader.GetFloat(key); value.ok()) ++readable, sum += *value > 0;
    if (const auto value = reader.GetBool(key); value.ok()) ++readable, sum += *value;
    if (const auto value = reader.GetString(key); value.ok()) ++readable, sum += value->size();
    if (const auto value = reader.GetStrings(key); value.ok()) ++readable, sum += value->size();
    if (const auto value = reader.GetInts(key); value.ok()) ++readable, sum += value->size();
    if (const auto value = reader.GetFloats(key); value.ok()) ++readable, sum += value->size();
    SLIM_CHECK(readable <= 2);  // a number answers to both kinds, anything else to one
    sum += static_cast<uint64_t>(readable);
  }
  int64_t tensor_bytes = 0;
  std::vector<float> row;
  for (const std::string& name : reader.TensorNames()) {
    SLIM_CHECK(reader.HasTensor(name));
    const auto tensor = reader.GetTensor(name);
    SLIM_CHECK(tensor.ok() && tensor->name == name);
    SLIM_CHECK(tensor->rows >= 1 && tensor->cols >= 1);
    SLIM_CHECK(tensor->cols % BlockElements(tensor->dtype) == 0);
    tensor_bytes += tensor->bytes();
    SLIM_CHECK(tensor_bytes <= reader.file_bytes());
    // The first and the last row touch both ends of the range.
    row.resize(static_cast<size_t>(tensor->cols));
    for (const int64_t index : {int64_t{0}, tensor->rows - 1}) {
      DequantizeRow(*tensor, index, row.data());
      uint32_t bits;
      std::memcpy(&bits, &row.back(), sizeof(bits));
      sum += bits;
    }
    reader.ReleasePages(*tensor);
  }
  return sum;
}

}  // namespace slim

#endif  // TESTS_ENGINE_LOAD_EXERCISE_H_
