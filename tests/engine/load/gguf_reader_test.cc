#include "engine/load/gguf_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/tensor/dequantize.h"
#include "tests/engine/load/exercise.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/tiny_model.h"

namespace slim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<GgufReader> MustParse(const GgufWriter& writer) {
  auto reader = GgufReader::Parse(writer.Finish());
  EXPECT_TRUE(reader.ok()) << reader.status();
  return reader.ok() ? *std::move(reader) : nullptr;
}

template <typename T>
std::string Bytes(T value) {
  std::string out;
  AppendNumber(value, &out);
  return out;
}

template <typename T>
void ExpectError(const absl::StatusOr<T>& result, absl::StatusCode code, const std::string& text) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), code) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(text));
}

uint32_t Number(GgufType type) { return static_cast<uint32_t>(type); }

TEST(GgufReaderTest, EveryIntegerTypeReadsAsInt) {
  GgufWriter writer;
  writer.AddRaw("u8", Number(GgufType::kUint8), Bytes(uint8_t{255}));
  writer.AddRaw("i8", Number(GgufType::kInt8), Bytes(int8_t{-128}));
  writer.AddRaw("u16", Number(GgufType::kUint16), Bytes(uint16_t{65535}));
  writer.AddRaw("i16", Number(GgufType::kInt16), Bytes(int16_t{-32768}));
  writer.AddUint32("u32", 4294967295u);
  writer.AddInt32("i32", -2147483647 - 1);
  writer.AddUint64("u64", 9223372036854775807u);
  writer.AddRaw("i64", Number(GgufType::kInt64), Bytes(std::numeric_limits<int64_t>::min()));
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  const std::map<std::string, int64_t> wanted = {
      {"u8", 255},         {"i8", -128},           {"u16", 65535},     {"i16", -32768},
      {"u32", 4294967295}, {"i32", -2147483648LL}, {"u64", INT64_MAX}, {"i64", INT64_MIN},
  };
  for (const auto& [key, value] : wanted) {
    EXPECT_TRUE(reader->HasKey(key));
    const auto as_int = reader->GetInt(key);
    ASSERT_TRUE(as_int.ok()) << as_int.status();
    EXPECT_EQ(*as_int, value) << key;
    const auto as_float = reader->GetFloat(key);
    ASSERT_TRUE(as_float.ok()) << as_float.status();
    EXPECT_EQ(*as_float, static_cast<double>(value)) << key;
  }
}

TEST(GgufReaderTest, Uint64BeyondInt64IsAnErrorAsIntOnly) {
  GgufWriter writer;
  writer.AddUint64("big", uint64_t{1} << 63);
  writer.AddRaw("bigs", Number(GgufType::kArray),
                Bytes(Number(GgufType::kUint64)) + Bytes(uint64_t{1}) + Bytes(~uint64_t{0}));
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  ExpectError(reader->GetInt("big"), absl::StatusCode::kInvalidArgument,
              "'big' has a value beyond");
  ExpectError(reader->GetInts("bigs"), absl::StatusCode::kInvalidArgument, "'bigs'");
  EXPECT_EQ(*reader->GetFloat("big"), 9223372036854775808.0);
  EXPECT_THAT(*reader->GetFloats("bigs"), ElementsAre(18446744073709551616.0));
}

TEST(GgufReaderTest, FloatsBoolsAndStringsReadBack) {
  GgufWriter writer;
  writer.AddFloat32("f32", 1e-5f);
  writer.AddRaw("f64", Number(GgufType::kFloat64), Bytes(1e-300));
  writer.AddBool("yes", true);
  writer.AddBool("no", false);
  writer.AddString("text", absl::string_view("a\0\xff", 3));
  writer.AddString("empty", "");
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  EXPECT_EQ(*reader->GetFloat("f32"), static_cast<double>(1e-5f));
  EXPECT_EQ(*reader->GetFloat("f64"), 1e-300);
  EXPECT_TRUE(*reader->GetBool("yes"));
  EXPECT_FALSE(*reader->GetBool("no"));
  EXPECT_EQ(*reader->GetString("text"), std::string("a\0\xff", 3));
  EXPECT_EQ(*reader->GetString("empty"), "");
  EXPECT_THAT(reader->Keys(), ElementsAre("f32", "f64", "yes", "no", "text", "empty"));
}

TEST(GgufReaderTest, ArraysReadBack) {
  GgufWriter writer;
  writer.AddStrings("words", {"", "ab", std::string("\0", 1)});
  writer.AddInts("ints", {-1, 0, 7});
  writer.AddFloats("floats", {0.5f, -2.0f});
  writer.AddStrings("none", {});
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  EXPECT_THAT(*reader->GetStrings("words"), ElementsAre("", "ab", std::string("\0", 1)));
  EXPECT_THAT(*reader->GetInts("ints"), ElementsAre(-1, 0, 7));
  EXPECT_THAT(*reader->GetFloats("ints"), ElementsAre(-1.0, 0.0, 7.0));
  EXPECT_THAT(*reader->GetFloats("floats"), ElementsAre(0.5, -2.0));
  EXPECT_THAT(*reader->GetStrings("none"), ElementsAre());
}

TEST(GgufReaderTest, MissingKeyAndTensorAreNotFoundByName) {
  const auto reader = MustParse(GgufWriter());
  ASSERT_NE(reader, nullptr);
  EXPECT_FALSE(reader->HasKey("no.key"));
  EXPECT_FALSE(reader->HasTensor("no.tensor"));
  ExpectError(reader->GetInt("no.key"), absl::StatusCode::kNotFound, "no key 'no.key'");
  ExpectError(reader->GetStrings("no.key"), absl::StatusCode::kNotFound, "no key 'no.key'");
  ExpectError(reader->GetTensor("no.tensor"), absl::StatusCode::kNotFound, "'no.tensor'");
}

TEST(GgufReaderTest, WrongTypeNamesKeyTypeSeenAndTypeWanted) {
  GgufWriter writer;
  writer.AddString("text", "8");
  writer.AddUint32("number", 8);
  writer.AddFloat32("float", 8);
  writer.AddBool("bool", true);
  writer.AddStrings("texts", {"8"});
  writer.AddInts("numbers", {8});
  writer.AddFloats("floats", {8});
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectError(reader->GetInt("text"), invalid, "key 'text' has type STRING, wanted is an integer");
  ExpectError(reader->GetInt("float"), invalid, "key 'float' has type FLOAT32");
  ExpectError(reader->GetInt("bool"), invalid, "key 'bool' has type BOOL");
  ExpectError(reader->GetInt("numbers"), invalid, "has type ARRAY of INT32");
  ExpectError(reader->GetFloat("text"), invalid, "wanted is a number");
  ExpectError(reader->GetFloat("bool"), invalid, "has type BOOL");
  ExpectError(reader->GetBool("number"), invalid, "has type UINT32, wanted is BOOL");
  ExpectError(reader->GetString("texts"), invalid, "has type ARRAY of STRING, wanted is STRING");
  ExpectError(reader->GetStrings("text"), invalid, "wanted is ARRAY of STRING");
  ExpectError(reader->GetStrings("numbers"), invalid, "has type ARRAY of INT32");
  ExpectError(reader->GetInts("number"), invalid, "wanted is ARRAY of an integer type");
  ExpectError(reader->GetInts("floats"), invalid, "has type ARRAY of FLOAT32");
  ExpectError(reader->GetFloats("texts"), invalid, "wanted is ARRAY of a number type");
}

TEST(GgufReaderTest, ScalarNanAndInfinityAreRefusedArraysPassThemThrough) {
  GgufWriter writer;
  writer.AddFloat32("nan", std::nanf(""));
  writer.AddFloat32("inf", INFINITY);
  writer.AddRaw("minus_inf", Number(GgufType::kFloat64), Bytes(-static_cast<double>(INFINITY)));
  writer.AddFloats("array", {INFINITY});
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  for (const char* key : {"nan", "inf", "minus_inf"}) {
    ExpectError(reader->GetFloat(key), absl::StatusCode::kInvalidArgument, "finite");
  }
  EXPECT_THAT(*reader->GetFloats("array"), ElementsAre(INFINITY));
}

TEST(GgufReaderTest, TensorDimensionsFoldIntoRowsAndCols) {
  const std::string data(2 * 3 * 4 * 5 * sizeof(float), 'x');
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer;
    writer.set_version(version);
    writer.AddTensor("one", {6}, DType::kF32, data.substr(0, 24));
    writer.AddTensor("two", {4, 3}, DType::kF16, data.substr(0, 24));
    writer.AddTensor("three", {2, 3, 4}, DType::kBF16, data.substr(0, 48));
    writer.AddTensor("four", {2, 3, 4, 5}, DType::kF32, data);
    const auto reader = MustParse(writer);
    ASSERT_NE(reader, nullptr);
    EXPECT_EQ(reader->version(), version);
    EXPECT_THAT(reader->TensorNames(), ElementsAre("one", "two", "three", "four"));
    EXPECT_EQ(reader->GetTensor("one")->rows, 1);
    EXPECT_EQ(reader->GetTensor("one")->cols, 6);
    EXPECT_EQ(reader->GetTensor("two")->rows, 3);
    EXPECT_EQ(reader->GetTensor("two")->cols, 4);
    EXPECT_EQ(reader->GetTensor("three")->rows, 12);
    EXPECT_EQ(reader->GetTensor("three")->cols, 2);
    EXPECT_EQ(reader->GetTensor("four")->rows, 60);
    EXPECT_EQ(reader->GetTensor("four")->bytes(), 480);
  }
}

TEST(GgufReaderTest, EveryTypeAndAlignmentPointsAtItsBytes) {
  const DType dtypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,
                          DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};
  for (const uint32_t alignment : {8u, 32u, 256u, 65536u}) {
    GgufWriter writer;
    writer.AddUint32("general.alignment", alignment);
    writer.set_alignment_bytes(alignment);
    std::vector<std::string> data;
    for (const DType dtype : dtypes) {
      const size_t bytes = static_cast<size_t>(3 * 64 / BlockElements(dtype) * BlockBytes(dtype));
      data.push_back(std::string(bytes, static_cast<char>('a' + data.size())));
      writer.AddTensor(DTypeName(dtype), {64, 3}, dtype, data.back());
    }
    const auto reader = MustParse(writer);
    ASSERT_NE(reader, nullptr);
    EXPECT_EQ(reader->alignment_bytes(), alignment);
    EXPECT_EQ(reader->file_bytes(), static_cast<int64_t>(writer.Finish().size()));
    for (size_t i = 0; i < data.size(); ++i) {
      const auto tensor = reader->GetTensor(DTypeName(dtypes[i]));
      ASSERT_TRUE(tensor.ok()) << tensor.status();
      EXPECT_EQ(tensor->dtype, dtypes[i]);
      ASSERT_EQ(tensor->bytes(), static_cast<int64_t>(data[i].size()));
      EXPECT_EQ(std::memcmp(tensor->data, data[i].data(), data[i].size()), 0);
    }
  }
}

TEST(GgufReaderTest, HolesBetweenTensorsAndBytesAfterThemAreAllowed) {
  GgufWriter writer;
  writer.AddTensorInfo("late", {8}, GgufNumber(DType::kF32), 128);
  writer.AddTensorInfo("early", {8}, GgufNumber(DType::kF32), 0);
  writer.AppendData(std::string(500, 'x'));
  const auto reader = MustParse(writer);
  ASSERT_NE(reader, nullptr);
  const auto* late = static_cast<const char*>(reader->GetTensor("late")->data);
  const auto* early = static_cast<const char*>(reader->GetTensor("early")->data);
  EXPECT_EQ(late - early, 128);
}

TEST(GgufReaderTest, OpenReadsAFileAndNamesItInErrors) {
  const std::string path = WriteTinyModel("reader_open.gguf");
  const auto reader = GgufReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(*(*reader)->GetString("general.architecture"), "llama");
  EXPECT_GT(ExerciseReader(**reader), 0u);

  const std::string bad = WriteTempFile("reader_bad.gguf", "GGML");
  ExpectError(GgufReader::Open(bad), absl::StatusCode::kInvalidArgument, bad + "\": not a GGUF");
}

TEST(GgufReaderTest, MappedFileAndMemoryGiveTheSameTensors) {
  TinyModelOptions options;
  options.weight_dtypes = {DType::kQ4_1, DType::kQ4_0, DType::kQ8_0,
                           DType::kF16,  DType::kBF16, DType::kF32};
  const auto from_file = GgufReader::Open(WriteTinyModel("reader_same.gguf", options));
  const auto from_memory = GgufReader::Parse(MakeTinyModel(options));
  ASSERT_TRUE(from_file.ok() && from_memory.ok());
  ASSERT_EQ((*from_file)->TensorNames(), (*from_memory)->TensorNames());
  for (const std::string& name : (*from_file)->TensorNames()) {
    const HostTensor a = *(*from_file)->GetTensor(name);
    const HostTensor b = *(*from_memory)->GetTensor(name);
    ASSERT_EQ(a.bytes(), b.bytes());
    (*from_file)->ReleasePages(a);
    (*from_memory)->ReleasePages(b);
    EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())), 0) << name;
  }
}

TEST(GgufReaderTest, DefaultModelHasItsKnownContents) {
  if (::access(SLIM_MODEL_PATH, R_OK) != 0) GTEST_SKIP() << "no file " << SLIM_MODEL_PATH;
  const auto opened = GgufReader::Open(SLIM_MODEL_PATH);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufReader& reader = **opened;
  EXPECT_EQ(reader.version(), 3u);
  EXPECT_EQ(reader.file_bytes(), 98'362'432);
  EXPECT_EQ(reader.Keys().size(), 33u);
  EXPECT_EQ(*reader.GetString("general.architecture"), "llama");
  EXPECT_EQ(*reader.GetInt("llama.block_count"), 30);
  EXPECT_EQ(*reader.GetInt("llama.context_length"), 8192);
  EXPECT_EQ(*reader.GetInt("llama.embedding_length"), 576);
  EXPECT_EQ(*reader.GetInt("llama.attention.head_count"), 9);
  EXPECT_EQ(*reader.GetInt("llama.attention.head_count_kv"), 3);
  EXPECT_EQ(*reader.GetFloat("llama.rope.freq_base"), 100000.0);
  EXPECT_EQ(*reader.GetFloat("llama.attention.layer_norm_rms_epsilon"), static_cast<double>(1e-5f));
  EXPECT_EQ(*reader.GetString("tokenizer.ggml.pre"), "smollm");
  EXPECT_FALSE(*reader.GetBool("tokenizer.ggml.add_bos_token"));
  const auto tokens = reader.GetStrings("tokenizer.ggml.tokens");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->size(), 49152u);
  EXPECT_EQ((*tokens)[1], "<|im_start|>");
  EXPECT_EQ(tokens->back(), "ectable");
  EXPECT_EQ(reader.GetStrings("tokenizer.ggml.merges")->size(), 48900u);
  EXPECT_EQ(reader.GetInts("tokenizer.ggml.token_type")->size(), 49152u);

  std::map<DType, int> count;
  for (const std::string& name : reader.TensorNames()) ++count[reader.GetTensor(name)->dtype];
  EXPECT_EQ(reader.TensorNames().size(), 272u);
  EXPECT_EQ(count,
            (std::map<DType, int>{{DType::kQ4_1, 210}, {DType::kF32, 61}, {DType::kQ8_0, 1}}));
  const HostTensor down = *reader.GetTensor("blk.0.ffn_down.weight");
  EXPECT_EQ(down.rows, 576);
  EXPECT_EQ(down.cols, 1536);
  std::vector<float> row(1536);
  for (const int64_t index : {0, 575}) {
    DequantizeRow(down, index, row.data());
    for (const float value : row) ASSERT_LT(std::fabs(value), 10.0f);
  }
}

}  // namespace
}  // namespace slim
