// A GGUF file (versions 2 and 3, little-endian) as a TensorSource.
// Immutable after Open or Parse, hence thread-safe. Tensors and large arrays are not copied: they
// are read where they lie in the mapped file (see mapped_file.h for what truncating it would do).
//
// Scalars convert only where nothing can be lost: GetInt takes every integer type, GetFloat every
// integer and float type but refuses NaN and infinities (GetFloats passes them through).
#ifndef ENGINE_LOAD_GGUF_READER_H_
#define ENGINE_LOAD_GGUF_READER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/load/gguf_parser.h"
#include "engine/load/mapped_file.h"
#include "engine/load/tensor_source.h"

namespace slim {

class GgufReader final : public TensorSource {
 public:
  // Errors: those of MappedFile::Open and of ParseGguf, with the path in front.
  static absl::StatusOr<std::unique_ptr<GgufReader>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<GgufReader>> Create(std::unique_ptr<MappedFile> file);

  // As Open, from bytes in memory. Errors: those of ParseGguf.
  static absl::StatusOr<std::unique_ptr<GgufReader>> Parse(std::string contents);

  bool HasKey(absl::string_view key) const override;
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const override;
  absl::StatusOr<double> GetFloat(absl::string_view key) const override;
  absl::StatusOr<bool> GetBool(absl::string_view key) const override;
  absl::StatusOr<std::string> GetString(absl::string_view key) const override;
  absl::StatusOr<std::vector<std::string>> GetStrings(absl::string_view key) const override;
  absl::StatusOr<std::vector<int64_t>> GetInts(absl::string_view key) const override;
  absl::StatusOr<std::vector<double>> GetFloats(absl::string_view key) const override;

  bool HasTensor(absl::string_view name) const override;
  absl::StatusOr<HostTensor> GetTensor(absl::string_view name) const override;
  std::vector<std::string> TensorNames() const override;
  void ReleasePages(const HostTensor& tensor) const override;
  int64_t file_bytes() const override { return static_cast<int64_t>(bytes().size()); }

  // All keys in file order.
  std::vector<std::string> Keys() const;
  uint32_t version() const { return contents_.version; }
  uint32_t alignment_bytes() const { return contents_.alignment_bytes; }

 private:
  GgufReader(std::unique_ptr<MappedFile> file, std::string memory)
      : file_(std::move(file)), memory_(std::move(memory)) {}

  absl::string_view bytes() const { return file_ != nullptr ? file_->contents() : memory_; }
  absl::StatusOr<const GgufPair*> Find(absl::string_view key) const;
  absl::StatusOr<const GgufPair*> FindArray(absl::string_view key, absl::string_view wanted,
                                            bool (*accepts)(GgufType)) const;

  // Exactly one of the two holds the bytes.
  const std::unique_ptr<MappedFile> file_;
  const std::string memory_;
  GgufContents contents_;  // points into the bytes
};

}  // namespace slim

#endif  // ENGINE_LOAD_GGUF_READER_H_
