#include "engine/load/open_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/testing/gguf_writer.h"
#include "tests/testing/tiny_model.h"

namespace slim {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void ExpectError(const std::string& path, absl::StatusCode code, const std::string& text) {
  const auto source = OpenModel(path);
  ASSERT_FALSE(source.ok());
  EXPECT_EQ(source.status().code(), code) << source.status();
  EXPECT_THAT(std::string(source.status().message()), AllOf(HasSubstr(path), HasSubstr(text)));
}

TEST(OpenModelTest, OpensAGgufFileWhateverItsName) {
  for (const char* name : {"open.gguf", "open", "open.safetensors"}) {
    const auto source = OpenModel(WriteTinyModel(name));
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ(*(*source)->GetInt("llama.block_count"), 4);
    EXPECT_TRUE((*source)->HasTensor("token_embd.weight"));
  }
}

TEST(OpenModelTest, DirectoryIsUnimplementedAndSaysWhatIsSupported) {
  ExpectError("/tmp", absl::StatusCode::kUnimplemented,
              "is a directory; supported is a single GGUF");
}

TEST(OpenModelTest, SafetensorsIsUnimplementedByContentsAndByName) {
  std::string contents;
  AppendGgufString("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", &contents);
  contents += "1234";
  ExpectError(WriteTempFile("weights.bin", contents), absl::StatusCode::kUnimplemented,
              "is a safetensors file; supported is a single GGUF");
  ExpectError(WriteTempFile("weights.safetensors", "damaged"), absl::StatusCode::kUnimplemented,
              "is a safetensors file");
}

TEST(OpenModelTest, OtherFilesAreNotGguf) {
  ExpectError(WriteTempFile("text", "hello, world"), absl::StatusCode::kInvalidArgument,
              "not a GGUF file: it begins with 'hell'");
  ExpectError(WriteTempFile("short", "GG"), absl::StatusCode::kInvalidArgument, "truncated: magic");
  ExpectError(WriteTempFile("nothing", ""), absl::StatusCode::kInvalidArgument, "is empty");
  ExpectError("/nonexistent/m.gguf", absl::StatusCode::kNotFound, "cannot open");
}

TEST(OpenModelTest, NulInThePathIsAnError) {
  const auto source = OpenModel(std::string("/tmp\0x", 6));
  ASSERT_FALSE(source.ok());
  EXPECT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace slim
