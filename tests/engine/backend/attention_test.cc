// RoPE, the write of keys and values, and attention of the CPU backend on every instruction set of
// the machine, against the plain reference over the same slabs and against themselves.

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/engine/backend/op_fixtures.h"
#include "tests/testing/reference_backend.h"

namespace slim {
namespace {

constexpr int kHeads = 9;

std::unique_ptr<Backend> MakeReference() { return MakeReferenceBackend(ReferenceOptions()); }

// One sequence of an attention call.
struct Part {
  PagedKv* kv;
  std::vector<int32_t> positions;
  std::vector<float> q;  // [positions, heads * head_dim]
};

std::vector<float> Attend(Backend& backend, const KvLayout& layout, int heads,
                          const std::vector<Part>& parts) {
  SLIM_CHECK(backend.Configure(layout, heads, SmallRope(layout.head_dim), 2048).ok());
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

Part RandomPart(PagedKv& kv, std::vector<int32_t> positions, int64_t width, uint32_t seed) {
  const auto rows = static_cast<int64_t>(positions.size());
  return {&kv, std::move(positions), RandomFloats(rows * width, seed)};
}

Part Slice(const Part& part, int64_t first, int64_t count, int64_t width) {
  return {
      part.kv,
      std::vector<int32_t>(part.positions.begin() + first, part.positions.begin() + first + count),
      std::vector<float>(part.q.begin() + first * width, part.q.begin() + (first + count) * width)};
}

class AttentionTest : public testing::TestWithParam<CpuIsa> {
 protected:
  bool bytes() const { return KvTypeOf(GetParam()) == KvType::kInt8; }
  KvLayout Layout(int block_tokens = 32, int kv_heads = 3, int head_dim = 64) const {
    return SmallLayout(block_tokens, kv_heads, head_dim, KvTypeOf(GetParam()));
  }
  // The reference reads the same slabs. Beside AVX-512's bytes, queries and weights are rounded to
  // bytes too: a score is then off by about one per cent of |q| |k| / 8, whose product is 8 here at
  // most times. AVX2 rounds them to 14 and 15 bits. Otherwise only float rounding is left.
  float Tolerance() const {
    if (GetParam() == CpuIsa::kAvx2) return 5e-4f;
    return bytes() ? 0.04f : 2e-5f;
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest, testing::ValuesIn(MachineIsas()), IsaTestName);

void ExpectClose(const std::vector<float>& got, const std::vector<float>& want, float tolerance,
                 const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], tolerance) << what << " element " << i;
  }
}

TEST_P(AttentionTest, PrefillAgreesWithTheReference) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  for (const int block_tokens : {32, 64}) {
    const KvLayout layout = Layout(block_tokens);
    for (const int tokens : {1, 2, 31, 32, 33, 63, 64, 65, 100, 200}) {
      PagedKv kv(layout, BlockRange((tokens + block_tokens - 1) / block_tokens));
      kv.Fill(tokens, tokens);
      const Part part = RandomPart(kv, kv.Positions(tokens), kHeads * 64, 5 + tokens);
      ExpectClose(Attend(*backend, layout, kHeads, {part}),
                  Attend(*reference, layout, kHeads, {part}), Tolerance(),
                  std::to_string(tokens) + " tokens");
    }
  }
}

TEST_P(AttentionTest, HeadShapesAgreeWithTheReference) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  struct Heads {
    int heads, kv_heads, head_dim;
  };
  for (const Heads& h : {Heads{4, 4, 16}, Heads{8, 2, 48}, Heads{14, 2, 64}, Heads{5, 1, 80},
                         Heads{4, 1, 128}, Heads{2, 2, 256}}) {
    const KvLayout layout = Layout(64, h.kv_heads, h.head_dim);
    PagedKv kv(layout, BlockRange(2));
    kv.Fill(90, 3);
    const Part part = RandomPart(kv, kv.Positions(90), h.heads * h.head_dim, 4);
    ExpectClose(Attend(*backend, layout, h.heads, {part}),
                Attend(*reference, layout, h.heads, {part}), Tolerance(),
                "head_dim " + std::to_string(h.head_dim));
  }
}

// One row at a time goes through all kv heads of a page together, where there are spans enough.
TEST_P(AttentionTest, SingleRowsOfEveryHeadShapeAgreeWithTheReference) {
  auto backend = MakeCpu(GetParam(), 2);
  auto reference = MakeReference();
  struct Heads {
    int heads, kv_heads, head_dim, block_tokens;
  };
  for (const Heads& h :
       {Heads{4, 2, 16, 32}, Heads{5, 1, 80, 32}, Heads{8, 2, 128, 32}, Heads{8, 2, 128, 128},
        Heads{26, 2, 48, 32}, Heads{2, 2, 256, 64}, Heads{2, 1, 512, 32}, Heads{2, 2, 528, 32},
        Heads{3, 1, 64, 512}, Heads{6, 2, 80, 32}}) {
    const KvLayout layout = Layout(h.block_tokens, h.kv_heads, h.head_dim);
    for (const int tokens : {2047, 2048, 2081, 2120}) {
      PagedKv kv(layout, BlockRange((tokens + h.block_tokens - 1) / h.block_tokens));
      kv.Fill(tokens, 3);
      const Part part = RandomPart(kv, {tokens - 1}, int64_t{h.heads} * h.head_dim, 4);
      const std::vector<float> got = Attend(*backend, layout, h.heads, {part});
      ExpectClose(got, Attend(*reference, layout, h.heads, {part}), Tolerance(),
                  "head_dim " + std::to_string(h.head_dim) + ", " + std::to_string(tokens));
      auto one = MakeCpu(GetParam(), 1);
      const std::vector<float> alone = Attend(*one, layout, h.heads, {part});
      EXPECT_TRUE(SameBits(got.data(), alone.data(), static_cast<int64_t>(got.size())));
    }
  }
}

// Retained blocks with gaps, rows at the end, several sequences and decode rows in one call.
TEST_P(AttentionTest, PackedSequencesWithGapsAgreeWithTheReference) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  const KvLayout layout = Layout(32);
  PagedKv gaps(layout, {0, 3, 4, 9, 20, 21});
  gaps.Fill(21 * 32 + 5, 1);
  PagedKv longer(layout, BlockRange(40));
  longer.Fill(1250, 2);
  PagedKv tiny(layout, {0});
  tiny.Fill(3, 3);
  const int64_t width = kHeads * 64;
  const std::vector<Part> parts = {
      RandomPart(gaps, gaps.Positions(21 * 32 + 5), width, 4), RandomPart(tiny, {2}, width, 5),
      RandomPart(longer, {1249}, width, 6), RandomPart(longer, {600, 700, 1100}, width, 7),
      RandomPart(gaps, {21 * 32 + 4}, width, 8)};
  ExpectClose(Attend(*backend, layout, kHeads, parts), Attend(*reference, layout, kHeads, parts),
              Tolerance(), "packed");
}

TEST_P(AttentionTest, ManyRowsOverManyBlocksAgreeWithTheReference) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  for (const int block_tokens : {32, 64}) {
    const KvLayout layout = Layout(block_tokens);
    for (const std::vector<int32_t>& blocks :
         {BlockRange(20), std::vector<int32_t>{0, 3, 4, 9, 17}, std::vector<int32_t>{2, 3, 19}}) {
      PagedKv kv(layout, blocks);
      const int tokens = blocks.back() * block_tokens + 21;
      kv.Fill(tokens, 5);
      const std::vector<int32_t> all = kv.Positions(tokens);
      const std::vector<int32_t> late(all.end() - std::min<size_t>(all.size() - 1, 150), all.end());
      const Part part = RandomPart(kv, late, kHeads * 64, 5);
      const std::vector<float> got = Attend(*backend, layout, kHeads, {part});
      const std::vector<float> want = Attend(*reference, layout, kHeads, {part});
      ExpectClose(got, want, Tolerance(), std::to_string(blocks.size()) + " blocks");
      double error = 0, total = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        total += want[i] * want[i];
      }
      EXPECT_LT(std::sqrt(error), 0.03 * std::sqrt(total)) << blocks.size() << " blocks";
    }
  }
}

// A head whose keys share a large part, as trained models have them: bytes of the keys as they are
// would leave next to nothing for what tells them apart; rotated they do no worse than bf16.
TEST_P(AttentionTest, RowsBearALargeCommonPartOfTheKeys) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  const KvLayout layout = Layout(32);
  PagedKv kv(layout, BlockRange(16));
  kv.Fill(500, 7);
  for (int block = 0; block < 16; ++block) {
    for (int h = 0; h < layout.num_kv_heads; ++h) {
      for (int slot = 0; slot < 32; ++slot) {
        std::vector<float> key = kv.Key(block, h, slot);
        for (const int dim : {3, 40}) key[dim] += 50.0f;
        kv.SetKey(block, h, slot, key);
      }
    }
  }
  const std::vector<int32_t> positions = {300, 400, 450, 499};
  const Part part = RandomPart(kv, positions, kHeads * 64, 5);
  ExpectClose(Attend(*backend, layout, kHeads, {part}), Attend(*reference, layout, kHeads, {part}),
              bytes() ? 0.05f : 2e-4f, "common part");
}

TEST_P(AttentionTest, RowsDoNotDependOnChunkBatchOrThreads) {
  const KvLayout layout = Layout(32);
  const int64_t width = kHeads * 64;
  const int tokens = 1300;
  PagedKv kv(layout, BlockRange(41));
  kv.Fill(tokens, 1, 2.0f);
  PagedKv other(layout, BlockRange(3));
  other.Fill(90, 2);
  const Part all = RandomPart(kv, kv.Positions(tokens), width, 3);
  auto one = MakeCpu(GetParam(), 1);
  const std::vector<float> want = Attend(*one, layout, kHeads, {all});
  for (const int threads : {1, 2, 3}) {
    auto backend = MakeCpu(GetParam(), threads);
    const std::vector<float> again = Attend(*backend, layout, kHeads, {all});
    EXPECT_TRUE(SameBits(want.data(), again.data(), static_cast<int64_t>(want.size())));
    // Single rows (their spans are spread over the threads), small and odd chunks, neighbours.
    for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 1}, {511, 1}, {512, 1}, {1299, 1}, {1024, 5}, {640, 33}, {100, 700}}) {
      const Part part = Slice(all, first, count, width);
      const Part neighbour = RandomPart(other, {10, 40, 89}, width, 9);
      const std::vector<float> alone = Attend(*backend, layout, kHeads, {part});
      const std::vector<float> packed = Attend(*backend, layout, kHeads, {neighbour, part});
      EXPECT_TRUE(SameBits(&want[first * width], alone.data(), count * width))
          << threads << " threads, rows " << first << " + " << count;
      EXPECT_TRUE(SameBits(&want[first * width], &packed[3 * width], count * width))
          << threads << " threads, packed rows " << first << " + " << count;
    }
  }
}

// Pages that follow each other are read in another way, to the same end.
TEST_P(AttentionTest, WherePagesLieShowsInNothing) {
  constexpr int kBlocks = 40;
  constexpr int64_t kEnd = kBlocks * 32 - 7, kWidth = kHeads * 64;
  KvLayout layout = Layout(32);
  PagedKv scattered(layout, BlockRange(kBlocks));
  scattered.Fill(kEnd, 5);
  const std::vector<int32_t> rows = {17, 600, static_cast<int32_t>(kEnd - 1)};
  const auto attend = [&](PagedKv& kv, int threads) {
    auto backend = MakeCpu(GetParam(), threads);
    std::vector<float> out;
    for (const int32_t row : rows) {
      const std::vector<float> one =
          Attend(*backend, layout, kHeads, {RandomPart(kv, {row}, kWidth, 6)});
      out.insert(out.end(), one.begin(), one.end());
    }
    return out;
  };
  const std::vector<float> want = attend(scattered, 1);
  layout.values_after = kBlocks * layout.key_elements();
  PagedKv apart(layout, BlockRange(kBlocks));
  apart.Fill(kEnd, 5);
  for (const int threads : {1, 2}) {
    const std::vector<float> got = attend(apart, threads);
    EXPECT_TRUE(SameBits(want.data(), got.data(), static_cast<int64_t>(want.size()))) << threads;
  }
}

// What lies in slots that a row may not see must not matter, not even for rounding.
TEST_P(AttentionTest, LaterTokensChangeNothing) {
  auto backend = MakeCpu(GetParam());
  const KvLayout layout = Layout(32);
  const int64_t width = kHeads * 64;
  PagedKv now(layout, BlockRange(3)), later(layout, BlockRange(3));
  now.Fill(70, 5);
  later.Fill(96, 5);
  for (const int32_t position : {0, 31, 40, 69}) {
    // Both caches draw token by token from one seed, so they agree on the first 70 tokens.
    const Part a = RandomPart(now, {position}, width, 6),
               b = RandomPart(later, {position}, width, 6);
    const auto x = Attend(*backend, layout, kHeads, {a});
    const auto y = Attend(*backend, layout, kHeads, {b});
    EXPECT_TRUE(SameBits(x.data(), y.data(), width)) << position;
  }
}

TEST_P(AttentionTest, NanQueriesAndKeysGiveNan) {
  auto backend = MakeCpu(GetParam());
  const KvLayout layout = Layout(32);
  const int64_t width = kHeads * 64;
  PagedKv kv(layout, BlockRange(2));
  kv.Fill(40, 5);
  Part part = RandomPart(kv, {38, 39}, width, 6);
  part.q[width + 70] = std::numeric_limits<float>::quiet_NaN();  // head 1 of the second row
  const auto out = Attend(*backend, layout, kHeads, {part});
  for (int64_t i = 0; i < 2 * width; ++i) {
    EXPECT_EQ(std::isnan(out[i]), i >= width + 64 && i < width + 128) << i;
  }
  std::vector<float> key = kv.Key(1, 0, 5);
  key[3] = std::numeric_limits<float>::quiet_NaN();
  kv.SetKey(1, 0, 5, key);
  part.q[width + 70] = 0;
  const auto poisoned = Attend(*backend, layout, kHeads, {part});
  EXPECT_TRUE(std::isnan(poisoned[0]));
  EXPECT_FALSE(std::isnan(poisoned[3 * 64]));  // another kv head
}

// The rows at and behind a token whose key or value is NaN are NaN, in its kv head, and no other;
// also where its span is not their last one.
TEST_P(AttentionTest, NanOfATokenStaysWithTheRowsThatSeeIt) {
  if (!bytes()) GTEST_SKIP() << "bf16 multiplies what is not visible with zero";
  auto backend = MakeCpu(GetParam());
  const KvLayout layout = Layout(32);
  const int64_t width = kHeads * 64;
  for (const bool in_key : {true, false}) {
    PagedKv kv(layout, BlockRange(20));
    kv.Fill(640, 5);
    std::vector<float> vector = in_key ? kv.Key(1, 1, 6) : kv.Value(1, 1, 6);
    vector[3] = std::numeric_limits<float>::quiet_NaN();
    in_key ? kv.SetKey(1, 1, 6, vector) : kv.SetValue(1, 1, 6, vector);
    const Part part = RandomPart(kv, {36, 37, 38, 39, 600}, width, 6);  // the token is at 38
    const auto out = Attend(*backend, layout, kHeads, {part});
    for (int64_t row = 0; row < 5; ++row) {
      for (int64_t i = 0; i < width; ++i) {
        const bool sees = row >= 2 && i / 64 / 3 == 1;
        ASSERT_EQ(std::isnan(out[row * width + i]), sees) << in_key << " " << row << " " << i;
      }
    }
  }
}

// Slots behind a row's position may hold what another sequence left there.
TEST_P(AttentionTest, AnythingMayLieInSlotsThatNoRowSees) {
  if (!bytes()) GTEST_SKIP() << "bf16 multiplies what is not visible with zero";
  auto backend = MakeCpu(GetParam());
  const KvLayout layout = Layout(32);
  const int64_t width = kHeads * 64;
  for (const int32_t position : {0, 31, 40, 69, 2100}) {
    const auto blocks = static_cast<int32_t>(position / 32 + 1);
    PagedKv clean(layout, BlockRange(blocks)), stale(layout, BlockRange(blocks));
    for (void* slab : stale.slabs()) std::memset(slab, 0xff, layout.slab_bytes());
    clean.Fill(position + 1, 5);
    stale.Fill(position + 1, 5);
    const auto x = Attend(*backend, layout, kHeads, {RandomPart(clean, {position}, width, 6)});
    const auto y = Attend(*backend, layout, kHeads, {RandomPart(stale, {position}, width, 6)});
    EXPECT_TRUE(SameBits(x.data(), y.data(), width)) << position;
  }
}

TEST_P(AttentionTest, ExtremeNumbersStayExact) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  // No score differs from another: the sums of values are as large as they can get.
  const KvLayout small = Layout(32);
  PagedKv same(small, BlockRange(32));
  for (int block = 0; block < 32; ++block) {
    for (int h = 0; h < small.num_kv_heads; ++h) {
      for (int slot = 0; slot < 32; ++slot) {
        same.SetKey(block, h, slot, std::vector<float>(64, 1.0f));
        same.SetValue(block, h, slot, std::vector<float>(64, 1.0f));
      }
    }
  }
  Part zeros = RandomPart(same, {511, 1023}, kHeads * 64, 6);
  std::fill(zeros.q.begin(), zeros.q.end(), 0.0f);
  for (const float v : Attend(*backend, small, kHeads, {zeros})) EXPECT_NEAR(v, 1.0f, 1e-3f);
  // One channel of every 64: rotated, all numbers of keys and queries are the largest there are.
  const KvLayout large = Layout(32, 1, 1024);
  PagedKv kv(large, BlockRange(2));
  kv.Fill(64, 7);
  std::vector<float> impulses(1024);
  for (int d = 0; d < 1024; d += 64) impulses[d] = 1.0f;
  for (int slot = 0; slot < 64; ++slot) {
    std::vector<float> key = impulses;
    for (float& k : key) k *= slot % 3 == 0 ? -1.0f : 1.0f;
    kv.SetKey(slot / 32, 0, slot % 32, key);
  }
  Part part = RandomPart(kv, {40, 63}, 1024, 6);
  std::copy(impulses.begin(), impulses.end(), part.q.begin());
  part.q[1024] = std::numeric_limits<float>::quiet_NaN();
  const auto got = Attend(*backend, large, 1, {part});
  const auto want = Attend(*reference, large, 1, {part});
  for (int d = 0; d < 1024; ++d) {
    ASSERT_NEAR(got[d], want[d], Tolerance()) << d;
    ASSERT_TRUE(std::isnan(got[1024 + d])) << d;
  }
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  const KvLayout layout = Layout(32);
  PagedKv kv(layout, BlockRange(20));
  kv.Fill(640, 5, 30.0f);
  const Part part = RandomPart(kv, {5, 300, 639}, kHeads * 64, 6);
  const auto got = Attend(*backend, layout, kHeads, {part});
  for (const float v : got) EXPECT_TRUE(std::isfinite(v));
  if (!bytes()) {
    ExpectClose(got, Attend(*reference, layout, kHeads, {part}), 1e-3f, "large scores");
  }
}

class RopeTest : public testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isa, RopeTest, testing::ValuesIn(MachineIsas()), IsaTestName);

TEST_P(RopeTest, AgreesWithTheReference) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  const KvLayout layout = SmallLayout(32, 3, 64, KvTypeOf(GetParam()));
  const std::vector<float> factors = RandomFloats(16, 3, 0.1f);
  for (const bool neighbouring : {true, false}) {
    for (const int rotary : {64, 32}) {
      RopeParams rope = SmallRope(64, neighbouring);
      rope.rotary_dims = rotary;
      std::vector<float> positive = factors;
      for (float& f : positive) f = 1.0f + std::fabs(f);
      if (rotary == 32) rope.frequency_factors = positive;
      ASSERT_TRUE(backend->Configure(layout, kHeads, rope, 9000).ok());
      ASSERT_TRUE(reference->Configure(layout, kHeads, rope, 9000).ok());
      const std::vector<int32_t> positions = {0, 1, 17, 8999};
      std::vector<float> a = RandomFloats(4 * kHeads * 64, 5), b = a;
      ASSERT_TRUE(backend->Rope(ViewOf(a, 4), positions).ok());
      ASSERT_TRUE(reference->Rope(ViewOf(b, 4), positions).ok());
      ExpectClose(a, b, 2e-6f, "rope");
    }
  }
}

TEST_P(RopeTest, StoresKeysAndValuesWhereTheLayoutSays) {
  auto backend = MakeCpu(GetParam());
  auto reference = MakeReference();
  for (const int block_tokens : {32, 64}) {
    const KvLayout layout = SmallLayout(block_tokens, 3, 64, KvTypeOf(GetParam()));
    ASSERT_TRUE(backend->Configure(layout, kHeads, SmallRope(64), 512).ok());
    ASSERT_TRUE(reference->Configure(layout, kHeads, SmallRope(64), 512).ok());
    PagedKv a(layout, BlockRange(3)), b(layout, BlockRange(3));
    std::vector<int32_t> positions;
    std::vector<KvSlot> slots_a, slots_b;
    for (int32_t p = 3; p < 3 * block_tokens; p += p % 5 == 0 ? 2 : 1) {
      positions.push_back(p);
      slots_a.push_back(a.SlotOf(p));
      slots_b.push_back(b.SlotOf(p));
    }
    const auto rows = static_cast<int64_t>(positions.size());
    std::vector<float> k = RandomFloats(rows * 192, 1), v = RandomFloats(rows * 192, 2);
    std::vector<float> k2 = k, v2 = v;
    ASSERT_TRUE(backend->RopeAndStoreKv(ViewOf(k, rows), ViewOf(v, rows), positions, slots_a).ok());
    ASSERT_TRUE(
        reference->RopeAndStoreKv(ViewOf(k2, rows), ViewOf(v2, rows), positions, slots_b).ok());
    // One step of bf16, or of a byte, where the angles' rounding crosses a tie.
    const auto close = [&](const std::vector<float>& x, const std::vector<float>& y) {
      for (size_t d = 0; d < x.size(); ++d) {
        const float step = layout.type == KvType::kInt8 ? 0.04f : std::fabs(y[d]) * 0x1p-7f + 1e-5f;
        ASSERT_NEAR(x[d], y[d], step);
      }
    };
    for (int page = 0; page < 3; ++page) {
      for (int h = 0; h < layout.num_kv_heads; ++h) {
        for (int slot = 0; slot < block_tokens; ++slot) {
          close(a.Key(page, h, slot), b.Key(page, h, slot));
          close(a.Value(page, h, slot), b.Value(page, h, slot));
        }
      }
    }
  }
}

// Only where the slabs of both hold bytes: the kernel writes what the plain loops write.
TEST_P(RopeTest, BytesAreThoseOfThePlainLoops) {
  if (KvTypeOf(GetParam()) != KvType::kInt8) GTEST_SKIP() << "these kernels keep bf16";
  auto backend = MakeCpu(GetParam());
  for (const int head_dim : {16, 32, 48, 64, 80, 128, 192, 1024}) {
    const KvLayout layout = SmallLayout(32, 2, head_dim, KvType::kInt8);
    RopeParams rope = SmallRope(head_dim);
    rope.rotary_dims = 0;
    ASSERT_TRUE(backend->Configure(layout, 2, rope, 64).ok());
    PagedKv got(layout, BlockRange(1)), want(layout, BlockRange(1));
    const std::vector<int32_t> positions = {0, 1, 5, 30, 31};
    const int64_t rows = 5, width = 2 * head_dim;
    std::vector<float> k = RandomFloats(rows * width, 1), v = RandomFloats(rows * width, 2);
    std::fill_n(k.begin() + width, width, 0.0f);  // a row of nothing
    k[2 * width + 3] = 1e30f;                     // a large channel
    v[3 * width] = std::numeric_limits<float>::quiet_NaN();
    std::vector<KvSlot> slots;
    for (const int32_t p : positions) {
      slots.push_back(got.SlotOf(p));
      for (int h = 0; h < 2; ++h) {
        const int64_t at = (static_cast<int64_t>(slots.size()) - 1) * width + h * head_dim;
        EncodeKey(layout, &k[at], h, p, want.slabs()[0]);
        EncodeValue(layout, &v[at], h, p, want.slabs()[0]);
      }
    }
    ASSERT_TRUE(backend->RopeAndStoreKv(ViewOf(k, rows), ViewOf(v, rows), positions, slots).ok());
    for (int slot = 0; slot < 32; ++slot) {
      const bool nan = slot == 30;
      for (int h = 0; h < 2; ++h) {
        EXPECT_EQ(got.Key(0, h, slot), want.Key(0, h, slot)) << head_dim << " slot " << slot;
        if (nan && h == 0) {
          EXPECT_TRUE(std::isnan(got.Value(0, h, slot)[1]));
          continue;
        }
        EXPECT_EQ(got.Value(0, h, slot), want.Value(0, h, slot)) << head_dim << " slot " << slot;
      }
    }
  }
}

TEST_P(RopeTest, ConfigureRefusesWhatTheKernelsCannotDo) {
  auto backend = MakeCpu(GetParam());
  const auto code = [&](const KvLayout& layout, int heads, const RopeParams& rope,
                        int64_t positions) {
    return backend->Configure(layout, heads, rope, positions).code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const KvType type = KvTypeOf(GetParam());
  KvLayout layout = SmallLayout(32, 3, 64, type);
  EXPECT_EQ(code(layout, 9, SmallRope(64), 10), absl::StatusCode::kOk);
  EXPECT_EQ(code(layout, 8, SmallRope(64), 10), invalid);
  EXPECT_EQ(code(layout, 9, SmallRope(32), 10), invalid);
  EXPECT_EQ(code(layout, 9, SmallRope(64), 0), invalid);
  layout.type = KvType::kF32;
  EXPECT_EQ(code(layout, 9, SmallRope(64), 10), invalid);
  layout.type = type == KvType::kBF16 ? KvType::kInt8 : KvType::kBF16;
  EXPECT_EQ(code(layout, 9, SmallRope(64), 10), invalid);
  layout = SmallLayout(16, 3, 64, type);
  EXPECT_EQ(code(layout, 9, SmallRope(64), 10), invalid);
  layout = SmallLayout(32, 3, 40, type);
  EXPECT_EQ(code(layout, 9, SmallRope(40), 10), invalid);
}

TEST_P(RopeTest, CopyRowsMovesWholeRows) {
  auto backend = MakeCpu(GetParam());
  std::vector<float> src = RandomFloats(5 * 7, 1), dst(4 * 7, 0.0f);
  const std::vector<int64_t> from = {4, 0, 2}, to = {1, 3, 0};
  ASSERT_TRUE(backend->CopyRows(ViewOf(src, 5), from, ViewOf(dst, 4), to).ok());
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_TRUE(SameBits(&src[from[i] * 7], &dst[to[i] * 7], 7));
  }
  EXPECT_EQ(dst[2 * 7], 0.0f);
}

}  // namespace
}  // namespace slim
