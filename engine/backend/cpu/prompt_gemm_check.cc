#include "engine/backend/cpu/prompt_gemm_check.h"

#include <vector>

namespace slim {
namespace {

constexpr int64_t kRows = 33, kInputs = kPromptSpan + kPromptBlock;

// Numbers low .. low + count - 1 that follow no pattern of the tiles.
template <typename T>
std::vector<T> Varied(int64_t size, uint32_t count, int low) {
  std::vector<T> values(size);
  uint32_t state = 12345;
  for (T& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<T>(static_cast<int>((state >> 8) % count) + low);
  }
  return values;
}

}  // namespace

bool SamePromptProducts(PromptGemm one, PromptGemm other) {
  const int64_t spans = PromptSpans(kInputs), outputs = kPromptTiles * kTileOutputs;
  const auto x = Varied<int8_t>(kRows * kInputs, 256, -128);  // read as unsigned bytes
  const auto x_scales = Varied<float>(kRows * spans, 100, 1);
  auto weights = Varied<int8_t>(outputs * kInputs, 255, -127);
  auto scales = Varied<float>(outputs * spans, 100, 1);
  auto starts = Varied<int32_t>(outputs * spans, 2000000, -1000000);
  GemmArgs args;
  args.rows = kRows;
  args.inputs = kInputs;
  args.tiles = kPromptTiles;
  args.columns = static_cast<int>(outputs);
  args.x_values = x.data();
  args.x_scales = x_scales.data();
  args.out_stride = outputs;
  for (int t = 0; t < kPromptTiles; ++t) {
    args.prompt[t] = {weights.data() + t * kTileOutputs * kInputs,
                      scales.data() + t * kTileOutputs * spans,
                      starts.data() + t * kTileOutputs * spans};
  }
  std::vector<float> a(kRows * outputs), b(kRows * outputs);
  args.out = a.data();
  one(args);
  args.out = b.data();
  other(args);
  return a == b;
}

}  // namespace slim
