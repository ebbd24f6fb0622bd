#include "engine/load/open_model.h"

#include <sys/stat.h>

#include <cstdint>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/load/byte_reader.h"
#include "engine/load/gguf_reader.h"
#include "engine/load/mapped_file.h"

namespace slim {
namespace {

absl::Status Unsupported(absl::string_view path, absl::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat("\"", absl::Utf8SafeCEscape(path), "\" is ", what,
                   "; supported is a single GGUF file (version 2 or 3,"
                   " tensors of type F32, F16, BF16, Q8_0, Q4_0, Q4_1)"));
}

// The format has no magic: a header length that fits the file, then a JSON object.
bool LooksLikeSafetensors(absl::string_view contents) {
  ByteReader reader(contents);
  uint64_t header_bytes = 0;
  absl::string_view header;
  return reader.Read(&header_bytes) && reader.ReadBytes(header_bytes, &header) &&
         absl::StartsWith(header, "{");
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorSource>> OpenModel(const std::string& path) {
  struct stat info;
  if (path.find('\0') == std::string::npos && ::stat(path.c_str(), &info) == 0 &&
      S_ISDIR(info.st_mode)) {
    return Unsupported(path, "a directory");
  }
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const absl::string_view contents = file->contents();
  if (!absl::StartsWith(contents, kGgufMagic) &&
      (absl::EndsWith(path, ".safetensors") || LooksLikeSafetensors(contents))) {
    return Unsupported(path, "a safetensors file");
  }
  SLIM_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, GgufReader::Create(std::move(file)));
  return source;
}

}  // namespace slim
