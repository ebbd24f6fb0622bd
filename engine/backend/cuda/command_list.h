// Launches that are put off until a step is complete: function and arguments as 64-bit words, in
// order. The words are also the identity of what would be launched: two lists with equal words put
// the same work on a stream, to the last pointer and grid size. No CUDA here.
// Thread rule: one thread.
#ifndef ENGINE_BACKEND_CUDA_COMMAND_LIST_H_
#define ENGINE_BACKEND_CUDA_COMMAND_LIST_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/status_macros.h"

namespace slim::cuda {

class CommandList {
 public:
  // Launches with the arguments that Add was given, in the same order; see Take.
  using Launch = absl::Status (*)(const uint64_t* words, void* stream);

  // Arguments are values without padding, since padding has no defined content: numbers, pointers,
  // structs of these. What pointers point to is not copied.
  template <typename... Args>
  void Add(Launch launch, const Args&... args) {
    words_.push_back(reinterpret_cast<uint64_t>(launch));
    words_.push_back((WordsOf<Args>() + ... + 0));
    (Append(args), ...);
    ++size_;
  }

  // Reads one argument and moves on.
  template <typename T>
  static T Take(const uint64_t** words) {
    T value;
    std::memcpy(static_cast<void*>(&value), *words, sizeof(T));
    *words += WordsOf<T>();
    return value;
  }
  // All of them.
  template <typename... Args>
  static std::tuple<Args...> TakeAll(const uint64_t* words) {
    return std::tuple<Args...>{Take<Args>(&words)...};  // braces: from left to right
  }

  // Launches everything on `stream`; stops at the first failure.
  absl::Status Run(void* stream) const {
    for (size_t at = 0; at < words_.size(); at += 2 + words_[at + 1]) {
      const auto launch = reinterpret_cast<Launch>(words_[at]);
      SLIM_RETURN_IF_ERROR(launch(&words_[at + 2], stream));
    }
    return absl::OkStatus();
  }

  void Clear() {
    words_.clear();
    size_ = 0;
  }
  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  const std::vector<uint64_t>& words() const { return words_; }

 private:
  template <typename T>
  static constexpr size_t WordsOf() {
    static_assert(std::is_trivially_copyable_v<T>);
    static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);
    return (sizeof(T) + sizeof(uint64_t) - 1) / sizeof(uint64_t);
  }
  template <typename T>
  void Append(const T& value) {
    const size_t at = words_.size();
    words_.resize(at + WordsOf<T>(), 0);
    std::memcpy(&words_[at], &value, sizeof(T));
  }

  std::vector<uint64_t> words_;  // per launch: function, number of argument words, these words
  size_t size_ = 0;
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_COMMAND_LIST_H_
