// A model on disk, whatever its format: metadata by key and tensors by name.
// Immutable after it was opened, hence thread-safe. Views stay valid as long as the source lives.
#ifndef ENGINE_LOAD_TENSOR_SOURCE_H_
#define ENGINE_LOAD_TENSOR_SOURCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor_view.h"

namespace slim {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // Metadata. NOT_FOUND names a missing key; INVALID_ARGUMENT names key, type seen, type wanted.
  // GetInt accepts every integer type of the file that fits int64; GetFloat every number.
  virtual bool HasKey(absl::string_view key) const = 0;
  virtual absl::StatusOr<int64_t> GetInt(absl::string_view key) const = 0;
  virtual absl::StatusOr<double> GetFloat(absl::string_view key) const = 0;
  virtual absl::StatusOr<bool> GetBool(absl::string_view key) const = 0;
  virtual absl::StatusOr<std::string> GetString(absl::string_view key) const = 0;
  virtual absl::StatusOr<std::vector<std::string>> GetStrings(absl::string_view key) const = 0;
  virtual absl::StatusOr<std::vector<int64_t>> GetInts(absl::string_view key) const = 0;
  virtual absl::StatusOr<std::vector<double>> GetFloats(absl::string_view key) const = 0;

  // Tensors. NOT_FOUND names a missing tensor.
  virtual bool HasTensor(absl::string_view name) const = 0;
  virtual absl::StatusOr<HostTensor> GetTensor(absl::string_view name) const = 0;
  virtual std::vector<std::string> TensorNames() const = 0;

  // Tells the source that the pages behind `tensor` are not needed for now; a mapped file gives
  // them back to the kernel. The view stays valid (reading it again faults the pages back in).
  virtual void ReleasePages(const HostTensor& tensor) const = 0;

  // Total bytes of the files behind this source.
  virtual int64_t file_bytes() const = 0;
};

}  // namespace slim

#endif  // ENGINE_LOAD_TENSOR_SOURCE_H_
