// Writes GGUF files for tests, sound or broken: it checks nothing, and whatever the format stores
// can be set to any value. Not thread-safe.
//
//   GgufWriter writer;
//   writer.AddString("general.architecture", "llama");
//   writer.AddTensor("token_embd.weight", {64, 320}, DType::kF32, bytes);
//   std::string file = writer.Finish();
#ifndef TESTS_TESTING_GGUF_WRITER_H_
#define TESTS_TESTING_GGUF_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/load/gguf_format.h"
#include "engine/tensor/dtype.h"

namespace slim {

// Appends the little-endian bytes of a number.
template <typename T>
void AppendNumber(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Appends a string with its 64-bit length in front.
void AppendGgufString(absl::string_view text, std::string* out);

// The number of a computable tensor type in the file.
uint32_t GgufNumber(DType dtype);

class GgufWriter {
 public:
  // Metadata pairs, in the order of the calls.
  void AddUint32(absl::string_view key, uint32_t value);
  void AddInt32(absl::string_view key, int32_t value);
  void AddUint64(absl::string_view key, uint64_t value);
  void AddFloat32(absl::string_view key, float value);
  void AddBool(absl::string_view key, bool value);
  void AddString(absl::string_view key, absl::string_view value);
  void AddStrings(absl::string_view key, const std::vector<std::string>& values);
  void AddInts(absl::string_view key, const std::vector<int32_t>& values);
  void AddFloats(absl::string_view key, const std::vector<float>& values);
  // Any type number and any bytes after it; counts as one pair.
  void AddRaw(absl::string_view key, uint32_t type, absl::string_view value_bytes);
  // Bytes as they are after the pairs so far; counts as no pair.
  void AddMetadataBytes(absl::string_view bytes) { pairs_.append(bytes.data(), bytes.size()); }

  // A tensor with its data, placed at the next aligned offset. `dims` innermost first.
  void AddTensor(absl::string_view name, const std::vector<uint64_t>& dims, DType dtype,
                 absl::string_view data);
  // A row of the tensor table with any content and no data.
  void AddTensorInfo(absl::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                     uint64_t offset);
  // The same with a dimension count that need not agree.
  void AddTensorInfo(absl::string_view name, uint32_t num_dims, const std::vector<uint64_t>& dims,
                     uint32_t type, uint64_t offset);
  // Bytes at the end of the tensor data.
  void AppendData(absl::string_view bytes) { data_.append(bytes.data(), bytes.size()); }

  // Header fields other than the true ones.
  void set_magic(absl::string_view magic) { magic_ = std::string(magic); }
  void set_version(uint32_t version) { version_ = version; }
  void set_num_pairs(uint64_t count) { forced_num_pairs_ = count; }
  void set_num_tensors(uint64_t count) { forced_num_tensors_ = count; }
  // How this writer aligns; does not write general.alignment.
  void set_alignment_bytes(uint32_t bytes) { alignment_bytes_ = bytes; }

  // The whole file. The writer may be used further.
  std::string Finish() const;
  // Bytes before the tensor data, padding included.
  size_t HeaderBytes() const;

 private:
  std::string Directory() const;

  std::string magic_ = std::string(kGgufMagic);
  uint32_t version_ = 3;
  uint32_t alignment_bytes_ = kGgufDefaultAlignment;
  std::optional<uint64_t> forced_num_pairs_;
  std::optional<uint64_t> forced_num_tensors_;
  uint64_t num_pairs_ = 0;
  uint64_t num_tensors_ = 0;
  std::string pairs_;
  std::string infos_;
  std::string data_;
};

// Writes `contents` to a file `name` in the temporary directory, and returns its path. The file is
// deleted when the process ends. Aborts when it cannot be written. Only from one thread.
std::string WriteTempFile(absl::string_view name, absl::string_view contents);

}  // namespace slim

#endif  // TESTS_TESTING_GGUF_WRITER_H_
