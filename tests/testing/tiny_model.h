// A small model with random weights in the layout of a real Llama-architecture GGUF file: the same
// keys, tensor names and vocabulary conventions. The same options give the same bytes everywhere.
#ifndef TESTS_TESTING_TINY_MODEL_H_
#define TESTS_TESTING_TINY_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/tensor/dtype.h"
#include "tests/testing/gguf_writer.h"

namespace slim {

struct TinyModelOptions {
  int num_layers = 4;
  int num_heads = 4;
  int num_kv_heads = 2;  // divides num_heads
  int head_dim = 32;     // even; width = num_heads * head_dim
  int ffn_width = 96;
  int vocab_size = 320;  // at least kTinyModelMinVocab
  int context_tokens = 512;
  float rope_base = 10000.0f;
  float rms_epsilon = 1e-5f;
  // One type for every weight matrix of the layers, or several that take turns. Widths must be
  // multiples of 32 for the quantised types. Norm vectors are always F32.
  std::vector<DType> weight_dtypes = {DType::kQ4_1};
  DType embedding_dtype = DType::kQ8_0;
  bool tied_embeddings = true;  // false adds output.weight, of embedding_dtype
  bool add_bos_token = false;
  std::string chat_template;  // empty: ChatML
  uint64_t seed = 1;
};

// Three special tokens, then one token per byte.
inline constexpr int kTinyModelMinVocab = 3 + 256;
inline constexpr int kTinyModelEndOfText = 0;  // <|endoftext|>
inline constexpr int kTinyModelImStart = 1;    // <|im_start|>
inline constexpr int kTinyModelImEnd = 2;      // <|im_end|>, ends a turn

struct TinyVocabulary {
  std::vector<std::string> tokens;   // special tokens, 256 bytes in byte order, merged, unused
  std::vector<int32_t> token_types;  // 1 normal, 3 control, 5 unused
  std::vector<std::string> merges;   // "left right" by rank
};

// A byte-level BPE vocabulary of `vocab_size` tokens: as many merges as fit (English-like ones
// first, at most about 700), the rest unused tokens.
TinyVocabulary MakeTinyVocabulary(int vocab_size);

// The printable character (UTF-8) that byte-level BPE writes for a byte.
std::string ByteLevelSymbol(uint8_t byte);

// The whole file, or a writer that holds it, for tests that change something before Finish.
GgufWriter MakeTinyModelWriter(const TinyModelOptions& options = {});
std::string MakeTinyModel(const TinyModelOptions& options = {});

// The same in a file; returns its path.
std::string WriteTinyModel(absl::string_view file_name, const TinyModelOptions& options = {});

}  // namespace slim

#endif  // TESTS_TESTING_TINY_MODEL_H_
