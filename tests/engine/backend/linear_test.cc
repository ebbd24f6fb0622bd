// Linear layers of the CPU backend on every instruction set of the machine: against the plain
// reference, against an exact emulation of the quantised arithmetic, and against themselves in
// other batches and with other thread counts.

#include <cmath>
#include <limits>

#include "engine/backend/cpu/packed_weight.h"
#include "gmock/gmock.h"
#include "tests/engine/backend/op_fixtures.h"
#include "tests/testing/reference_backend.h"

namespace slim {
namespace {

using Kind = LinearInput::Kind;

constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,
                               DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};

struct Shape {
  int64_t rows, outputs, inputs;
};
// Odd row counts, partial tiles and panels, both sides of the thin and wide limits.
const Shape kShapes[] = {{1, 16, 32},   {1, 48, 576},  {2, 50, 64},   {3, 17, 96},  {4, 1, 32},
                         {5, 33, 128},  {6, 64, 160},  {7, 192, 64},  {8, 40, 96},  {13, 48, 64},
                         {16, 49, 64},  {17, 100, 96}, {31, 31, 288}, {63, 65, 64}, {64, 48, 32},
                         {65, 129, 64}, {129, 80, 96}, {260, 52, 64}};

// The inputs as int8 by groups of 32 has them.
std::vector<float> RoundedInput(const float* x, int64_t cols) {
  std::vector<float> rounded(cols);
  for (int64_t g = 0; g < cols; g += 32) {
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[g + i]));
    if (largest == 0) continue;
    const float scale = largest * (1.0f / 127.0f), inverse = 127.0f / largest;
    for (int i = 0; i < 32; ++i) rounded[g + i] = std::nearbyint(x[g + i] * inverse) * scale;
  }
  return rounded;
}

// y of a quantised weight for plain inputs, in double from the int8 activations; `magnitude` gets
// the sum of the absolute terms, the scale of its rounding error.
double Emulate(const TestTensor& w, const float* x, int64_t output, double* magnitude) {
  const int64_t cols = w.tensor.cols;
  double sum = 0;
  *magnitude = 0;
  const std::vector<float> rounded = RoundedInput(x, cols);
  for (int64_t g = 0; g < cols; g += 32) {
    for (int i = 0; i < 32; ++i) {
      const double term = double{rounded[g + i]} * w.values[output * cols + g + i];
      sum += term;
      *magnitude += std::fabs(term);
    }
  }
  return sum;
}

std::vector<float> RunLinear(Backend& backend, const TestTensor& w, std::vector<float>& x,
                             int64_t rows, Kind kind = Kind::kPlain,
                             std::vector<float>* up = nullptr, const Buffer* norm = nullptr,
                             const Buffer* bias = nullptr,
                             const std::vector<float>* residual = nullptr,
                             bool prompt_rows = false) {
  auto weight = backend.PrepareLinear(w.tensor);
  SLIM_CHECK(weight.ok());
  if (prompt_rows) SLIM_CHECK(backend.PreparePromptRows({weight->get()}).ok());
  std::vector<float> out(rows * w.tensor.rows, 123.0f);
  if (residual != nullptr) out = *residual;
  LinearInput input;
  input.kind = kind;
  input.x = ViewOf(x, rows);
  if (up != nullptr) input.up = ViewOf(*up, rows);
  input.norm_weight = norm;
  input.eps = 1e-5f;
  input.prompt_rows = prompt_rows;
  const LinearOutput output{weight->get(), ViewOf(out, rows), residual != nullptr, bias};
  SLIM_CHECK(backend.Linear(input, {output}).ok());
  return out;
}

class LinearTest : public testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, testing::ValuesIn(MachineIsas()), IsaTestName);

TEST_P(LinearTest, EqualsTheEmulatedArithmetic) {
  auto backend = MakeCpu(GetParam());
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const DType dtype : kAllTypes) {
      const TestTensor w = RandomTensor(dtype, shape.outputs, shape.inputs, ++seed);
      std::vector<float> x = RandomFloats(shape.rows * shape.inputs, ++seed);
      const std::vector<float> y = RunLinear(*backend, w, x, shape.rows);
      for (int64_t r = 0; r < shape.rows; ++r) {
        for (int64_t n = 0; n < shape.outputs; ++n) {
          double magnitude = 0, want = 0;
          if (BlockElements(dtype) == 32) {
            want = Emulate(w, &x[r * shape.inputs], n, &magnitude);
          } else {
            for (int64_t k = 0; k < shape.inputs; ++k) {
              const double term = double{x[r * shape.inputs + k]} * w.values[n * shape.inputs + k];
              want += term;
              magnitude += std::fabs(term);
            }
          }
          ASSERT_NEAR(y[r * shape.outputs + n], want, 1e-5 * magnitude + 1e-30)
              << std::string(DTypeName(dtype)) << " rows " << shape.rows << " outputs "
              << shape.outputs << " inputs " << shape.inputs << " at " << r << ", " << n;
        }
      }
    }
  }
}

// Blocks of 64 numbers times the Hadamard matrix, with the kernels' signs.
std::vector<double> Rotated(const float* x, int64_t cols) {
  std::vector<double> y(cols);
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = i / 64 * 64; j < i / 64 * 64 + 64; ++j) {
      const bool negative = (__builtin_parityll(i & j & 63) ^ (kPromptSigns >> (j & 63) & 1)) != 0;
      y[i] += negative ? -double{x[j]} : double{x[j]};
    }
  }
  return y;
}

// How far apart x . w and the product of both in bytes can be, when each number is at most half a
// step off: a step is the largest of `span` numbers over 127.
double RoundingBound(const std::vector<double>& x, const std::vector<double>& w, int64_t span) {
  const auto cols = static_cast<int64_t>(x.size());
  double bound = 0;
  for (int64_t first = 0; first < cols; first += span) {
    const int64_t end = std::min(first + span, cols);
    double x_step = 0, w_step = 0, x_sum = 0, w_sum = 0;
    for (int64_t k = first; k < end; ++k) {
      x_step = std::max(x_step, std::fabs(x[k]) / 127);
      w_step = std::max(w_step, std::fabs(w[k]) / 127);
      x_sum += std::fabs(x[k]);
      w_sum += std::fabs(w[k]);
    }
    bound += (x_sum * w_step + w_sum * x_step) / 2 +
             static_cast<double>(end - first) * x_step * w_step / 4;
  }
  return bound;
}

// Prompt rows: inputs and weights may be rounded to bytes once they are rotated.
TEST_P(LinearTest, PromptRowsStayWithinHalfAStep) {
  auto backend = MakeCpu(GetParam());
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.insert(shapes.end(), {{7, 40, 192}, {11, 33, 256}, {13, 50, 448}, {20, 16, 1536}});
  uint32_t seed = 5000;
  for (const Shape& shape : shapes) {
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
      const TestTensor w = RandomTensor(dtype, shape.outputs, shape.inputs, ++seed);
      std::vector<float> x = RandomFloats(shape.rows * shape.inputs, ++seed);
      // A large activation, and a part that all have in common.
      x[shape.inputs / 2] = 40.0f;
      for (int64_t k = shape.inputs; k < 2 * shape.inputs && shape.rows > 1; ++k) x[k] += 8.0f;
      const std::vector<float> y = RunLinear(*backend, w, x, shape.rows, Kind::kPlain, nullptr,
                                             nullptr, nullptr, nullptr, /*prompt_rows=*/true);
      const bool rotated = backend->info().prompt_rows_apart && shape.inputs % 64 == 0;
      double error = 0, total = 0;
      std::vector<std::vector<double>> rotated_weights;
      for (int64_t n = 0; rotated && n < shape.outputs; ++n) {
        rotated_weights.push_back(Rotated(&w.values[n * shape.inputs], shape.inputs));
      }
      for (int64_t r = 0; r < shape.rows; ++r) {
        const std::vector<double> rotated_row =
            Rotated(&x[r * shape.inputs], rotated ? shape.inputs : 0);
        for (int64_t n = 0; n < shape.outputs; ++n) {
          double magnitude = 0;
          double want = Emulate(w, &x[r * shape.inputs], n, &magnitude), bound = 0;
          if (rotated) {
            want = 0;
            for (int64_t k = 0; k < shape.inputs; ++k) {
              want += double{x[r * shape.inputs + k]} * w.values[n * shape.inputs + k];
            }
            bound = RoundingBound(rotated_row, rotated_weights[n], 192) / 64;
          }
          const double got = y[r * shape.outputs + n];
          ASSERT_NEAR(got, want, bound + 1e-5 * magnitude)
              << std::string(DTypeName(dtype)) << " rows " << shape.rows << " outputs "
              << shape.outputs << " inputs " << shape.inputs << " at " << r << ", " << n;
          error += (got - want) * (got - want);
          total += want * want;
        }
      }
      // Many roundings cancel out: one that is taken the wrong way does not.
      EXPECT_LT(std::sqrt(error), 0.03 * std::sqrt(total))
          << std::string(DTypeName(dtype)) << " inputs " << shape.inputs;
    }
  }
}

// Whether a weight's form for prompt rows is kept or made for the call shows in no bit, whichever
// weights share the call.
TEST_P(LinearTest, PromptRowsDoNotDependOnWhatIsKept) {
  auto backend = MakeCpu(GetParam());
  const int64_t rows = 9, inputs = 192;
  std::vector<TestTensor> tensors;
  std::vector<std::unique_ptr<LinearWeight>> weights;
  for (const int64_t outputs : {40, 17, 64}) {
    tensors.push_back(RandomTensor(DType::kQ4_1, outputs, inputs, 3));
    auto weight = backend->PrepareLinear(tensors.back().tensor);
    ASSERT_TRUE(weight.ok()) << weight.status();
    weights.push_back(*std::move(weight));
  }
  tensors.push_back(RandomTensor(DType::kF16, 20, inputs, 3));
  auto floats = backend->PrepareLinear(tensors.back().tensor);
  ASSERT_TRUE(floats.ok()) << floats.status();
  weights.push_back(*std::move(floats));
  std::vector<float> x = RandomFloats(rows * inputs, 4);
  const auto run = [&](const std::vector<int>& chosen) {
    std::vector<std::vector<float>> results;
    for (const int i : chosen) results.emplace_back(rows * weights[i]->outputs());
    std::vector<LinearOutput> outputs;
    for (size_t i = 0; i < chosen.size(); ++i) {
      outputs.push_back({weights[chosen[i]].get(), ViewOf(results[i], rows), false, nullptr});
    }
    LinearInput input;
    input.x = ViewOf(x, rows);
    input.prompt_rows = true;
    SLIM_CHECK(backend->Linear(input, outputs).ok());
    return results;
  };
  const auto none_kept = run({0, 1, 2, 3});
  ASSERT_TRUE(backend->PreparePromptRows({weights[1].get()}).ok());
  const auto kept = [&](int i) {
    return static_cast<const PackedWeight&>(*weights[i]).kept_prompt_form().bytes != nullptr;
  };
  EXPECT_EQ(kept(1), backend->info().prompt_rows_apart);
  EXPECT_FALSE(kept(0));
  EXPECT_EQ(run({0, 1, 2, 3}), none_kept);
  EXPECT_EQ(run({1, 0}), (std::vector<std::vector<float>>{none_kept[1], none_kept[0]}));
  EXPECT_EQ(run({1})[0], none_kept[1]);
  EXPECT_EQ(run({2})[0], none_kept[2]);
}

// The forms take at most what the weights take, and a quarter more.
TEST_P(LinearTest, PromptFormsAreKeptWhileThereIsRoom) {
  auto backend = MakeCpu(GetParam());
  std::vector<std::unique_ptr<LinearWeight>> weights;
  std::vector<LinearWeight*> all;
  int64_t bytes = 0, kept = 0;
  for (int i = 0; i < 20; ++i) {
    const TestTensor w = RandomTensor(DType::kQ4_1, 64, 192, 3);
    auto weight = backend->PrepareLinear(w.tensor);
    ASSERT_TRUE(weight.ok()) << weight.status();
    bytes += (*weight)->bytes();
    weights.push_back(*std::move(weight));
    all.push_back(weights.back().get());
  }
  ASSERT_TRUE(backend->PreparePromptRows(all).ok());
  for (const LinearWeight* weight : all) {
    const auto* packed = static_cast<const PackedWeight*>(weight);
    if (packed->kept_prompt_form().bytes != nullptr) kept += packed->PromptBytes();
  }
  const int64_t one = static_cast<const PackedWeight*>(all[0])->PromptBytes();
  const int64_t room = bytes + bytes / 4;
  EXPECT_LE(kept, room);
  EXPECT_EQ(kept > room - one, backend->info().prompt_rows_apart);
}

struct FeedForwardCase {
  DType gate, up, down;
  int64_t inputs, width;
};

// Whatever a backend fuses: the bits are those of the layers one by one.
TEST_P(LinearTest, FeedForwardEqualsItsLayers) {
  constexpr DType kQ41 = DType::kQ4_1;
  const FeedForwardCase cases[] = {
      {kQ41, kQ41, kQ41, 64, 64},          {kQ41, kQ41, DType::kQ8_0, 576, 352},
      {kQ41, DType::kQ4_0, kQ41, 192, 96}, {DType::kQ8_0, kQ41, DType::kF32, 448, 50},
      {kQ41, DType::kF16, kQ41, 128, 64},  {DType::kBF16, kQ41, kQ41, 128, 64},
      {kQ41, kQ41, kQ41, 96, 64},
  };
  constexpr float kUntouched = 77;
  for (const FeedForwardCase& c : cases) {
    auto backend = MakeCpu(GetParam(), 2);
    const TestTensor tensors[] = {RandomTensor(c.gate, c.width, c.inputs, 3),
                                  RandomTensor(c.up, c.width, c.inputs, 4),
                                  RandomTensor(c.down, c.inputs, c.width, 5)};
    std::vector<std::unique_ptr<LinearWeight>> weights;
    for (const TestTensor& tensor : tensors) {
      auto weight = backend->PrepareLinear(tensor.tensor);
      ASSERT_TRUE(weight.ok()) << weight.status();
      weights.push_back(*std::move(weight));
    }
    ASSERT_TRUE(backend->PreparePromptRows({weights[1].get()}).ok());
    auto norm = backend->PrepareVector(RandomTensor(DType::kF32, 1, c.inputs, 7).tensor);
    ASSERT_TRUE(norm.ok()) << norm.status();
    for (const int64_t rows : {1, 6, 11, 140}) {
      for (const bool prompt_rows : {false, true}) {
        SCOPED_TRACE(absl::StrCat("case ", &c - cases, " rows ", rows, " prompt ", prompt_rows));
        const std::vector<float> x = RandomFloats(rows * c.inputs, 6);
        std::vector<float> gate(rows * c.width, kUntouched), up = gate, hidden = x, want = x;
        FeedForwardArgs args;
        args.input.kind = Kind::kRmsNorm;
        args.input.norm_weight = &*norm;
        args.input.eps = 1e-5f;
        args.input.prompt_rows = prompt_rows;
        args.gate = weights[0].get();
        args.up = weights[1].get();
        args.down = weights[2].get();
        args.gate_rows = ViewOf(gate, rows);
        args.up_rows = ViewOf(up, rows);
        args.input.x = args.out = ViewOf(hidden, rows);  // as in a model
        ASSERT_TRUE(backend->FeedForward(args).ok());
        const bool fused = prompt_rows && backend->info().prompt_rows_apart && &c - cases < 4;
        EXPECT_EQ(gate[0] == kUntouched, fused);

        LinearInput input = args.input;
        input.x = ViewOf(want, rows);
        ASSERT_TRUE(backend->Linear(input, {{args.gate, args.gate_rows, false, nullptr}}).ok());
        ASSERT_TRUE(backend->Linear(input, {{args.up, args.up_rows, false, nullptr}}).ok());
        LinearInput activated;
        activated.kind = Kind::kSwiGlu;
        activated.x = args.gate_rows;
        activated.up = args.up_rows;
        activated.prompt_rows = prompt_rows;
        ASSERT_TRUE(backend->Linear(activated, {{args.down, input.x, true, nullptr}}).ok());
        EXPECT_TRUE(SameBits(hidden.data(), want.data(), rows * c.inputs));
        EXPECT_FALSE(SameBits(hidden.data(), x.data(), rows * c.inputs)) << "nothing was added";
      }
    }
  }
}

TEST_P(LinearTest, PromptRowsDoNotDependOnTheirBatchNorOnThreads) {
  for (const DType dtype : kAllTypes) {
    const int64_t rows = 150, inputs = 320, outputs = 70;
    const TestTensor w = RandomTensor(dtype, outputs, inputs, 17);
    std::vector<float> x = RandomFloats(rows * inputs, 18);
    std::vector<float> up = RandomFloats(rows * inputs, 19);
    const auto run = [&](int threads, int64_t first, int64_t count) {
      auto backend = MakeCpu(GetParam(), threads);
      std::vector<float> part(x.begin() + first * inputs, x.begin() + (first + count) * inputs);
      std::vector<float> part_up(up.begin() + first * inputs,
                                 up.begin() + (first + count) * inputs);
      return RunLinear(*backend, w, part, count, Kind::kSwiGlu, &part_up, nullptr, nullptr, nullptr,
                       /*prompt_rows=*/true);
    };
    const auto whole = run(1, 0, rows);
    for (const int threads : {1, 3}) {
      for (const int64_t count : {1, 5, 6, 7, 13, 64, 139}) {
        EXPECT_TRUE(SameBits(run(threads, 11, count).data(), &whole[11 * outputs], count * outputs))
            << std::string(DTypeName(dtype)) << " rows " << count << " threads " << threads;
      }
    }
  }
}

// Scales and inputs that are no numbers must not turn into numbers.
TEST_P(LinearTest, PromptRowsKeepNan) {
  auto backend = MakeCpu(GetParam());
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1}) {
    TestTensor w = RandomTensor(dtype, 20, 448, 3);
    std::vector<float> x = RandomFloats(3 * 448, 4);
    x[448 + 300] = std::numeric_limits<float>::quiet_NaN();
    const auto run = [&] {
      return RunLinear(*backend, w, x, 3, Kind::kPlain, nullptr, nullptr, nullptr, nullptr, true);
    };
    std::vector<float> y = run();
    for (int i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(y[i]), i >= 20 && i < 40) << i;
    const uint16_t nan = 0x7e00;
    const int64_t blocks = 448 / 32;
    std::memcpy(&w.bytes[(7 * blocks + 9) * BlockBytes(dtype)], &nan, 2);  // output 7
    y = run();
    for (int i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(y[i]), i == 7) << i;
  }
}

// Against the reference the int8 rounding of the inputs shows: at most half a step per input.
TEST_P(LinearTest, TransformsAgreeWithTheReference) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReferenceBackend();
  uint32_t seed = 1000;
  for (const Kind kind : {Kind::kRmsNorm, Kind::kSwiGlu}) {
    for (const DType dtype : kAllTypes) {
      for (const int64_t rows : {1, 3, 20}) {
        const int64_t inputs = 160, outputs = 50;
        const TestTensor w = RandomTensor(dtype, outputs, inputs, ++seed);
        std::vector<float> x = RandomFloats(rows * inputs, ++seed, 3.0f);
        std::vector<float> up = RandomFloats(rows * inputs, ++seed);
        const std::vector<float> norm = RandomFloats(inputs, ++seed);
        const std::vector<float> bias = RandomFloats(outputs, ++seed);
        const std::vector<float> residual = RandomFloats(rows * outputs, ++seed);
        const Buffer norm_a = VectorBuffer(*backend, norm), bias_a = VectorBuffer(*backend, bias);
        const Buffer norm_b = VectorBuffer(*reference, norm);
        const Buffer bias_b = VectorBuffer(*reference, bias);
        const auto got = RunLinear(*backend, w, x, rows, kind, &up, &norm_a, &bias_a, &residual);
        const auto want = RunLinear(*reference, w, x, rows, kind, &up, &norm_b, &bias_b, &residual);
        double error = 0, norm_of_product = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          const double product = want[i] - residual[i] - bias[i % outputs];
          error += std::pow(double{got[i]} - want[i], 2);
          norm_of_product += product * product;
        }
        const double tolerance = BlockElements(dtype) == 32 ? 0.015 : 1e-5;
        EXPECT_LT(std::sqrt(error), tolerance * std::sqrt(norm_of_product))
            << std::string(DTypeName(dtype)) << " rows " << rows;
      }
    }
  }
}

TEST_P(LinearTest, RowsDoNotDependOnTheirBatchNorOnThreads) {
  for (const DType dtype : kAllTypes) {
    const int64_t rows = 150, inputs = 224, outputs = 70;
    const TestTensor w = RandomTensor(dtype, outputs, inputs, 7);
    std::vector<float> x = RandomFloats(rows * inputs, 8);
    std::vector<float> up = RandomFloats(rows * inputs, 9);
    auto one = MakeCpu(GetParam(), 1);
    const auto whole = RunLinear(*one, w, x, rows, Kind::kSwiGlu, &up);
    for (const int threads : {2, 3}) {
      auto several = MakeCpu(GetParam(), threads);
      const auto again = RunLinear(*several, w, x, rows, Kind::kSwiGlu, &up);
      EXPECT_TRUE(SameBits(whole.data(), again.data(), rows * outputs));
    }
    for (const int64_t count : {1, 2, 3, 5, 8, 12, 13, 16, 17, 25, 32, 33, 34, 37, 70}) {
      const int64_t first = 11;
      std::vector<float> part(x.begin() + first * inputs, x.begin() + (first + count) * inputs);
      std::vector<float> part_up(up.begin() + first * inputs,
                                 up.begin() + (first + count) * inputs);
      const auto alone = RunLinear(*one, w, part, count, Kind::kSwiGlu, &part_up);
      EXPECT_TRUE(SameBits(alone.data(), &whole[first * outputs], count * outputs))
          << std::string(DTypeName(dtype)) << " rows " << count;
    }
  }
}

TEST_P(LinearTest, SeveralOutputsEqualSingleOnes) {
  auto backend = MakeCpu(GetParam());
  const int64_t inputs = 96;
  std::vector<TestTensor> tensors;
  std::vector<std::unique_ptr<LinearWeight>> weights;
  for (const DType dtype : kAllTypes) {
    tensors.push_back(RandomTensor(dtype, 30 + 20 * static_cast<int>(dtype), inputs, 5));
    auto weight = backend->PrepareLinear(tensors.back().tensor);
    ASSERT_TRUE(weight.ok());
    weights.push_back(*std::move(weight));
  }
  for (const int64_t rows : {1, 7, 16, 20}) {
    std::vector<float> x = RandomFloats(rows * inputs, 3);
    LinearInput input;
    input.x = ViewOf(x, rows);
    std::vector<std::vector<float>> outs;
    for (const TestTensor& tensor : tensors) outs.emplace_back(rows * tensor.tensor.rows);
    std::vector<LinearOutput> outputs;
    for (size_t i = 0; i < outs.size(); ++i) {
      outputs.push_back({weights[i].get(), ViewOf(outs[i], rows), false, nullptr});
    }
    ASSERT_TRUE(backend->Linear(input, outputs).ok());
    for (size_t i = 0; i < outs.size(); ++i) {
      const auto single = RunLinear(*backend, tensors[i], x, rows);
      EXPECT_TRUE(SameBits(single.data(), outs[i].data(), static_cast<int64_t>(single.size())))
          << "rows " << rows << " output " << i;
    }
  }
}

TEST_P(LinearTest, PreciseProductsAgreeWithTheReferenceMuchCloser) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReferenceBackend();
  for (const DType dtype : kAllTypes) {
    const int64_t inputs = 160, outputs = 117, most = 70;
    const TestTensor w = RandomTensor(dtype, outputs, inputs, 21);
    std::vector<float> x = RandomFloats(most * inputs, 22);
    const std::vector<float> norm = RandomFloats(inputs, 23), bias = RandomFloats(outputs, 24);
    const std::vector<float> residual = RandomFloats(most * outputs, 25);
    const auto run = [&](Backend& b, int64_t rows) {
      const Buffer norm_buffer = VectorBuffer(b, norm), bias_buffer = VectorBuffer(b, bias);
      auto weight = b.PrepareLinear(w.tensor);
      std::vector<float> out(residual.begin(), residual.begin() + rows * outputs);
      LinearInput input;
      input.kind = Kind::kRmsNorm;
      input.x = {x.data(), rows, inputs};
      input.norm_weight = &norm_buffer;
      input.eps = 1e-5f;
      LinearOutput output{weight->get(), ViewOf(out, rows), true, &bias_buffer};
      output.precise = true;
      SLIM_CHECK(b.Linear(input, {output}).ok());
      return out;
    };
    const std::vector<float> whole = run(*backend, most), want = run(*reference, most);
    double error = 0, norm_of_product = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      error += std::pow(double{whole[i]} - want[i], 2);
      norm_of_product += std::pow(double{want[i]} - residual[i] - bias[i % outputs], 2);
    }
    EXPECT_LT(std::sqrt(error), 1e-4 * std::sqrt(norm_of_product));
    for (const int64_t rows : {1, 2, 8, 9, 16, 17, 65}) {
      EXPECT_TRUE(SameBits(run(*backend, rows).data(), whole.data(), rows * outputs)) << rows;
    }
  }
}

TEST_P(LinearTest, NanInARowReachesAllItsOutputsAndNoOther) {
  auto backend = MakeCpu(GetParam());
  for (const DType dtype : kAllTypes) {
    const TestTensor w = RandomTensor(dtype, 20, 64, 3);
    std::vector<float> x = RandomFloats(3 * 64, 4);
    x[64 + 37] = std::numeric_limits<float>::quiet_NaN();
    const auto y = RunLinear(*backend, w, x, 3);
    for (int i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(y[i]), i >= 20 && i < 40) << i;
  }
}

TEST_P(LinearTest, ExtremeInputsStayFinite) {
  auto backend = MakeCpu(GetParam());
  const TestTensor w = RandomTensor(DType::kQ4_1, 16, 32, 3);
  for (const float value : {0.0f, 1e-40f, -1e-37f, 1e30f}) {
    std::vector<float> x(32, value), up(32, 1.0f);
    for (const Kind kind : {Kind::kPlain, Kind::kSwiGlu}) {
      for (const float y : RunLinear(*backend, w, x, 1, kind, &up)) EXPECT_TRUE(std::isfinite(y));
      for (float& v : x) v = -v;
      for (const float y : RunLinear(*backend, w, x, 1, kind, &up)) EXPECT_TRUE(std::isfinite(y));
    }
  }
}

TEST_P(LinearTest, EmbedReturnsTheExactRows) {
  auto backend = MakeCpu(GetParam());
  for (const DType dtype : kAllTypes) {
    const TestTensor w = RandomTensor(dtype, 37, 96, 11);
    auto weight = backend->PrepareLinear(w.tensor);
    ASSERT_TRUE(weight.ok());
    const std::vector<int32_t> tokens = {36, 0, 17, 17, 16};
    std::vector<float> out(tokens.size() * 96);
    ASSERT_TRUE(backend->Embed(**weight, tokens, ViewOf(out, 5)).ok());
    for (size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_TRUE(SameBits(&out[i * 96], &w.values[tokens[i] * 96], 96));
    }
  }
}

TEST_P(LinearTest, RefusesShapesThatCannotBePacked) {
  auto backend = MakeCpu(GetParam());
  TestTensor w = RandomTensor(DType::kQ4_0, 4, 64, 1);
  w.tensor.cols = 48;
  EXPECT_EQ(backend->PrepareLinear(w.tensor).status().code(), absl::StatusCode::kInvalidArgument);
  w.tensor.cols = 0;
  EXPECT_EQ(backend->PrepareLinear(w.tensor).status().code(), absl::StatusCode::kInvalidArgument);
  HostTensor vector = RandomTensor(DType::kQ8_0, 1, 32, 1).tensor;
  EXPECT_EQ(backend->PrepareVector(vector).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend->Allocate(int64_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace slim
