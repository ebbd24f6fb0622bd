// A small, complete byte-level BPE vocabulary as model metadata, for tests to use or to damage.
#ifndef TESTS_ENGINE_TOKENIZER_VOCABULARY_FIXTURE_H_
#define TESTS_ENGINE_TOKENIZER_VOCABULARY_FIXTURE_H_

#include <string>
#include <vector>

#include "tests/testing/fake_tensor_source.h"
#include "tests/testing/tiny_model.h"

namespace slim {

inline constexpr char kTokens[] = "tokenizer.ggml.tokens";
inline constexpr char kTypes[] = "tokenizer.ggml.token_type";
inline constexpr char kMerges[] = "tokenizer.ggml.merges";

// Tokens 0 to 2 are <|endoftext|>, <|im_start|> and <|im_end|>; then all 256 bytes, then merges.
inline FakeTensorSource SmallVocabulary(int vocab_size = 600) {
  TinyVocabulary tiny = MakeTinyVocabulary(vocab_size);
  FakeTensorSource source;
  source.Set("tokenizer.ggml.model", std::string("gpt2"));
  source.Set("tokenizer.ggml.pre", std::string("smollm"));
  source.Set(kTypes, std::vector<int64_t>(tiny.token_types.begin(), tiny.token_types.end()));
  source.Set(kTokens, std::move(tiny.tokens));
  source.Set(kMerges, std::move(tiny.merges));
  source.Set("tokenizer.ggml.bos_token_id", int64_t{kTinyModelImStart});
  source.Set("tokenizer.ggml.eos_token_id", int64_t{kTinyModelImEnd});
  return source;
}

// Adds a token at the end and returns its id.
inline int32_t AddToken(FakeTensorSource* source, const std::string& text, int64_t type = 1) {
  auto& tokens = source->Mutable<std::vector<std::string>>(kTokens);
  tokens.push_back(text);
  source->Mutable<std::vector<int64_t>>(kTypes).push_back(type);
  return static_cast<int32_t>(tokens.size()) - 1;
}

}  // namespace slim

#endif  // TESTS_ENGINE_TOKENIZER_VOCABULARY_FIXTURE_H_
