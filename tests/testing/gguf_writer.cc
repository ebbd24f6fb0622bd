#include "tests/testing/gguf_writer.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace slim {
namespace {

void PadTo(size_t alignment_bytes, std::string* out) {
  while (out->size() % alignment_bytes != 0) out->push_back('\0');
}

uint32_t Number(GgufType type) { return static_cast<uint32_t>(type); }

template <typename T>
std::string Bytes(T value) {
  std::string out;
  AppendNumber(value, &out);
  return out;
}

std::string ArrayHeader(GgufType element_type, size_t count) {
  return Bytes(Number(element_type)) + Bytes(static_cast<uint64_t>(count));
}

// Deletes the files of a test binary when it ends.
class TempFiles {
 public:
  ~TempFiles() {
    for (const std::string& path : paths_) ::unlink(path.c_str());
  }
  void Add(const std::string& path) { paths_.insert(path); }

 private:
  std::set<std::string> paths_;
};

}  // namespace

void AppendGgufString(absl::string_view text, std::string* out) {
  AppendNumber(static_cast<uint64_t>(text.size()), out);
  out->append(text.data(), text.size());
}

uint32_t GgufNumber(DType dtype) {
  for (uint32_t number = 0; number < 64; ++number) {
    const GgufTensorType* type = FindGgufTensorType(number);
    if (type != nullptr && type->dtype == dtype) return number;
  }
  SLIM_CHECK(false);
  return 0;
}

void GgufWriter::AddRaw(absl::string_view key, uint32_t type, absl::string_view value_bytes) {
  AppendGgufString(key, &pairs_);
  AppendNumber(type, &pairs_);
  pairs_.append(value_bytes.data(), value_bytes.size());
  ++num_pairs_;
}

void GgufWriter::AddUint32(absl::string_view key, uint32_t value) {
  AddRaw(key, Number(GgufType::kUint32), Bytes(value));
}

void GgufWriter::AddInt32(absl::string_view key, int32_t value) {
  AddRaw(key, Number(GgufType::kInt32), Bytes(value));
}

void GgufWriter::AddUint64(absl::string_view key, uint64_t value) {
  AddRaw(key, Number(GgufType::kUint64), Bytes(value));
}

void GgufWriter::AddFloat32(absl::string_view key, float value) {
  AddRaw(key, Number(GgufType::kFloat32), Bytes(value));
}

void GgufWriter::AddBool(absl::string_view key, bool value) {
  AddRaw(key, Number(GgufType::kBool), Bytes(static_cast<uint8_t>(value ? 1 : 0)));
}

void GgufWriter::AddString(absl::string_view key, absl::string_view value) {
  std::string bytes;
  AppendGgufString(value, &bytes);
  AddRaw(key, Number(GgufType::kString), bytes);
}

void GgufWriter::AddStrings(absl::string_view key, const std::vector<std::string>& values) {
  std::string bytes = ArrayHeader(GgufType::kString, values.size());
  for (const std::string& value : values) AppendGgufString(value, &bytes);
  AddRaw(key, Number(GgufType::kArray), bytes);
}

void GgufWriter::AddInts(absl::string_view key, const std::vector<int32_t>& values) {
  std::string bytes = ArrayHeader(GgufType::kInt32, values.size());
  for (const int32_t value : values) AppendNumber(value, &bytes);
  AddRaw(key, Number(GgufType::kArray), bytes);
}

void GgufWriter::AddFloats(absl::string_view key, const std::vector<float>& values) {
  std::string bytes = ArrayHeader(GgufType::kFloat32, values.size());
  for (const float value : values) AppendNumber(value, &bytes);
  AddRaw(key, Number(GgufType::kArray), bytes);
}

void GgufWriter::AddTensor(absl::string_view name, const std::vector<uint64_t>& dims, DType dtype,
                           absl::string_view data) {
  PadTo(alignment_bytes_, &data_);
  AddTensorInfo(name, dims, GgufNumber(dtype), data_.size());
  AppendData(data);
}

void GgufWriter::AddTensorInfo(absl::string_view name, const std::vector<uint64_t>& dims,
                               uint32_t type, uint64_t offset) {
  AddTensorInfo(name, static_cast<uint32_t>(dims.size()), dims, type, offset);
}

void GgufWriter::AddTensorInfo(absl::string_view name, uint32_t num_dims,
                               const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  AppendGgufString(name, &infos_);
  AppendNumber(num_dims, &infos_);
  for (const uint64_t dim : dims) AppendNumber(dim, &infos_);
  AppendNumber(type, &infos_);
  AppendNumber(offset, &infos_);
  ++num_tensors_;
}

std::string GgufWriter::Directory() const {
  std::string out = magic_;
  AppendNumber(version_, &out);
  AppendNumber(forced_num_tensors_.value_or(num_tensors_), &out);
  AppendNumber(forced_num_pairs_.value_or(num_pairs_), &out);
  out += pairs_;
  out += infos_;
  if (num_tensors_ > 0) PadTo(alignment_bytes_, &out);
  return out;
}

std::string GgufWriter::Finish() const { return Directory() + data_; }

size_t GgufWriter::HeaderBytes() const { return Directory().size(); }

std::string WriteTempFile(absl::string_view name, absl::string_view contents) {
  const char* directory = std::getenv("TMPDIR");
  // The process number keeps test binaries that run at the same time apart.
  const std::string path =
      absl::StrCat(directory != nullptr ? directory : "/tmp", "/slim_test_", ::getpid(), "_", name);
  static TempFiles temp_files;
  temp_files.Add(path);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  file.close();
  SLIM_CHECK(file.good());
  return path;
}

}  // namespace slim
