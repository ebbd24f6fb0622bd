// Reads little-endian values from a bounded piece of memory. Not thread-safe. Owns nothing.
// Every read checks the remaining length first; a read that does not fit returns false and moves
// nothing, so no count or length from a file is ever trusted.
#ifndef ENGINE_LOAD_BYTE_READER_H_
#define ENGINE_LOAD_BYTE_READER_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/strings/string_view.h"

namespace slim {

static_assert(std::endian::native == std::endian::little,
              "model files are little-endian and are read in place");

class ByteReader {
 public:
  explicit ByteReader(absl::string_view bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  [[nodiscard]] bool Read(T* value) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    if (remaining() < sizeof(T)) return false;
    std::memcpy(value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  // `count` comes as it is in the file: it may be any 64-bit number.
  [[nodiscard]] bool Skip(uint64_t count) {
    if (remaining() < count) return false;
    position_ += static_cast<size_t>(count);
    return true;
  }

  [[nodiscard]] bool ReadBytes(uint64_t count, absl::string_view* value) {
    if (remaining() < count) return false;
    *value = bytes_.substr(position_, static_cast<size_t>(count));
    position_ += static_cast<size_t>(count);
    return true;
  }

 private:
  const absl::string_view bytes_;
  size_t position_ = 0;
};

}  // namespace slim

#endif  // ENGINE_LOAD_BYTE_READER_H_
