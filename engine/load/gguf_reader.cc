#include "engine/load/gguf_reader.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/load/byte_reader.h"

namespace slim {
namespace {

std::string TypeText(const GgufPair& pair) {
  if (pair.type != GgufType::kArray) return std::string(GgufTypeName(pair.type));
  return absl::StrCat("ARRAY of ", GgufTypeName(pair.element_type));
}

absl::Status WrongType(const GgufPair& pair, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("key '", pair.key, "' has type ", TypeText(pair), ", wanted is ", wanted));
}

template <typename T>
T Load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// One element of a fixed-size type, as the widest type of its kind. False: beyond int64.
bool LoadInt(GgufType type, const char* bytes, int64_t* value) {
  switch (type) {
    case GgufType::kUint8:
      return *value = Load<uint8_t>(bytes), true;
    case GgufType::kInt8:
      return *value = Load<int8_t>(bytes), true;
    case GgufType::kUint16:
      return *value = Load<uint16_t>(bytes), true;
    case GgufType::kInt16:
      return *value = Load<int16_t>(bytes), true;
    case GgufType::kUint32:
      return *value = Load<uint32_t>(bytes), true;
    case GgufType::kInt32:
      return *value = Load<int32_t>(bytes), true;
    case GgufType::kInt64:
      return *value = Load<int64_t>(bytes), true;
    case GgufType::kUint64: {
      const auto wide = Load<uint64_t>(bytes);
      if (wide > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
      return *value = static_cast<int64_t>(wide), true;
    }
    default:
      return false;
  }
}

double LoadNumber(GgufType type, const char* bytes) {
  if (type == GgufType::kFloat32) return Load<float>(bytes);
  if (type == GgufType::kFloat64) return Load<double>(bytes);
  if (type == GgufType::kUint64) return static_cast<double>(Load<uint64_t>(bytes));
  int64_t value = 0;
  LoadInt(type, bytes, &value);
  return static_cast<double>(value);
}

absl::Status BeyondInt64(const GgufPair& pair) {
  return absl::InvalidArgumentError(absl::StrCat("key '", pair.key, "' has a value beyond 2^63-1"));
}

bool IsNumber(GgufType type) { return GgufTypeIsInteger(type) || GgufTypeIsFloat(type); }
bool IsString(GgufType type) { return type == GgufType::kString; }

absl::Status WithPath(const absl::Status& status, absl::string_view path) {
  return absl::Status(status.code(), absl::StrCat("file \"", absl::Utf8SafeCEscape(path),
                                                  "\": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Open(const std::string& path) {
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  return Create(std::move(file));
}

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Create(std::unique_ptr<MappedFile> file) {
  const std::string path = file->path();
  std::unique_ptr<GgufReader> reader(new GgufReader(std::move(file), std::string()));
  const absl::Status status = ParseGguf(reader->bytes(), &reader->contents_);
  if (!status.ok()) return WithPath(status, path);
  return reader;
}

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Parse(std::string contents) {
  std::unique_ptr<GgufReader> reader(new GgufReader(nullptr, std::move(contents)));
  SLIM_RETURN_IF_ERROR(ParseGguf(reader->bytes(), &reader->contents_));
  return reader;
}

absl::StatusOr<const GgufPair*> GgufReader::Find(absl::string_view key) const {
  const auto found = contents_.pair_index.find(key);
  if (found == contents_.pair_index.end()) {
    return absl::NotFoundError(absl::StrCat("the model file has no key '", key, "'"));
  }
  return &contents_.pairs[found->second];
}

absl::StatusOr<const GgufPair*> GgufReader::FindArray(absl::string_view key,
                                                      absl::string_view wanted,
                                                      bool (*accepts)(GgufType)) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, Find(key));
  if (pair->type != GgufType::kArray || !accepts(pair->element_type)) {
    return WrongType(*pair, wanted);
  }
  return pair;
}

bool GgufReader::HasKey(absl::string_view key) const { return contents_.pair_index.contains(key); }

absl::StatusOr<int64_t> GgufReader::GetInt(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, Find(key));
  if (!GgufTypeIsInteger(pair->type)) return WrongType(*pair, "an integer type");
  int64_t value = 0;
  if (!LoadInt(pair->type, pair->payload.data(), &value)) return BeyondInt64(*pair);
  return value;
}

absl::StatusOr<double> GgufReader::GetFloat(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, Find(key));
  if (!IsNumber(pair->type)) return WrongType(*pair, "a number type");
  const double value = LoadNumber(pair->type, pair->payload.data());
  if (!std::isfinite(value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("key '", pair->key, "' is ", value, ", wanted is a finite number"));
  }
  return value;
}

absl::StatusOr<bool> GgufReader::GetBool(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, Find(key));
  if (pair->type != GgufType::kBool) return WrongType(*pair, "BOOL");
  return pair->payload[0] != 0;
}

absl::StatusOr<std::string> GgufReader::GetString(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, Find(key));
  if (pair->type != GgufType::kString) return WrongType(*pair, "STRING");
  return std::string(pair->payload.substr(sizeof(uint64_t)));
}

absl::StatusOr<std::vector<std::string>> GgufReader::GetStrings(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, FindArray(key, "ARRAY of STRING", IsString));
  std::vector<std::string> values;
  values.reserve(pair->count);
  ByteReader reader(pair->payload);
  for (uint64_t i = 0; i < pair->count; ++i) {
    uint64_t length = 0;
    absl::string_view text;
    // Checked again: the file could have been written to since it was parsed.
    if (!reader.Read(&length) || !reader.ReadBytes(length, &text)) {
      return absl::InvalidArgumentError(
          absl::StrCat("key '", key, "' changed while the model file was open"));
    }
    values.emplace_back(text);
  }
  return values;
}

absl::StatusOr<std::vector<int64_t>> GgufReader::GetInts(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair,
                        FindArray(key, "ARRAY of an integer type", GgufTypeIsInteger));
  const size_t element_bytes = GgufTypeBytes(pair->element_type);
  std::vector<int64_t> values(pair->count);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!LoadInt(pair->element_type, pair->payload.data() + i * element_bytes, &values[i])) {
      return BeyondInt64(*pair);
    }
  }
  return values;
}

absl::StatusOr<std::vector<double>> GgufReader::GetFloats(absl::string_view key) const {
  SLIM_ASSIGN_OR_RETURN(const GgufPair* pair, FindArray(key, "ARRAY of a number type", IsNumber));
  const size_t element_bytes = GgufTypeBytes(pair->element_type);
  std::vector<double> values(pair->count);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = LoadNumber(pair->element_type, pair->payload.data() + i * element_bytes);
  }
  return values;
}

bool GgufReader::HasTensor(absl::string_view name) const {
  return contents_.tensor_index.contains(name);
}

absl::StatusOr<HostTensor> GgufReader::GetTensor(absl::string_view name) const {
  const auto found = contents_.tensor_index.find(name);
  if (found == contents_.tensor_index.end()) {
    return absl::NotFoundError(absl::StrCat("the model file has no tensor '", name, "'"));
  }
  const GgufTensor& tensor = contents_.tensors[found->second];
  HostTensor view;
  view.name = std::string(tensor.name);
  view.dtype = tensor.dtype;
  view.rows = tensor.rows;
  view.cols = tensor.cols;
  view.data = tensor.data.data();
  return view;
}

std::vector<std::string> GgufReader::TensorNames() const {
  std::vector<std::string> names;
  names.reserve(contents_.tensors.size());
  for (const GgufTensor& tensor : contents_.tensors) names.emplace_back(tensor.name);
  return names;
}

void GgufReader::ReleasePages(const HostTensor& tensor) const {
  if (file_ != nullptr) file_->ReleasePages(tensor.data, static_cast<size_t>(tensor.bytes()));
}

std::vector<std::string> GgufReader::Keys() const {
  std::vector<std::string> keys;
  keys.reserve(contents_.pairs.size());
  for (const GgufPair& pair : contents_.pairs) keys.emplace_back(pair.key);
  return keys;
}

}  // namespace slim
