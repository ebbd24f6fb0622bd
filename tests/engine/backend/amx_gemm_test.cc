// Products of prompt rows on AMX: the bits of the AVX-512 kernel, with emulated tile registers and,
// where the processor has them, with the real ones.

#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu_features.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/backend/cpu/prompt_gemm_check.h"
#include "gtest/gtest.h"
#if defined(__x86_64__)
#include "tests/engine/backend/emulated_amx.h"
#endif

namespace slim {
namespace {

#if defined(__x86_64__)
struct Shape {
  int64_t rows, inputs;
  int tiles, columns;
  bool swiglu, accumulate, bias;
};

class AmxGemmTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!DetectCpuFeatures().avx512) GTEST_SKIP() << "this processor has no AVX-512";
  }

  // Compares `gemm` with the AVX-512 kernel on random operands.
  template <typename Gemm>
  void Compare(const Gemm& gemm) {
    for (const int64_t rows : {1, 5, 15, 16, 17, 31, 32, 33, 48, 64, 139}) {
      for (const int64_t inputs : {64, 192, 448, 576}) {
        Check(gemm, {rows, inputs, 2, 32, false, false, false});
        Check(gemm, {rows, inputs, 2, 27, false, true, true});
        Check(gemm, {rows, inputs, 1, 16, false, true, false});
        Check(gemm, {rows, inputs, 1, 3, false, false, true});
        Check(gemm, {rows, inputs, 2, 16, true, false, false});
        Check(gemm, {rows, inputs, 2, 9, true, false, false});
      }
    }
  }

 private:
  template <typename T>
  std::vector<T> Random(int64_t count, int low, int high, T unit) {
    std::uniform_int_distribution<int> any(low, high);
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(any(draw_)) * unit;
    return values;
  }

  template <typename Gemm>
  void Check(const Gemm& gemm, const Shape& shape) {
    SCOPED_TRACE(absl::StrCat("rows ", shape.rows, " inputs ", shape.inputs, " tiles ", shape.tiles,
                              " columns ", shape.columns, " swiglu ", shape.swiglu));
    const int64_t spans = PromptSpans(shape.inputs), stride = 40;
    std::vector<uint8_t> x = Random<uint8_t>(shape.rows * shape.inputs, 0, 255, 1);
    const std::vector<float> x_scales = Random(shape.rows * spans, -50, 50, 0.001f);
    std::vector<int8_t> weights[2];
    std::vector<float> scales[2];
    std::vector<int32_t> starts[2];
    const std::vector<float> bias = Random(32, -9, 9, 0.25f);
    const std::vector<float> before = Random(shape.rows * stride, -99, 99, 0.5f);
    GemmArgs args;
    args.rows = shape.rows;
    args.inputs = shape.inputs;
    args.tiles = shape.tiles;
    args.columns = shape.columns;
    args.x_values = reinterpret_cast<const int8_t*>(x.data());
    args.x_scales = x_scales.data();
    args.swiglu = shape.swiglu;
    args.accumulate = shape.accumulate;
    if (shape.bias) args.bias = bias.data();
    args.out_stride = stride;
    for (int t = 0; t < 2; ++t) {
      weights[t] = Random<int8_t>(shape.inputs * kTileOutputs, -127, 127, 1);
      scales[t] = Random(spans * kTileOutputs, 1, 100, 1e-4f);
      starts[t] = Random<int32_t>(spans * kTileOutputs, -900000, 900000, 1);
      args.prompt[t] = {weights[t].data(), scales[t].data(), starts[t].data()};
    }
    std::vector<float> want = before, got = before;
    args.out = want.data();
    kAvx512Kernels.gemm_prompt(args);
    args.out = got.data();
    gemm(args);
    EXPECT_EQ(got, want);
    EXPECT_NE(got, before);
    for (int64_t r = 0; r < shape.rows; ++r) {
      for (int64_t c = shape.columns; c < stride; ++c) {
        ASSERT_EQ(got[r * stride + c], before[r * stride + c]) << "beyond the columns, row " << r;
      }
    }
  }

  std::mt19937 draw_{7};
};

TEST_F(AmxGemmTest, EmulatedTilesGiveTheBitsOfAvx512) {
  Compare([](const GemmArgs& args) {
    const char* const fault = GemmPromptEmulatedAmx(args);
    EXPECT_EQ(fault, nullptr) << fault;
  });
}

TEST_F(AmxGemmTest, TheCheckAtTheStartFindsWhatIsWrong) {
  const PromptGemm right = kAvx512Kernels.gemm_prompt;
  EXPECT_TRUE(SamePromptProducts([](const GemmArgs& args) { GemmPromptEmulatedAmx(args); }, right));
  const PromptGemm swapped = [](const GemmArgs& args) {
    GemmArgs wrong = args;
    std::swap(wrong.prompt[0], wrong.prompt[1]);
    GemmPromptEmulatedAmx(wrong);
  };
  EXPECT_FALSE(SamePromptProducts(swapped, right));
  const PromptGemm last_row_missing = [](const GemmArgs& args) {
    GemmArgs wrong = args;
    --wrong.rows;
    GemmPromptEmulatedAmx(wrong);
  };
  EXPECT_FALSE(SamePromptProducts(last_row_missing, right));
}

TEST_F(AmxGemmTest, RealTilesGiveTheBitsOfAvx512) {
  if (!DetectCpuFeatures().amx) GTEST_SKIP() << "this processor has no AMX, or may not use it";
  Compare(GemmPromptAmx);
}
#endif

}  // namespace
}  // namespace slim
