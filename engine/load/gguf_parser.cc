#include "engine/load/gguf_parser.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/load/byte_reader.h"

namespace slim {
namespace {

// Names from the file go into messages and from there into logs: escaped, and not too long.
std::string Shown(absl::string_view text) {
  constexpr size_t kMaxShownBytes = 80;
  if (text.size() <= kMaxShownBytes) return absl::StrCat("'", absl::CHexEscape(text), "'");
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kMaxShownBytes)), "...'");
}

bool IsPrintableAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// A tensor's row of the table before its data range is known to be good.
struct TensorInfo {
  GgufTensor tensor;
  const GgufTensorType* type = nullptr;
  uint64_t offset = 0;  // from the start of the data section
  uint64_t bytes = 0;   // 0 when the type's block size is not known
};

class Parser {
 public:
  Parser(absl::string_view file, GgufContents* contents)
      : file_(file), reader_(file.substr(0, kGgufMaxMetadataBytes)), contents_(*contents) {}

  absl::Status Run() {
    uint64_t num_tensors = 0;
    uint64_t num_pairs = 0;
    SLIM_RETURN_IF_ERROR(ReadHeader(&num_tensors, &num_pairs));
    contents_.pairs.reserve(num_pairs);
    contents_.pair_index.reserve(num_pairs);
    for (uint64_t i = 0; i < num_pairs; ++i) SLIM_RETURN_IF_ERROR(ReadPair());
    SLIM_RETURN_IF_ERROR(ReadAlignment());
    // Asked again: the pairs have used up bytes since the header was read.
    SLIM_RETURN_IF_ERROR(
        CheckCount("tensors", num_tensors, kGgufMaxTensors, kGgufMinTensorInfoBytes));
    infos_.reserve(num_tensors);
    contents_.tensor_index.reserve(num_tensors);
    for (uint64_t i = 0; i < num_tensors; ++i) SLIM_RETURN_IF_ERROR(ReadTensorInfo());
    SLIM_RETURN_IF_ERROR(CheckPlacement());
    return FinishTensors();
  }

 private:
  // The error for a read that did not fit.
  absl::Status Truncated(absl::string_view what, uint64_t wanted_bytes) const {
    if (file_.size() > kGgufMaxMetadataBytes) {
      return Invalid(what, " at byte ", reader_.position(), " needs ", wanted_bytes,
                     " bytes: the metadata region must end within ", kGgufMaxMetadataBytes,
                     " bytes");
    }
    return Invalid("truncated: ", what, " at byte ", reader_.position(), " needs ", wanted_bytes,
                   " bytes, the file has ", reader_.remaining(), " left");
  }

  absl::Status CheckCount(absl::string_view what, uint64_t count, uint64_t max,
                          uint64_t min_bytes_each) const {
    if (count > max) return Invalid("number of ", what, " is ", count, ", allowed are 0..", max);
    if (count > reader_.remaining() / min_bytes_each) {
      return Invalid("truncated: ", count, " ", what, " cannot fit the ", reader_.remaining(),
                     " bytes left at byte ", reader_.position());
    }
    return absl::OkStatus();
  }

  absl::Status ReadHeader(uint64_t* num_tensors, uint64_t* num_pairs) {
    absl::string_view magic;
    if (!reader_.ReadBytes(kGgufMagic.size(), &magic)) return Truncated("magic", kGgufMagic.size());
    if (magic != kGgufMagic) {
      return Invalid("not a GGUF file: it begins with ", Shown(magic), ", not with 'GGUF'");
    }
    if (!reader_.Read(&contents_.version)) return Truncated("version", sizeof(uint32_t));
    if (contents_.version == 0) return Invalid("GGUF version 0, supported are 2 and 3");
    if ((contents_.version & 0xffff) == 0) {
      return absl::UnimplementedError("big-endian GGUF file, only little-endian is supported");
    }
    if (contents_.version != 2 && contents_.version != 3) {
      return absl::UnimplementedError(
          absl::StrCat("GGUF version ", contents_.version, ", supported are 2 and 3"));
    }
    if (!reader_.Read(num_tensors)) return Truncated("number of tensors", sizeof(uint64_t));
    if (!reader_.Read(num_pairs)) return Truncated("number of metadata pairs", sizeof(uint64_t));
    SLIM_RETURN_IF_ERROR(
        CheckCount("metadata pairs", *num_pairs, kGgufMaxPairs, kGgufMinPairBytes));
    return CheckCount("tensors", *num_tensors, kGgufMaxTensors, kGgufMinTensorInfoBytes);
  }

  // A length-prefixed string. `what` is rendered only for an error.
  template <typename What>
  absl::Status ReadString(const What& what, uint64_t max_bytes, absl::string_view* value) {
    uint64_t length = 0;
    if (!reader_.Read(&length)) return Truncated(absl::StrCat("length of ", what()), 8);
    if (length > max_bytes) {
      return Invalid(what(), " has ", length, " bytes, allowed are at most ", max_bytes);
    }
    if (!reader_.ReadBytes(length, value)) return Truncated(what(), length);
    return absl::OkStatus();
  }

  absl::Status ReadPair() {
    GgufPair pair;
    const size_t number = contents_.pairs.size();
    SLIM_RETURN_IF_ERROR(
        ReadString([&] { return absl::StrCat("key ", number); }, kGgufMaxKeyBytes, &pair.key));
    if (pair.key.empty()) return Invalid("key ", number, " is empty");
    if (!IsPrintableAscii(pair.key)) {
      return Invalid("key ", Shown(pair.key), " has bytes that are not printable ASCII");
    }
    uint32_t type = 0;
    const std::string shown = Shown(pair.key);
    if (!reader_.Read(&type)) return Truncated(absl::StrCat("type of key ", shown), 4);
    if (type >= kGgufTypeCount) return Invalid("key ", shown, " has unknown value type ", type);
    pair.type = pair.element_type = static_cast<GgufType>(type);
    pair.count = 1;
    if (pair.type == GgufType::kArray) {
      SLIM_RETURN_IF_ERROR(ReadArrayHeader(shown, &pair));
    }
    SLIM_RETURN_IF_ERROR(ReadElements(shown, &pair));
    const auto index = static_cast<uint32_t>(contents_.pairs.size());
    if (!contents_.pair_index.emplace(pair.key, index).second) {
      return Invalid("key ", shown, " appears twice");
    }
    contents_.pairs.push_back(pair);
    return absl::OkStatus();
  }

  absl::Status ReadArrayHeader(absl::string_view shown, GgufPair* pair) {
    uint32_t type = 0;
    if (!reader_.Read(&type)) return Truncated(absl::StrCat("array type of key ", shown), 4);
    if (type >= kGgufTypeCount) {
      return Invalid("key ", shown, " has an array of unknown type ", type);
    }
    pair->element_type = static_cast<GgufType>(type);
    if (pair->element_type == GgufType::kArray) {
      return Invalid("key ", shown, " has an array of arrays, allowed are plain arrays only");
    }
    if (!reader_.Read(&pair->count)) return Truncated(absl::StrCat("array of key ", shown), 8);
    if (pair->count > kGgufMaxArrayElements) {
      return Invalid("key ", shown, " has an array of ", pair->count,
                     " elements, allowed are at most ", kGgufMaxArrayElements);
    }
    return absl::OkStatus();
  }

  // Walks over the elements, checks them, and keeps only where they lie.
  absl::Status ReadElements(absl::string_view shown, GgufPair* pair) {
    const size_t begin = reader_.position();
    if (pair->element_type == GgufType::kString) {
      for (uint64_t i = 0; i < pair->count; ++i) {
        absl::string_view text;
        SLIM_RETURN_IF_ERROR(
            ReadString([&] { return absl::StrCat("string ", i, " of key ", shown); },
                       kGgufMaxStringBytes, &text));
      }
    } else {
      // Cannot overflow: at most 2^24 elements of 8 bytes.
      const uint64_t bytes = pair->count * GgufTypeBytes(pair->element_type);
      if (!reader_.Skip(bytes)) return Truncated(absl::StrCat("value of key ", shown), bytes);
    }
    pair->payload = file_.substr(begin, reader_.position() - begin);
    if (pair->element_type == GgufType::kBool) {
      for (const char value : pair->payload) {
        if (value != 0 && value != 1) {
          return Invalid("key ", shown, " has the boolean ", static_cast<uint8_t>(value),
                         ", allowed are 0 and 1");
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadAlignment() {
    const auto found = contents_.pair_index.find("general.alignment");
    if (found == contents_.pair_index.end()) return absl::OkStatus();
    const GgufPair& pair = contents_.pairs[found->second];
    if (pair.type != GgufType::kUint32) {
      return Invalid("general.alignment has type ", GgufTypeName(pair.type), ", wanted is UINT32");
    }
    uint32_t alignment = 0;
    std::memcpy(&alignment, pair.payload.data(), sizeof(alignment));
    const bool power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
    if (!power_of_two || alignment < kGgufMinAlignment || alignment > kGgufMaxAlignment) {
      return Invalid("general.alignment is ", alignment, ", allowed are powers of two in ",
                     kGgufMinAlignment, "..", kGgufMaxAlignment);
    }
    contents_.alignment_bytes = alignment;
    return absl::OkStatus();
  }

  absl::Status ReadTensorInfo() {
    TensorInfo info;
    const size_t number = infos_.size();
    SLIM_RETURN_IF_ERROR(ReadString([&] { return absl::StrCat("name of tensor ", number); },
                                    kGgufMaxTensorNameBytes, &info.tensor.name));
    if (info.tensor.name.empty()) return Invalid("name of tensor ", number, " is empty");
    const std::string shown = Shown(info.tensor.name);
    if (!IsPrintableAscii(info.tensor.name)) {
      return Invalid("tensor name ", shown, " has bytes that are not printable ASCII");
    }
    if (!contents_.tensor_index.emplace(info.tensor.name, static_cast<uint32_t>(number)).second) {
      return Invalid("tensor name ", shown, " appears twice");
    }
    SLIM_RETURN_IF_ERROR(ReadShape(shown, &info));
    uint32_t type = 0;
    if (!reader_.Read(&type)) return Truncated(absl::StrCat("type of tensor ", shown), 4);
    info.type = FindGgufTensorType(type);
    if (info.type == nullptr) return Invalid("tensor ", shown, " has unknown type ", type);
    if (info.type->dtype.has_value()) info.tensor.dtype = *info.type->dtype;
    if (!reader_.Read(&info.offset)) return Truncated(absl::StrCat("offset of tensor ", shown), 8);
    if (info.offset % contents_.alignment_bytes != 0) {
      return Invalid("tensor ", shown, " has offset ", info.offset, ", wanted is a multiple of ",
                     contents_.alignment_bytes);
    }
    SLIM_RETURN_IF_ERROR(ComputeBytes(shown, &info));
    infos_.push_back(info);
    return absl::OkStatus();
  }

  // Dimensions come innermost first: the first is the length of a row, the rest fold into rows.
  absl::Status ReadShape(absl::string_view shown, TensorInfo* info) {
    uint32_t num_dims = 0;
    if (!reader_.Read(&num_dims)) return Truncated(absl::StrCat("shape of tensor ", shown), 4);
    if (num_dims < 1 || num_dims > kGgufMaxDims) {
      return Invalid("tensor ", shown, " has ", num_dims, " dimensions, allowed are 1..",
                     kGgufMaxDims);
    }
    info->tensor.rows = 1;
    for (uint32_t i = 0; i < num_dims; ++i) {
      uint64_t dim = 0;
      if (!reader_.Read(&dim)) return Truncated(absl::StrCat("shape of tensor ", shown), 8);
      if (dim < 1 || dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Invalid("tensor ", shown, " has dimension ", dim, ", allowed are 1..2^63-1");
      }
      if (i == 0) {
        info->tensor.cols = static_cast<int64_t>(dim);
      } else if (__builtin_mul_overflow(info->tensor.rows, static_cast<int64_t>(dim),
                                        &info->tensor.rows)) {
        return Invalid("tensor ", shown, " has a number of elements beyond 2^63-1");
      }
    }
    int64_t elements = 0;
    if (__builtin_mul_overflow(info->tensor.rows, info->tensor.cols, &elements)) {
      return Invalid("tensor ", shown, " has a number of elements beyond 2^63-1");
    }
    return absl::OkStatus();
  }

  static absl::Status ComputeBytes(absl::string_view shown, TensorInfo* info) {
    const GgufTensorType& type = *info->type;
    if (type.block_elements == 0) return absl::OkStatus();
    if (info->tensor.cols % type.block_elements != 0) {
      return Invalid("tensor ", shown, " of type ", type.name, " has rows of ", info->tensor.cols,
                     " elements, wanted is a multiple of ", type.block_elements);
    }
    int64_t row_bytes = 0;
    int64_t bytes = 0;
    if (__builtin_mul_overflow(info->tensor.cols / type.block_elements,
                               static_cast<int64_t>(type.block_bytes), &row_bytes) ||
        __builtin_mul_overflow(row_bytes, info->tensor.rows, &bytes)) {
      return Invalid("tensor ", shown, " has a size beyond 2^63-1 bytes");
    }
    info->bytes = static_cast<uint64_t>(bytes);
    return absl::OkStatus();
  }

  // Every tensor inside the file, and no two of them sharing a byte.
  absl::Status CheckPlacement() {
    if (infos_.empty()) return absl::OkStatus();
    // Cannot overflow: the position is at most kGgufMaxMetadataBytes.
    const size_t alignment = contents_.alignment_bytes;
    const size_t data_begin = (reader_.position() + alignment - 1) / alignment * alignment;
    if (data_begin > file_.size()) {
      return Invalid("truncated: the tensor data begins at byte ", data_begin,
                     ", the file ends at byte ", file_.size());
    }
    const absl::string_view data = file_.substr(data_begin);
    std::vector<const TensorInfo*> by_offset;
    by_offset.reserve(infos_.size());
    for (TensorInfo& info : infos_) {
      if (info.offset > data.size() || info.bytes > data.size() - info.offset) {
        return Invalid("truncated: tensor ", Shown(info.tensor.name), " has offset ", info.offset,
                       " and ", info.bytes, " bytes, the tensor data of the file has ",
                       data.size());
      }
      info.tensor.data = data.substr(info.offset, info.bytes);
      by_offset.push_back(&info);
    }
    std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) {
      return a->offset != b->offset ? a->offset < b->offset : a < b;
    });
    for (size_t i = 1; i < by_offset.size(); ++i) {
      const TensorInfo& before = *by_offset[i - 1];
      const TensorInfo& after = *by_offset[i];
      // Each lies in the file, so the sum does not overflow.
      if (before.offset == after.offset || before.offset + before.bytes > after.offset) {
        return Invalid("tensors ", Shown(before.tensor.name), " and ", Shown(after.tensor.name),
                       " overlap");
      }
    }
    return absl::OkStatus();
  }

  // Last, so that a damaged file is called damaged and only a sound one unsupported.
  absl::Status FinishTensors() {
    contents_.tensors.reserve(infos_.size());
    for (const TensorInfo& info : infos_) {
      if (!info.type->dtype.has_value()) {
        return absl::UnimplementedError(
            absl::StrCat("tensor ", Shown(info.tensor.name), " has type ", info.type->name,
                         ", supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1"));
      }
      contents_.tensors.push_back(info.tensor);
    }
    return absl::OkStatus();
  }

  const absl::string_view file_;
  ByteReader reader_;
  GgufContents& contents_;
  std::vector<TensorInfo> infos_;
};

}  // namespace

absl::Status ParseGguf(absl::string_view file, GgufContents* contents) {
  *contents = GgufContents();
  return Parser(file, contents).Run();
}

}  // namespace slim
