// The op cases for backends with memory of their own, against the plain reference: shapes, head
// layouts, packed sequences with gaps, long contexts, NaN. They run on CUDA where a GPU is (else
// they skip and say why), and on the CPU backend through the same adapter, which shows that cases
// and adapter are right where no GPU is. Tolerances follow bf16: eight significant bits.

#include <cmath>
#include <limits>

#include "engine/backend/cuda/cuda_module.h"
#include "gmock/gmock.h"
#include "tests/engine/backend/op_fixtures.h"
#include "tests/testing/device_adapter.h"
#include "tests/testing/reference_backend.h"

namespace slim {
namespace {

using Kind = LinearInput::Kind;

class DeviceConformanceTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    CpuBackendOptions cpu;
    cpu.isa = kBf16Isa;
    absl::StatusOr<std::unique_ptr<Backend>> device =
        GetParam() == "cuda" ? CreateCudaBackend() : CpuBackend::Create(cpu);
    if (!device.ok()) GTEST_SKIP() << device.status();
    backend_ = MakeDeviceAdapter(*std::move(device));
    ReferenceOptions options;
    options.kv_type = KvType::kBF16;
    reference_ = MakeReferenceBackend(options);
  }

  std::unique_ptr<Backend> backend_, reference_;
};
INSTANTIATE_TEST_SUITE_P(Device, DeviceConformanceTest, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return info.param; });

// ---------------------------------------------------------------- linear layers, rows

struct LinearCase {
  DType dtype;
  Kind kind;
  int64_t rows, inputs, outputs;
  bool accumulate;
  uint32_t seed;
};

std::vector<float> RunLinear(Backend& backend, const LinearCase& c) {
  const TestTensor w = RandomTensor(c.dtype, c.outputs, c.inputs, c.seed);
  std::vector<float> x = RandomFloats(c.rows * c.inputs, c.seed + 1, 2.0f);
  std::vector<float> up = RandomFloats(c.rows * c.inputs, c.seed + 2);
  std::vector<float> out(c.rows * c.outputs, 0.0f);
  if (c.accumulate) out = RandomFloats(c.rows * c.outputs, c.seed + 3);
  const Buffer norm = VectorBuffer(backend, RandomFloats(c.inputs, c.seed + 4));
  const Buffer bias = VectorBuffer(backend, RandomFloats(c.outputs, c.seed + 5));
  auto weight = backend.PrepareLinear(w.tensor);
  SLIM_CHECK(weight.ok());
  LinearInput input;
  input.kind = c.kind;
  input.x = ViewOf(x, c.rows);
  input.up = ViewOf(up, c.rows);
  input.norm_weight = &norm;
  input.eps = 1e-5f;
  const LinearOutput output{weight->get(), ViewOf(out, c.rows), c.accumulate, &bias};
  SLIM_CHECK(backend.Linear(input, {output}).ok());
  return out;
}

TEST_P(DeviceConformanceTest, LinearLayersAgreeWithTheReference) {
  uint32_t seed = 1;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_1}) {
    for (const Kind kind : {Kind::kPlain, Kind::kRmsNorm, Kind::kSwiGlu}) {
      for (const int64_t rows : {1, 3, 16, 130}) {
        const LinearCase c{dtype, kind, rows, 160, 96, rows % 2 == 1, seed += 10};
        const std::vector<float> got = RunLinear(*backend_, c), want = RunLinear(*reference_, c);
        double error = 0, norm = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          error += std::pow(double{got[i]} - want[i], 2);
          norm += std::pow(double{want[i]}, 2);
        }
        EXPECT_LT(std::sqrt(error), 0.015 * std::sqrt(norm))
            << std::string(DTypeName(dtype)) << " rows " << rows << " kind "
            << static_cast<int>(kind);
      }
    }
  }
}

TEST_P(DeviceConformanceTest, NanInARowReachesAllItsOutputsAndNoOther) {
  const TestTensor w = RandomTensor(DType::kBF16, 32, 64, 3);
  std::vector<float> x = RandomFloats(3 * 64, 4), out(3 * 32, 0.0f);
  x[64 + 37] = std::numeric_limits<float>::quiet_NaN();
  auto weight = backend_->PrepareLinear(w.tensor);
  ASSERT_TRUE(weight.ok());
  LinearInput input;
  input.x = ViewOf(x, 3);
  ASSERT_TRUE(
      backend_->Linear(input, {LinearOutput{weight->get(), ViewOf(out, 3), false, nullptr}}).ok());
  for (int i = 0; i < 96; ++i) EXPECT_EQ(std::isnan(out[i]), i >= 32 && i < 64) << i;
}

TEST_P(DeviceConformanceTest, EmbedAndCopyRowsMoveRows) {
  const TestTensor w = RandomTensor(DType::kQ8_0, 37, 96, 11);
  auto weight = backend_->PrepareLinear(w.tensor);
  ASSERT_TRUE(weight.ok());
  const std::vector<int32_t> tokens = {36, 0, 17, 17, 16};
  std::vector<float> out(tokens.size() * 96);
  ASSERT_TRUE(backend_->Embed(**weight, tokens, ViewOf(out, 5)).ok());
  for (size_t i = 0; i < out.size(); ++i) {
    const float want = w.values[tokens[i / 96] * 96 + i % 96];
    EXPECT_NEAR(out[i], want, std::fabs(want) * 0x1p-8f);
  }
  for (const int cols : {7, 8, 576}) {
    std::vector<float> src = RandomFloats(5 * cols, 1), dst(4 * cols, 0.0f);
    const std::vector<int64_t> from = {4, 0, 2}, to = {1, 3, 0};
    ASSERT_TRUE(backend_->CopyRows(ViewOf(src, 5), from, ViewOf(dst, 4), to).ok());
    for (size_t i = 0; i < from.size(); ++i) {
      EXPECT_TRUE(SameBits(&src[from[i] * cols], &dst[to[i] * cols], cols));
    }
    EXPECT_EQ(dst[2 * cols], 0.0f);
  }
}

// Weights of which only the spread matters: products of ones are sums of what was drawn or read.
TEST_P(DeviceConformanceTest, WeightsForMeasuringSpeedHaveTheirDeviation) {
  const int64_t inputs = 256, outputs = 512;
  std::vector<uint16_t> values;
  for (const float v : RandomFloats(inputs * outputs, 9, 0.05f)) values.push_back(F32ToBF16(v));
  HostTensor tensor;
  tensor.name = "blk.0.any";
  tensor.dtype = DType::kBF16;
  tensor.rows = outputs;
  tensor.cols = inputs;
  tensor.data = values.data();
  tensor.random_deviation = 0.05f;
  auto weight = backend_->PrepareLinear(tensor);
  ASSERT_TRUE(weight.ok());
  std::vector<float> x(inputs, 1.0f), out(outputs, 0.0f);
  LinearInput input;
  input.x = ViewOf(x, 1);
  ASSERT_TRUE(
      backend_->Linear(input, {LinearOutput{weight->get(), ViewOf(out, 1), false, nullptr}}).ok());
  double squares = 0;
  for (const float v : out) squares += double{v} * v;
  EXPECT_NEAR(std::sqrt(squares / outputs), 0.05 * std::sqrt(double{inputs}), 0.1);
}

TEST_P(DeviceConformanceTest, RefusesWhatItCannotHold) {
  TestTensor w = RandomTensor(DType::kQ4_0, 4, 64, 1);
  w.tensor.cols = 48;
  EXPECT_EQ(backend_->PrepareLinear(w.tensor).status().code(), absl::StatusCode::kInvalidArgument);
  HostTensor vector = RandomTensor(DType::kQ8_0, 1, 32, 1).tensor;
  EXPECT_EQ(backend_->PrepareVector(vector).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(backend_->Allocate(int64_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(backend_->Allocate(64).ok());  // and goes on
  KvLayout layout = SmallLayout();
  EXPECT_EQ(backend_->Configure(layout, 8, SmallRope(64), 10).code(),
            absl::StatusCode::kInvalidArgument);
  layout.values_after = 2 * layout.key_elements();
  EXPECT_EQ(backend_->Configure(layout, 9, SmallRope(64), 10).ok(),
            backend_->info().reads_keys_apart);
  layout.values_after = 0;
  layout.type = KvType::kF32;
  EXPECT_EQ(backend_->Configure(layout, 9, SmallRope(64), 10).code(),
            absl::StatusCode::kInvalidArgument);
}

// ---------------------------------------------------------------- positions and keys

TEST_P(DeviceConformanceTest, RopeAndStoredKeysAgreeWithTheReference) {
  const std::vector<float> factors = {1.0f, 1.5f, 2.0f, 4.0f, 8.0f, 8.0f, 8.0f, 8.0f,
                                      1.0f, 1.5f, 2.0f, 4.0f, 8.0f, 8.0f, 8.0f, 8.0f};
  for (const int block_tokens : {32, 64}) {
    for (const bool neighbouring : {true, false}) {
      for (const int rotary : {64, 32}) {
        const KvLayout layout = SmallLayout(block_tokens);
        RopeParams rope = SmallRope(64, neighbouring);
        rope.rotary_dims = rotary;
        if (rotary == 32) rope.frequency_factors = factors;
        ASSERT_TRUE(backend_->Configure(layout, 9, rope, 512).ok());
        ASSERT_TRUE(reference_->Configure(layout, 9, rope, 512).ok());
        PagedKv a(layout, BlockRange(3)), b(layout, BlockRange(3));
        std::vector<int32_t> positions;
        std::vector<KvSlot> slots_a, slots_b;
        for (int32_t p = 3; p < 3 * block_tokens; p += p % 5 == 0 ? 2 : 1) {
          positions.push_back(p);
          slots_a.push_back(a.SlotOf(p));
          slots_b.push_back(b.SlotOf(p));
        }
        const auto rows = static_cast<int64_t>(positions.size());
        std::vector<float> q = RandomFloats(rows * 576, 3), q2 = q;
        ASSERT_TRUE(backend_->Rope(ViewOf(q, rows), positions).ok());
        ASSERT_TRUE(reference_->Rope(ViewOf(q2, rows), positions).ok());
        for (size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(q[i], q2[i], 0.04f) << i;
        std::vector<float> k = RandomFloats(rows * 192, 1), v = RandomFloats(rows * 192, 2);
        std::vector<float> k2 = k, v2 = v;
        ASSERT_TRUE(
            backend_->RopeAndStoreKv(ViewOf(k, rows), ViewOf(v, rows), positions, slots_a).ok());
        ASSERT_TRUE(
            reference_->RopeAndStoreKv(ViewOf(k2, rows), ViewOf(v2, rows), positions, slots_b)
                .ok());
        for (int page = 0; page < 3; ++page) {
          const auto* x = static_cast<const uint16_t*>(a.slabs()[page]);
          const auto* y = static_cast<const uint16_t*>(b.slabs()[page]);
          for (int64_t i = 0; i < layout.slab_elements(); ++i) {
            ASSERT_NEAR(BF16ToF32(x[i]), BF16ToF32(y[i]), 0.04f) << page << " " << i;
          }
        }
      }
    }
  }
}

// ---------------------------------------------------------------- attention

struct Part {
  PagedKv* kv;
  std::vector<int32_t> positions;
  std::vector<float> q;
};

Part RandomPart(PagedKv& kv, std::vector<int32_t> positions, int64_t width, uint32_t seed) {
  const auto rows = static_cast<int64_t>(positions.size());
  return {&kv, std::move(positions), RandomFloats(rows * width, seed)};
}

std::vector<float> Attend(Backend& backend, const KvLayout& layout, int heads,
                          const std::vector<Part>& parts) {
  SLIM_CHECK(backend.Configure(layout, heads, SmallRope(layout.head_dim), 8192).ok());
  std::vector<float> q;
  std::vector<int32_t> positions;
  std::vector<AttentionSequence> sequences;
  for (const Part& part : parts) {
    AttentionSequence sequence;
    sequence.first_row = static_cast<int64_t>(positions.size());
    sequence.num_rows = static_cast<int64_t>(part.positions.size());
    sequence.slabs = part.kv->slabs();
    sequence.block_ids = part.kv->block_ids();
    sequences.push_back(sequence);
    q.insert(q.end(), part.q.begin(), part.q.end());
    positions.insert(positions.end(), part.positions.begin(), part.positions.end());
  }
  std::vector<float> out(q.size(), 77.0f);
  const auto rows = static_cast<int64_t>(positions.size());
  SLIM_CHECK(backend.Attention(ViewOf(q, rows), positions, sequences, ViewOf(out, rows)).ok());
  return out;
}

void ExpectClose(const std::vector<float>& got, const std::vector<float>& want,
                 const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 0.03f) << what << " element " << i;
  }
}

TEST_P(DeviceConformanceTest, AttentionOfEveryHeadShapeAgreesWithTheReference) {
  struct Heads {
    int heads, kv_heads, head_dim;
  };
  for (const Heads& h : {Heads{4, 4, 32}, Heads{9, 3, 64}, Heads{14, 2, 64}, Heads{6, 2, 96},
                         Heads{8, 2, 128}, Heads{7, 1, 128}, Heads{20, 1, 64}}) {
    for (const int block_tokens : {32, 64}) {
      const KvLayout layout = SmallLayout(block_tokens, h.kv_heads, h.head_dim);
      PagedKv kv(layout, BlockRange(8));
      kv.Fill(200, 3);
      const int64_t width = int64_t{h.heads} * h.head_dim;
      for (const int tokens : {1, 4, 5, 33, 64, 65, 200}) {
        const Part part = RandomPart(kv, kv.Positions(tokens), width, 4 + tokens);
        ExpectClose(Attend(*backend_, layout, h.heads, {part}),
                    Attend(*reference_, layout, h.heads, {part}),
                    "heads " + std::to_string(h.heads) + " head_dim " + std::to_string(h.head_dim) +
                        " block " + std::to_string(block_tokens) + " tokens " +
                        std::to_string(tokens));
      }
    }
  }
}

// Retained blocks with gaps, rows at the end, several sequences and decode rows in one call.
TEST_P(DeviceConformanceTest, PackedSequencesWithGapsAgreeWithTheReference) {
  for (const int block_tokens : {32, 64}) {
    const KvLayout layout = SmallLayout(block_tokens);
    const int end = 21 * block_tokens + 5;
    PagedKv gaps(layout, {0, 3, 4, 9, 20, 21}), longer(layout, BlockRange(80)), tiny(layout, {0});
    gaps.Fill(end, 1);
    longer.Fill(2500, 2);
    tiny.Fill(3, 3);
    const int64_t width = 9 * 64;
    const std::vector<Part> parts = {RandomPart(gaps, gaps.Positions(end), width, 4),
                                     RandomPart(tiny, {2}, width, 5),
                                     RandomPart(longer, {2499}, width, 6),
                                     RandomPart(longer, {600, 700, 1100}, width, 7),
                                     RandomPart(longer, {1, 511, 512, 1023, 1024, 2498}, width, 9),
                                     RandomPart(gaps, {end - 1}, width, 8)};
    ExpectClose(Attend(*backend_, layout, 9, parts), Attend(*reference_, layout, 9, parts),
                "packed");
  }
}

TEST_P(DeviceConformanceTest, LaterTokensChangeNothing) {
  const KvLayout layout = SmallLayout(32);
  PagedKv now(layout, BlockRange(3)), later(layout, BlockRange(3));
  now.Fill(70, 5);
  later.Fill(96, 5);  // one seed: the first 70 tokens are the same
  for (const std::vector<int32_t>& positions :
       {std::vector<int32_t>{40}, std::vector<int32_t>{0, 10, 31, 32, 40, 69}}) {
    const Part a = RandomPart(now, positions, 576, 6), b = RandomPart(later, positions, 576, 6);
    const auto x = Attend(*backend_, layout, 9, {a}), y = Attend(*backend_, layout, 9, {b});
    EXPECT_TRUE(SameBits(x.data(), y.data(), static_cast<int64_t>(x.size())));
  }
}

TEST_P(DeviceConformanceTest, NanReachesTheHeadsThatSeeItAndLargeScoresStayFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const KvLayout layout = SmallLayout(32);
  for (const size_t rows : {2, 6}) {  // decode and prefill kernels
    PagedKv kv(layout, BlockRange(2));
    kv.Fill(40, 5);
    const std::vector<int32_t> all = kv.Positions(40);
    Part part = RandomPart(kv, {all.end() - static_cast<int64_t>(rows), all.end()}, 576, 6);
    part.q[576 + 70] = nan;  // head 1 of the second row
    const auto out = Attend(*backend_, layout, 9, {part});
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::isnan(out[i]), i >= 576 + 64 && i < 576 + 128) << rows << " " << i;
    }
    static_cast<uint16_t*>(kv.slabs()[0])[layout.key_offset(0, 7, 3)] = 0x7fc0;
    part.q[576 + 70] = 0;
    const auto poisoned = Attend(*backend_, layout, 9, {part});
    EXPECT_TRUE(std::isnan(poisoned[0]));
    EXPECT_FALSE(std::isnan(poisoned[3 * 64]));  // another kv head
    PagedKv large(layout, BlockRange(20));
    large.Fill(640, 5, 30.0f);
    const std::vector<int32_t> spread = {5, 300, 400, 500, 600, 639};
    const Part strong =
        RandomPart(large, {spread.begin(), spread.begin() + static_cast<int64_t>(rows)}, 576, 6);
    for (const float v : Attend(*backend_, layout, 9, {strong})) EXPECT_TRUE(std::isfinite(v));
  }
}

// ---------------------------------------------------------------- block scores

std::vector<float> Score(Backend& backend, const KvLayout& layout, int heads, PagedKv& kv,
                         int64_t num_tokens, int window, ScoreKind kind, bool nan) {
  SLIM_CHECK(backend.Configure(layout, heads, SmallRope(layout.head_dim), 8192).ok());
  std::vector<float> queries = RandomFloats(int64_t{window} * heads * layout.head_dim, 4);
  // In the last row, which sees every block.
  if (nan) queries[queries.size() - 17] = std::numeric_limits<float>::quiet_NaN();
  std::vector<int32_t> positions;
  for (int w = 0; w < window; ++w) {
    positions.push_back(static_cast<int32_t>(num_tokens - window + w));
  }
  BlockScoreArgs args;
  args.kind = kind;
  args.queries = ViewOf(queries, window);
  args.positions = positions;
  args.slabs = kv.slabs();
  args.block_ids = kv.block_ids();
  args.num_tokens = num_tokens;
  args.num_heads = heads;
  std::vector<float> scores(kv.slabs().size(), -5.0f);
  SLIM_CHECK(backend.ScoreBlocks(args, absl::MakeSpan(scores)).ok());
  return scores;
}

TEST_P(DeviceConformanceTest, BlockScoresHaveTheBitsOfTheCpuBackend) {
  auto cpu = MakeCpu(CpuIsa::kPortable, 1);
  struct Heads {
    int heads, kv_heads, head_dim;
  };
  for (const Heads& h : {Heads{9, 3, 64}, Heads{8, 2, 128}, Heads{4, 2, 32}}) {
    for (const int block_tokens : {32, 64}) {
      const KvLayout layout = SmallLayout(block_tokens, h.kv_heads, h.head_dim);
      PagedKv kv(layout, {0, 1, 2, 5, 9, 10});
      for (const int tail : {1, 8, 9, 31}) {
        const int64_t num_tokens = 10 * block_tokens + tail;
        kv.Fill(num_tokens, static_cast<uint32_t>(tail));
        for (const ScoreKind kind :
             {ScoreKind::kUnitMax, ScoreKind::kUnitSigned, ScoreKind::kMeanPool,
              ScoreKind::kMaxPool, ScoreKind::kWindowAttention}) {
          const auto want = Score(*cpu, layout, h.heads, kv, num_tokens, 6, kind, false);
          const auto got = Score(*backend_, layout, h.heads, kv, num_tokens, 6, kind, false);
          EXPECT_TRUE(SameBits(want.data(), got.data(), static_cast<int64_t>(want.size())))
              << "kind " << static_cast<int>(kind) << " tail " << tail;
          for (const float score :
               Score(*backend_, layout, h.heads, kv, num_tokens, 6, kind, true)) {
            EXPECT_TRUE(std::isnan(score)) << static_cast<int>(kind);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace slim
