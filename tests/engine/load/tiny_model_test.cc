#include "tests/testing/tiny_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/load/gguf_reader.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

std::unique_ptr<GgufReader> MustParse(const TinyModelOptions& options) {
  auto reader = GgufReader::Parse(MakeTinyModel(options));
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

TEST(TinyModelTest, DefaultOptionsGiveALlamaModel) {
  const auto reader = MustParse({});
  EXPECT_EQ(*reader->GetString("general.architecture"), "llama");
  EXPECT_EQ(*reader->GetInt("llama.block_count"), 4);
  EXPECT_EQ(*reader->GetInt("llama.embedding_length"), 128);
  EXPECT_EQ(*reader->GetInt("llama.vocab_size"), 320);
  EXPECT_EQ(reader->TensorNames().size(), 2u + 4 * 9);
  EXPECT_FALSE(reader->HasTensor("output.weight"));
  const HostTensor key = *reader->GetTensor("blk.3.attn_k.weight");
  EXPECT_EQ(key.rows, 64);
  EXPECT_EQ(key.cols, 128);
  EXPECT_EQ(key.dtype, DType::kQ4_1);
  EXPECT_EQ(reader->GetTensor("token_embd.weight")->rows, 320);
  EXPECT_EQ(reader->GetTensor("token_embd.weight")->dtype, DType::kQ8_0);
}

TEST(TinyModelTest, OptionsShapeTheModel) {
  TinyModelOptions options;
  options.num_layers = 2;
  options.num_heads = 3;
  options.num_kv_heads = 1;
  options.head_dim = 64;
  options.ffn_width = 160;
  options.vocab_size = 2000;
  options.tied_embeddings = false;
  options.embedding_dtype = DType::kF16;
  options.weight_dtypes = {DType::kQ4_0, DType::kBF16};
  options.chat_template = "custom";
  const auto reader = MustParse(options);
  EXPECT_EQ(reader->GetTensor("output.weight")->dtype, DType::kF16);
  EXPECT_EQ(reader->GetTensor("blk.0.ffn_down.weight")->cols, 160);
  EXPECT_EQ(reader->GetTensor("blk.0.ffn_down.weight")->rows, 192);
  std::set<DType> dtypes;
  for (const char* name : {"ffn_down", "ffn_gate", "ffn_up", "attn_q", "attn_v"}) {
    dtypes.insert(reader->GetTensor(absl::StrCat("blk.1.", name, ".weight"))->dtype);
  }
  EXPECT_EQ(dtypes, (std::set<DType>{DType::kQ4_0, DType::kBF16}));
  EXPECT_EQ(*reader->GetString("tokenizer.chat_template"), "custom");
}

TEST(TinyModelTest, SameSeedSameBytesOtherSeedOtherWeights) {
  TinyModelOptions options;
  options.num_layers = 1;
  EXPECT_EQ(MakeTinyModel(options), MakeTinyModel(options));
  const std::string first = MakeTinyModel(options);
  options.seed = 2;
  const std::string second = MakeTinyModel(options);
  EXPECT_EQ(first.size(), second.size());
  EXPECT_NE(first, second);
}

TEST(TinyModelTest, WeightsAreFiniteAndOfUnitGain) {
  const auto reader = MustParse({});
  const HostTensor matrix = *reader->GetTensor("blk.0.attn_q.weight");
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  double squares = 0;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    DequantizeRow(matrix, r, row.data());
    for (const float value : row) squares += static_cast<double>(value) * value;
  }
  EXPECT_NEAR(squares / static_cast<double>(matrix.rows), 1.0, 0.1);
}

TEST(TinyModelTest, VocabularyIsConsistent) {
  for (const int size : {kTinyModelMinVocab, 320, 700, 3000}) {
    const TinyVocabulary vocabulary = MakeTinyVocabulary(size);
    ASSERT_EQ(vocabulary.tokens.size(), static_cast<size_t>(size));
    ASSERT_EQ(vocabulary.token_types.size(), static_cast<size_t>(size));
    const std::set<std::string> known(vocabulary.tokens.begin(), vocabulary.tokens.end());
    EXPECT_EQ(known.size(), vocabulary.tokens.size()) << "tokens are unique";
    EXPECT_EQ(vocabulary.tokens[kTinyModelImEnd], "<|im_end|>");
    EXPECT_EQ(vocabulary.token_types[kTinyModelImEnd], 3);
    for (int byte = 0; byte < 256; ++byte) {
      EXPECT_EQ(vocabulary.tokens[static_cast<size_t>(3 + byte)],
                ByteLevelSymbol(static_cast<uint8_t>(byte)));
    }
    for (const std::string& merge : vocabulary.merges) {
      const std::vector<std::string> parts = absl::StrSplit(merge, ' ');
      ASSERT_EQ(parts.size(), 2u) << merge;
      EXPECT_TRUE(known.count(parts[0]) == 1 && known.count(parts[1]) == 1) << merge;
      EXPECT_TRUE(known.count(parts[0] + parts[1]) == 1) << merge;
    }
  }
  EXPECT_EQ(MakeTinyVocabulary(320).merges.size(), 61u);
}

TEST(TinyModelTest, ByteSymbolsAreThoseOfByteLevelBpe) {
  EXPECT_EQ(ByteLevelSymbol('A'), "A");
  EXPECT_EQ(ByteLevelSymbol(' '), "\xc4\xa0");
  EXPECT_EQ(ByteLevelSymbol('\n'), "\xc4\x8a");
  EXPECT_EQ(ByteLevelSymbol(0), "\xc4\x80");
  EXPECT_EQ(ByteLevelSymbol(0xff), "\xc3\xbf");
  EXPECT_EQ(ByteLevelSymbol(0xad), "\xc5\x83");
}

}  // namespace
}  // namespace slim
