// Hand-made broken files: each is refused with one expected code and text, from memory and from a
// mapped file alike, quickly and without a large allocation (the sweep test measures those).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/load/gguf_reader.h"
#include "tests/testing/gguf_writer.h"

namespace slim {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kF16 = 1;
constexpr uint32_t kQ4_1 = 3;
constexpr uint32_t kQ4_K = 12;

constexpr uint32_t kUint8Type = 0;
constexpr uint32_t kBoolType = 7;
constexpr uint32_t kStringType = 8;
constexpr uint32_t kArrayType = 9;
constexpr uint32_t kUint64Type = 10;

struct DamageCase {
  std::string name;
  std::function<void(GgufWriter&)> make;
  absl::StatusCode code;
  std::string text;
};

template <typename T>
std::string Bytes(T value) {
  std::string out;
  AppendNumber(value, &out);
  return out;
}

std::string Array(uint32_t element_type, uint64_t count, absl::string_view elements = "") {
  return absl::StrCat(Bytes(element_type), Bytes(count), elements);
}

// A pair whose key has the given length field, whatever follows.
std::string PairWithKeyLength(uint64_t length, absl::string_view rest) {
  return absl::StrCat(Bytes(length), rest);
}

std::vector<DamageCase> HeaderCases() {
  const auto pairs = [](uint64_t n) { return [n](GgufWriter& w) { w.set_num_pairs(n); }; };
  const auto tensors = [](uint64_t n) { return [n](GgufWriter& w) { w.set_num_tensors(n); }; };
  const auto version = [](uint32_t n) { return [n](GgufWriter& w) { w.set_version(n); }; };
  const auto magic = [](const char* m) { return [m](GgufWriter& w) { w.set_magic(m); }; };
  return {
      {"magic of an old format", magic("GGJT"), kInvalid, "not a GGUF file: it begins with 'GGJT'"},
      {"magic in lower case", magic("gguf"), kInvalid, "not a GGUF file"},
      {"magic reversed", magic("FUGG"), kInvalid, "not a GGUF file"},
      {"magic with control bytes", magic("\x1b[0m"), kInvalid, "begins with '\\x1b[0m'"},
      {"version 0", version(0), kInvalid, "GGUF version 0"},
      {"version 1", version(1), kUnimplemented, "GGUF version 1, supported are 2 and 3"},
      {"version 4", version(4), kUnimplemented, "GGUF version 4"},
      {"version 2^32-1", version(0xffffffffu), kUnimplemented, "GGUF version 4294967295"},
      {"big-endian version 3", version(0x03000000u), kUnimplemented, "big-endian"},
      {"big-endian version 2", version(0x02000000u), kUnimplemented, "big-endian"},
      {"one pair too many", pairs(1), kInvalid, "1 metadata pairs cannot fit"},
      {"pairs 65536 in an empty file", pairs(65536), kInvalid, "65536 metadata pairs cannot fit"},
      {"pairs above the limit", pairs(65537), kInvalid, "is 65537, allowed are 0..65536"},
      {"pairs 2^32", pairs(uint64_t{1} << 32), kInvalid, "is 4294967296, allowed are 0..65536"},
      {"pairs 2^63", pairs(uint64_t{1} << 63), kInvalid, "is 9223372036854775808"},
      {"pairs 2^64-1", pairs(kMax64), kInvalid, "is 18446744073709551615"},
      {"one tensor too many", tensors(1), kInvalid, "1 tensors cannot fit"},
      {"tensors 65536 in an empty file", tensors(65536), kInvalid, "65536 tensors cannot fit"},
      {"tensors above the limit", tensors(65537), kInvalid, "number of tensors is 65537"},
      {"tensors 2^63", tensors(uint64_t{1} << 63), kInvalid, "number of tensors is 922337203"},
      {"tensors 2^64-1", tensors(kMax64), kInvalid, "number of tensors is 1844674407370955161"},
      {"tensors whose table size wraps", tensors(kMax64 / 33 + 1), kInvalid,
       "number of tensors is"},
  };
}

std::vector<DamageCase> KeyCases() {
  const auto key_length = [](uint64_t length, size_t rest_bytes) {
    return [length, rest_bytes](GgufWriter& w) {
      w.AddMetadataBytes(PairWithKeyLength(length, std::string(rest_bytes, 'k')));
      w.set_num_pairs(1);
    };
  };
  const auto key = [](std::string text) { return [text](GgufWriter& w) { w.AddUint32(text, 1); }; };
  return {
      {"empty key", key(""), kInvalid, "key 0 is empty"},
      {"key of 1025 bytes", key(std::string(1025, 'k')), kInvalid, "key 0 has 1025 bytes"},
      {"key length 2^64-1", key_length(kMax64, 20), kInvalid, "key 0 has 18446744073709551615"},
      {"key length 2^63", key_length(uint64_t{1} << 63, 20), kInvalid, "key 0 has 922337203"},
      {"key longer than the file", key_length(100, 20), kInvalid,
       "truncated: key 0 at byte 32 needs 100 bytes, the file has 20 left"},
      {"key with a NUL", key(std::string("a\0b", 3)), kInvalid, "key 'a\\x00\\x62' has bytes"},
      {"key with an escape", key("a\x1b[31m"), kInvalid, "not printable ASCII"},
      {"key with a line end", key("a\r\nb"), kInvalid, "not printable ASCII"},
      {"key that is not ASCII", key("cl\xc3\xa9"), kInvalid, "not printable ASCII"},
      {"file ends after a key", key_length(18, 18), kInvalid, "truncated: type of key"},
      {"same key twice",
       [](GgufWriter& w) {
         w.AddUint32("a", 1);
         w.AddUint32("a", 1);
       },
       kInvalid, "key 'a' appears twice"},
      {"same key twice with other types",
       [](GgufWriter& w) {
         w.AddUint32("a", 1);
         w.AddString("a", "");
       },
       kInvalid, "key 'a' appears twice"},
  };
}

std::vector<DamageCase> ValueCases() {
  const auto raw = [](uint32_t type, std::string bytes) {
    return [type, bytes](GgufWriter& w) { w.AddRaw("k", type, bytes); };
  };
  const auto two = [](std::string bytes) {
    // Enough bytes for the pair to look possible.
    return [bytes](GgufWriter& w) { w.AddRaw("key.of.some.length", kArrayType, bytes); };
  };
  return {
      {"value type 13", raw(13, Bytes(uint64_t{0})), kInvalid, "key 'k' has unknown value type 13"},
      {"value type 2^32-1", raw(0xffffffffu, Bytes(uint64_t{0})), kInvalid, "type 4294967295"},
      {"boolean 2", raw(kBoolType, "\x02"), kInvalid, "boolean 2, allowed are 0 and 1"},
      {"boolean 255 in an array", raw(kArrayType, Array(kBoolType, 2, "\x01\xff")), kInvalid,
       "boolean 255"},
      {"number cut short", raw(kUint64Type, "1234"), kInvalid,
       "truncated: value of key 'k' at byte 37 needs 8 bytes, the file has 4 left"},
      {"string length 2^64-1", raw(kStringType, Bytes(kMax64)), kInvalid,
       "string 0 of key 'k' has 18446744073709551615 bytes"},
      {"string length 2^64-1 inside an array",
       raw(kArrayType, Array(kStringType, 1, Bytes(kMax64))), kInvalid,
       "string 0 of key 'k' has 18"},
      {"string above 16 MiB", raw(kStringType, Bytes((uint64_t{16} << 20) + 1)), kInvalid,
       "has 16777217 bytes, allowed are at most 16777216"},
      {"string of 16 MiB not in the file", raw(kStringType, Bytes(uint64_t{16} << 20)), kInvalid,
       "truncated: string 0 of key 'k'"},
      {"string one byte short", raw(kStringType, Bytes(uint64_t{4}) + "abc"), kInvalid,
       "needs 4 bytes, the file has 3 left"},
      {"length of a string cut short", raw(kStringType, "1234567"), kInvalid,
       "truncated: length of string 0"},
      {"array of arrays", raw(kArrayType, Array(kArrayType, 1, Array(kUint8Type, 1, "x"))),
       kInvalid, "has an array of arrays"},
      {"empty array of arrays", raw(kArrayType, Array(kArrayType, 0)), kInvalid, "array of arrays"},
      {"array of unknown type", raw(kArrayType, Array(13, 0)), kInvalid,
       "array of unknown type 13"},
      {"array of 2^24+1", raw(kArrayType, Array(kUint8Type, (1u << 24) + 1)), kInvalid,
       "array of 16777217 elements, allowed are at most 16777216"},
      {"array of 2^24 not in the file", raw(kArrayType, Array(kUint64Type, 1u << 24)), kInvalid,
       "needs 134217728 bytes"},
      {"array of 2^24 strings not in the file", raw(kArrayType, Array(kStringType, 1u << 24)),
       kInvalid, "truncated: length of string 0"},
      {"array of 2^64-1", two(Array(kUint8Type, kMax64)), kInvalid, "array of 184467440737095516"},
      {"array whose byte count wraps to 0", two(Array(kUint64Type, uint64_t{1} << 61)), kInvalid,
       "array of 2305843009213693952 elements"},
      {"array whose byte count wraps to 8", two(Array(kUint64Type, (uint64_t{1} << 61) + 1)),
       kInvalid, "array of 2305843009213693953 elements"},
      {"array type cut short", raw(kArrayType, "123"), kInvalid, "truncated: array type of key"},
      {"array count cut short", raw(kArrayType, Bytes(kUint8Type) + "1234"), kInvalid,
       "truncated: array of key 'k'"},
      {"second string of an array missing",
       raw(kArrayType, Array(kStringType, 2, Bytes(uint64_t{1}) + "a")), kInvalid,
       "truncated: length of string 1 of key 'k'"},
  };
}

std::vector<DamageCase> AlignmentCases() {
  std::vector<DamageCase> cases;
  for (const uint32_t value : {0u, 1u, 3u, 4u, 7u, 12u, 33u, 131072u, 1u << 31, 0xffffffffu}) {
    cases.push_back(
        {absl::StrCat("alignment ", value),
         [value](GgufWriter& w) { w.AddUint32("general.alignment", value); }, kInvalid,
         absl::StrCat("general.alignment is ", value, ", allowed are powers of two in 8..65536")});
  }
  cases.push_back({"alignment as INT32", [](GgufWriter& w) { w.AddInt32("general.alignment", 32); },
                   kInvalid, "general.alignment has type INT32, wanted is UINT32"});
  cases.push_back({"alignment as UINT64",
                   [](GgufWriter& w) { w.AddUint64("general.alignment", 32); }, kInvalid,
                   "general.alignment has type UINT64"});
  cases.push_back({"alignment as a string",
                   [](GgufWriter& w) { w.AddString("general.alignment", "32"); }, kInvalid,
                   "general.alignment has type STRING"});
  cases.push_back({"alignment as an array",
                   [](GgufWriter& w) { w.AddInts("general.alignment", {32}); }, kInvalid,
                   "general.alignment has type ARRAY"});
  return cases;
}

// A table of one tensor with 64 bytes of data behind it.
std::function<void(GgufWriter&)> OneTensor(std::vector<uint64_t> dims, uint32_t type,
                                           uint64_t offset = 0, std::string name = "t") {
  return [=](GgufWriter& w) {
    w.AddTensorInfo(name, dims, type, offset);
    w.AppendData(std::string(64, 'd'));
  };
}

std::vector<DamageCase> ShapeCases() {
  const auto num_dims = [](uint32_t n) {
    return [n](GgufWriter& w) {
      w.AddTensorInfo("t", n, {1, 1, 1, 1, 1}, kF32, 0);
      w.AppendData(std::string(64, 'd'));
    };
  };
  const uint64_t p32 = uint64_t{1} << 32;
  const uint64_t p42 = (uint64_t{1} << 42) + 1;
  const uint64_t p62 = uint64_t{1} << 62;
  const std::string elements = "has a number of elements beyond 2^63-1";
  const std::string size = "has a size beyond 2^63-1 bytes";
  return {
      {"no dimensions", num_dims(0), kInvalid, "'t' has 0 dimensions, allowed are 1..4"},
      {"five dimensions", num_dims(5), kInvalid, "has 5 dimensions"},
      {"2^32-1 dimensions", num_dims(0xffffffffu), kInvalid, "has 4294967295 dimensions"},
      {"dimension 0", OneTensor({0}, kF32), kInvalid, "has dimension 0"},
      {"outer dimension 0", OneTensor({4, 0}, kF32), kInvalid, "has dimension 0"},
      {"huge times 0", OneTensor({p62, 4, 0}, kF32), kInvalid, "has dimension 0"},
      {"dimension 2^63", OneTensor({uint64_t{1} << 63}, kF32), kInvalid, "allowed are 1..2^63-1"},
      {"dimension 2^64-1", OneTensor({kMax64}, kF32), kInvalid, "dimension 18446744073709551615"},
      {"elements wrap to 0", OneTensor({p32, p32}, kF32), kInvalid, elements},
      {"elements wrap to 4", OneTensor({p62 + 1, 4}, kF32), kInvalid, elements},
      {"elements wrap in the rows", OneTensor({1, p32, p32}, kF32), kInvalid, elements},
      {"elements wrap in the last", OneTensor({p32, 1u << 30, 2, 1}, kF32), kInvalid, elements},
      {"bytes wrap to 0", OneTensor({p62}, kF32), kInvalid, size},
      {"bytes wrap to 4", OneTensor({p62 + 1}, kF32), kInvalid, size},
      {"bytes wrap in the rows", OneTensor({1u << 20, uint64_t{1} << 42}, kF32), kInvalid, size},
      {"bytes of F16 wrap", OneTensor({p62, 1}, kF16), kInvalid, size},
      {"dimension 2^42+1", OneTensor({p42}, kF32), kInvalid, "tensor data of the file has 64"},
      {"size 2^63-32", OneTensor({(uint64_t{1} << 61) - 8}, kF32), kInvalid,
       "has offset 0 and 9223372036854775776 bytes"},
      {"row not a multiple of the block", OneTensor({33, 2}, kQ4_1), kInvalid,
       "of type Q4_1 has rows of 33 elements, wanted is a multiple of 32"},
      {"row shorter than a block", OneTensor({16, 2}, kQ4_1), kInvalid, "has rows of 16 elements"},
      {"row not a multiple of 256", OneTensor({32, 2}, kQ4_K), kInvalid,
       "of type Q4_K has rows of 32 elements, wanted is a multiple of 256"},
  };
}

std::vector<DamageCase> TensorCases() {
  const auto pair_of = [](std::vector<uint64_t> offsets, std::string second = "b") {
    return [=](GgufWriter& w) {
      w.AddTensorInfo("a", {16}, kF32, offsets[0]);
      w.AddTensorInfo(second, {16}, kF32, offsets[1]);
      w.AppendData(std::string(160, 'd'));
    };
  };
  const auto type = [](uint32_t number) { return OneTensor({256}, number); };
  const auto sound = [](uint32_t number) {
    return [number](GgufWriter& w) {
      w.AddTensorInfo("w", {256}, number, 0);
      w.AppendData(std::string(2048, 'd'));
    };
  };
  return {
      {"empty name", OneTensor({1}, kF32, 0, ""), kInvalid, "name of tensor 0 is empty"},
      {"name of 65 bytes", OneTensor({1}, kF32, 0, std::string(65, 'n')), kInvalid,
       "name of tensor 0 has 65 bytes, allowed are at most 64"},
      {"name with an escape", OneTensor({1}, kF32, 0, "a\x1b"), kInvalid, "not printable ASCII"},
      {"same name twice", pair_of({0, 64}, "a"), kInvalid, "tensor name 'a' appears twice"},
      {"type 2^32-1", type(0xffffffffu), kInvalid, "has unknown type 4294967295"},
      {"type 63", type(63), kInvalid, "has unknown type 63"},
      {"offset 1", OneTensor({1}, kF32, 1), kInvalid, "offset 1, wanted is a multiple of 32"},
      {"offset 2^64-1", OneTensor({1}, kF32, kMax64), kInvalid, "offset 18446744073709551615"},
      {"offset 2^64-32", OneTensor({16}, kF32, kMax64 - 31), kInvalid,
       "tensor data of the file has"},
      {"offset plus size wraps to the start", OneTensor({16}, kF32, kMax64 - 63), kInvalid,
       "truncated: tensor 't'"},
      {"offset at the end", OneTensor({1}, kF32, 64), kInvalid, "has offset 64 and 4 bytes"},
      {"offset behind the end", OneTensor({1}, kF32, 96), kInvalid, "has offset 96 and 4 bytes"},
      {"one element too many", OneTensor({17}, kF32), kInvalid, "has offset 0 and 68 bytes"},
      {"same offset", pair_of({0, 0}), kInvalid, "tensors 'a' and 'b' overlap"},
      {"overlap by half", pair_of({0, 32}), kInvalid, "tensors 'a' and 'b' overlap"},
      {"overlap, listed backwards", pair_of({64, 32}), kInvalid, "tensors 'b' and 'a' overlap"},
      {"overlap of a large and an inner one",
       [](GgufWriter& w) {
         w.AddTensorInfo("outer", {40}, kF32, 0);
         w.AddTensorInfo("inner", {1}, kF32, 64);
         w.AppendData(std::string(160, 'd'));
       },
       kInvalid, "tensors 'outer' and 'inner' overlap"},
      {"offset good for 32 but not for the file's alignment",
       [](GgufWriter& w) {
         w.AddUint32("general.alignment", 64);
         w.set_alignment_bytes(64);
         w.AddTensorInfo("a", {1}, kF32, 32);
         w.AppendData(std::string(128, 'd'));
       },
       kInvalid, "offset 32, wanted is a multiple of 64"},
      {"no data section at all",
       [](GgufWriter& w) {
         w.AddTensorInfo("a", {1}, kF32, 0);
         w.set_alignment_bytes(1);
       },
       kInvalid, "truncated: the tensor data begins at byte"},
      {"table longer than the file",
       [](GgufWriter& w) {
         w.AddTensorInfo("a", {1}, kF32, 0);
         w.set_num_tensors(2);
         w.AppendData(std::string(40, '\xff'));
       },
       kInvalid, "name of tensor 1 has"},
      {"sound file of Q4_K", sound(kQ4_K), kUnimplemented,
       "tensor 'w' has type Q4_K, supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1"},
      {"sound file of Q6_K", sound(14), kUnimplemented, "tensor 'w' has type Q6_K"},
      {"sound file of IQ4_XS", sound(23), kUnimplemented, "tensor 'w' has type IQ4_XS"},
      {"sound file of MXFP4", sound(39), kUnimplemented, "tensor 'w' has type MXFP4"},
      {"withdrawn type", sound(4), kUnimplemented, "tensor 'w' has type Q4_2 (withdrawn)"},
      {"truncated file of Q4_K is damaged first", type(kQ4_K), kInvalid,
       "has offset 0 and 144 bytes, the tensor data of the file has 64"},
  };
}

std::vector<DamageCase> AllCases() {
  std::vector<DamageCase> all;
  for (auto& group :
       {HeaderCases(), KeyCases(), ValueCases(), AlignmentCases(), ShapeCases(), TensorCases()}) {
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

TEST(GgufDamageTest, TheTableIsLargeEnough) { EXPECT_GE(AllCases().size(), 60u); }

TEST(GgufDamageTest, EveryCaseIsRefusedFromMemory) {
  for (const DamageCase& test : AllCases()) {
    SCOPED_TRACE(test.name);
    GgufWriter writer;
    test.make(writer);
    const auto reader = GgufReader::Parse(writer.Finish());
    if (reader.ok()) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    EXPECT_EQ(reader.status().code(), test.code) << reader.status();
    EXPECT_THAT(std::string(reader.status().message()), HasSubstr(test.text));
  }
}

TEST(GgufDamageTest, EveryCaseIsRefusedAlikeFromAFileWithItsPath) {
  for (const DamageCase& test : AllCases()) {
    SCOPED_TRACE(test.name);
    GgufWriter writer;
    test.make(writer);
    const std::string path = WriteTempFile("damage.gguf", writer.Finish());
    const auto reader = GgufReader::Open(path);
    if (reader.ok()) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    EXPECT_EQ(reader.status().code(), test.code) << reader.status();
    EXPECT_THAT(std::string(reader.status().message()), HasSubstr(test.text));
    EXPECT_THAT(std::string(reader.status().message()), HasSubstr(path));
  }
}

TEST(GgufDamageTest, DamageBehindSoundContentsIsStillFound) {
  for (const DamageCase& test : AllCases()) {
    // Cases that force a count or a place in the file would mean something else here.
    if (test.text.find("cannot fit") != std::string::npos) continue;
    if (test.text.find("key 0") != std::string::npos) continue;
    if (test.text.find(" 0 ") != std::string::npos) continue;
    if (test.text.find(" at byte ") != std::string::npos) continue;
    if (test.text.find("tensor 1 has") != std::string::npos) continue;
    if (test.text.find("truncated: type of key") != std::string::npos) continue;
    SCOPED_TRACE(test.name);
    GgufWriter writer;
    writer.AddString("general.architecture", "llama");
    writer.AddStrings("sound.strings", {"", "x"});
    test.make(writer);
    const auto reader = GgufReader::Parse(writer.Finish());
    if (reader.ok()) {
      ADD_FAILURE() << "was accepted";
      continue;
    }
    EXPECT_EQ(reader.status().code(), test.code) << reader.status();
    EXPECT_THAT(std::string(reader.status().message()), HasSubstr(test.text));
  }
}

TEST(GgufDamageTest, LimitsThemselvesAreAllowed) {
  GgufWriter writer;
  writer.AddUint32(std::string(1024, 'k'), 1);
  writer.AddTensorInfo(std::string(64, 'n'), {1, 1, 1, 1}, kF32, 0);
  writer.AppendData("1234");
  const auto reader = GgufReader::Parse(writer.Finish());
  EXPECT_TRUE(reader.ok()) << reader.status();

  GgufWriter many;
  for (int i = 0; i < 65536; ++i) {
    many.AddRaw(absl::StrCat(i), kUint8Type, "x");
    many.AddTensorInfo(absl::StrCat(i), {8}, kF32, static_cast<uint64_t>(i) * 32);
  }
  many.AppendData(std::string(65536 * 32, 'd'));
  const auto large = GgufReader::Parse(many.Finish());
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_EQ((*large)->TensorNames().size(), 65536u);
  EXPECT_EQ(*(*large)->GetInt("65535"), 'x');
}

// The data behind the limit is a hole in the file and takes no disk space.
TEST(GgufDamageTest, MetadataBeyondItsLimitIsRefused) {
  GgufWriter writer;
  writer.AddRaw("k", kArrayType, Array(kStringType, 17));
  std::string header = writer.Finish();
  const std::string path = WriteTempFile("large.gguf", header);
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  const uint64_t string_bytes = uint64_t{16} << 20;
  long position = static_cast<long>(header.size());
  for (int i = 0; i < 17; ++i) {
    ASSERT_EQ(std::fseek(file, position, SEEK_SET), 0);
    ASSERT_EQ(std::fwrite(&string_bytes, sizeof(string_bytes), 1, file), 1u);
    position += static_cast<long>(sizeof(string_bytes) + string_bytes);
  }
  ASSERT_EQ(std::fseek(file, position, SEEK_SET), 0);
  ASSERT_EQ(std::fputc('x', file), 'x');
  ASSERT_EQ(std::fclose(file), 0);
  const auto reader = GgufReader::Open(path);
  ASSERT_FALSE(reader.ok());
  EXPECT_EQ(reader.status().code(), kInvalid);
  EXPECT_THAT(std::string(reader.status().message()),
              HasSubstr("the metadata region must end within 268435456 bytes"));
}

}  // namespace
}  // namespace slim
