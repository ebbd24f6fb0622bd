// libFuzzer target for the GGUF reader: bytes in, everything readable read. Runs on memory, no
// files. The mutator knows the format a little: it starts from sound files and plants extreme
// numbers, which plain byte mutation seldom finds.
//
//   cmake --preset asan-ubsan -DSLIM_FUZZ=ON && cmake --build build-asan --target gguf_fuzz
//   build-asan/tests/gguf_fuzz -max_total_time=60 -malloc_limit_mb=32 -max_len=65536
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "engine/load/gguf_reader.h"
#include "tests/engine/load/exercise.h"
#include "tests/testing/tiny_model.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace slim {
namespace {

std::vector<std::string> MakeSeeds() {
  std::vector<std::string> seeds;
  TinyModelOptions options;
  options.num_layers = 1;
  options.num_heads = 2;
  options.num_kv_heads = 1;
  options.ffn_width = 32;
  options.vocab_size = kTinyModelMinVocab + 5;
  options.weight_dtypes = {DType::kQ4_1, DType::kQ4_0, DType::kQ8_0,
                           DType::kF16,  DType::kBF16, DType::kF32};
  seeds.push_back(MakeTinyModel(options));

  GgufWriter small;
  small.AddUint32("general.alignment", 8);
  small.set_alignment_bytes(8);
  small.AddString("s", "text");
  small.AddStrings("a", {"x", "", "yz"});
  small.AddFloats("f", {1, 2});
  small.AddBool("b", true);
  small.AddUint64("u", 1);
  small.AddTensor("t", {2, 3}, DType::kF32, std::string(24, 'd'));
  small.AddTensor("q", {32, 1}, DType::kQ4_1, std::string(20, 'd'));
  seeds.push_back(small.Finish());

  GgufWriter unsupported;
  unsupported.set_version(2);
  unsupported.AddTensorInfo("k", {256}, 12, 0);
  unsupported.AppendData(std::string(144, 'd'));
  seeds.push_back(unsupported.Finish());
  return seeds;
}

constexpr uint64_t kExtremes[] = {0,
                                  1,
                                  2,
                                  3,
                                  4,
                                  7,
                                  8,
                                  9,
                                  13,
                                  31,
                                  32,
                                  33,
                                  64,
                                  255,
                                  256,
                                  65535,
                                  65536,
                                  1u << 24,
                                  1u << 31,
                                  0xffffffffu,
                                  uint64_t{1} << 32,
                                  uint64_t{1} << 42,
                                  uint64_t{1} << 61,
                                  (uint64_t{1} << 61) + 1,
                                  (uint64_t{1} << 63) - 1,
                                  uint64_t{1} << 63,
                                  ~uint64_t{0} - 31,
                                  ~uint64_t{0}};

}  // namespace
}  // namespace slim

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto reader =
      slim::GgufReader::Parse(std::string(reinterpret_cast<const char*>(data), size));
  if (reader.ok()) slim::ExerciseReader(**reader);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  static const std::vector<std::string> seeds = slim::MakeSeeds();
  const unsigned int choice = seed % 16;
  const unsigned int random = seed / 16 * 2654435761u;
  if (size < 24 || choice == 0) {
    const std::string& start = seeds[random % seeds.size()];
    if (start.size() <= max_size) {
      std::memcpy(data, start.data(), start.size());
      return start.size();
    }
  }
  if (choice < 7) {
    const uint64_t value = slim::kExtremes[random % std::size(slim::kExtremes)];
    const size_t width = choice < 5 ? 8 : 4;
    if (size >= width) {
      // Mostly near the start, where the counts and lengths are dense.
      const size_t span = choice % 2 == 0 ? size : std::min<size_t>(size, 512);
      const size_t position = (random >> 7) % (span - width + 1);
      std::memcpy(data + position, &value, width);
      return size;
    }
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
