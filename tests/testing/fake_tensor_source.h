// A TensorSource of metadata that a test fills in; it has no tensors. Copyable, not thread-safe
// while it is being filled.
#ifndef TESTS_TESTING_FAKE_TENSOR_SOURCE_H_
#define TESTS_TESTING_FAKE_TENSOR_SOURCE_H_

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/load/tensor_source.h"

namespace slim {

class FakeTensorSource : public TensorSource {
 public:
  using Value = std::variant<int64_t, double, bool, std::string, std::vector<std::string>,
                             std::vector<int64_t>, std::vector<double>>;

  void Set(const std::string& key, Value value) { values_[key] = std::move(value); }
  void Remove(const std::string& key) { values_.erase(key); }
  // The value of a key that is there and has this type, for changing it.
  template <typename T>
  T& Mutable(const std::string& key) {
    return std::get<T>(values_.at(key));
  }

  bool HasKey(absl::string_view key) const override { return values_.count(std::string(key)) > 0; }
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const override { return Get<int64_t>(key); }
  absl::StatusOr<double> GetFloat(absl::string_view key) const override { return Get<double>(key); }
  absl::StatusOr<bool> GetBool(absl::string_view key) const override { return Get<bool>(key); }
  absl::StatusOr<std::string> GetString(absl::string_view key) const override {
    return Get<std::string>(key);
  }
  absl::StatusOr<std::vector<std::string>> GetStrings(absl::string_view key) const override {
    return Get<std::vector<std::string>>(key);
  }
  absl::StatusOr<std::vector<int64_t>> GetInts(absl::string_view key) const override {
    return Get<std::vector<int64_t>>(key);
  }
  absl::StatusOr<std::vector<double>> GetFloats(absl::string_view key) const override {
    return Get<std::vector<double>>(key);
  }

  bool HasTensor(absl::string_view) const override { return false; }
  absl::StatusOr<HostTensor> GetTensor(absl::string_view name) const override {
    return absl::NotFoundError(absl::StrCat("tensor ", name));
  }
  std::vector<std::string> TensorNames() const override { return {}; }
  void ReleasePages(const HostTensor&) const override {}
  int64_t file_bytes() const override { return 0; }

 private:
  template <typename T>
  absl::StatusOr<T> Get(absl::string_view key) const {
    const auto found = values_.find(std::string(key));
    if (found == values_.end()) return absl::NotFoundError(absl::StrCat("metadata key ", key));
    const T* value = std::get_if<T>(&found->second);
    if (value == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("metadata key ", key, " has another type"));
    }
    return *value;
  }

  std::map<std::string, Value> values_;
};

}  // namespace slim

#endif  // TESTS_TESTING_FAKE_TENSOR_SOURCE_H_
