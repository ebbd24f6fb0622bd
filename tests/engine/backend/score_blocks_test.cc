// Block scores: hand-computed cases of every kind, equal bits on every instruction set, the order
// of score_blocks.h written out once more in plain loops, agreement with the reference, NaN.

#include "engine/backend/cpu/score_blocks.h"

#include <cmath>
#include <limits>

#include "tests/engine/backend/op_fixtures.h"
#include "tests/testing/reference_backend.h"

namespace slim {
namespace {

constexpr ScoreKind kKinds[] = {ScoreKind::kUnitMax, ScoreKind::kUnitSigned, ScoreKind::kMeanPool,
                                ScoreKind::kMaxPool, ScoreKind::kWindowAttention};

struct Case {
  KvLayout layout;
  int heads = 9;
  std::vector<int32_t> positions;
  std::vector<float> queries;
  int64_t num_tokens = 0;
};

std::vector<float> Score(Backend& backend, const Case& c, PagedKv& kv, ScoreKind kind) {
  SLIM_CHECK(backend.Configure(c.layout, c.heads, SmallRope(c.layout.head_dim), 2048).ok());
  std::vector<float> queries = c.queries;
  BlockScoreArgs args;
  args.kind = kind;
  args.queries = ViewOf(queries, static_cast<int64_t>(c.positions.size()));
  args.positions = c.positions;
  args.slabs = kv.slabs();
  args.block_ids = kv.block_ids();
  args.num_tokens = c.num_tokens;
  args.num_heads = c.heads;
  std::vector<float> scores(kv.slabs().size(), -5.0f);
  SLIM_CHECK(backend.ScoreBlocks(args, absl::MakeSpan(scores)).ok());
  return scores;
}

Case RandomCase(const KvLayout& layout, int heads, int64_t num_tokens, int window, uint32_t seed) {
  Case c;
  c.layout = layout;
  c.heads = heads;
  c.num_tokens = num_tokens;
  for (int w = 0; w < window; ++w) {
    c.positions.push_back(static_cast<int32_t>(num_tokens - window + w));
  }
  c.queries = RandomFloats(int64_t{window} * heads * layout.head_dim, seed);
  return c;
}

// window_attention exactly as score_blocks.h words it.
float PlainExp(float x) {
  float y = x * 1.44269504f;
  y = y > -120.0f || y != y ? y : -120.0f;
  const float n = std::nearbyint(y), f = y - n;
  float p = 1.5403530e-4f;
  for (const float c :
       {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f}) {
    p = p * f;
    p = p + c;
  }
  return std::ldexp(p, static_cast<int>(n));
}

std::vector<float> PlainWindowScores(const Case& c, const PagedKv& kv) {
  const int dims = c.layout.head_dim, tokens = c.layout.block_tokens;
  std::vector<float> scores(kv.slabs().size(), 0.0f);
  for (size_t w = 0; w < c.positions.size(); ++w) {
    for (int h = 0; h < c.heads; ++h) {
      std::vector<float> q(&c.queries[(w * c.heads + h) * dims],
                           &c.queries[(w * c.heads + h) * dims] + dims);
      float factor = 1.0f / std::sqrt(static_cast<float>(dims));
      const bool bytes = c.layout.type == KvType::kInt8;
      if (bytes) {
        RotateChannels(q.data(), dims);
        factor /= static_cast<float>(RotationBlock(dims));
      }
      struct Token {
        size_t block;
        int slot;
        float score;
      };
      std::vector<Token> seen;
      float max = -std::numeric_limits<float>::infinity();
      for (size_t b = 0; b < kv.slabs().size(); ++b) {
        for (int t = 0; t < tokens; ++t) {
          const int64_t position = int64_t{kv.block_ids()[b]} * tokens + t;
          if (position > c.positions[w] || position >= c.num_tokens) continue;
          float dot = 0;
          const int kv_head = h / (c.heads / c.layout.num_kv_heads);
          const auto* slab = static_cast<const uint8_t*>(kv.slabs()[b]);
          const std::vector<float> key = kv.Key(b, kv_head, t);
          for (int d = 0; d < dims; ++d) {
            const int u = bytes ? slab[c.layout.key_offset(kv_head, t, d)] - 128 : 0;
            const float product = q[d] * (bytes ? static_cast<float>(u) : key[d]);
            dot = dot + product;
          }
          float scale = 1;
          if (bytes) {
            std::memcpy(&scale, slab + c.layout.key_scale_offset(kv_head, t), sizeof(scale));
          }
          dot = dot * scale;
          seen.push_back({b, t, dot * factor});
          max = std::max(max, seen.back().score);
        }
      }
      float lanes[16] = {}, sum = 0;
      for (const Token& token : seen) lanes[token.slot % 16] += PlainExp(token.score - max);
      for (const float lane : lanes) sum += lane;
      for (const Token& token : seen) {
        scores[token.block] = std::max(scores[token.block], PlainExp(token.score - max) / sum);
      }
    }
  }
  return scores;
}

class ScoreBlocksTest : public testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isa, ScoreBlocksTest, testing::ValuesIn(MachineIsas()), IsaTestName);

TEST_P(ScoreBlocksTest, SameBitsOnEveryInstructionSetAndThreadCount) {
  for (const int block_tokens : {32, 64}) {
    const KvType type = KvTypeOf(GetParam());
    const KvLayout layout = SmallLayout(block_tokens, 3, 64, type);
    PagedKv kv(layout, {0, 1, 2, 5, 9, 10});
    const int64_t num_tokens = 10 * block_tokens + 7;
    kv.Fill(num_tokens, 3);
    const Case c = RandomCase(layout, 9, num_tokens, 6, 4);
    auto simplest = MakeCpu(type == KvType::kInt8 ? CpuIsa::kAvx2 : CpuIsa::kPortable, 1);
    for (const int threads : {1, 2, 3}) {
      auto backend = MakeCpu(GetParam(), threads);
      for (const ScoreKind kind : kKinds) {
        const auto want = Score(*simplest, c, kv, kind), got = Score(*backend, c, kv, kind);
        EXPECT_TRUE(SameBits(want.data(), got.data(), static_cast<int64_t>(want.size())))
            << "kind " << static_cast<int>(kind);
      }
    }
  }
}

TEST_P(ScoreBlocksTest, WindowScoresFollowTheWrittenOrderToTheLastBit) {
  const KvLayout layout = SmallLayout(32, 3, 64, KvTypeOf(GetParam()));
  PagedKv kv(layout, {0, 1, 4});
  kv.Fill(4 * 32 + 9, 3, 3.0f);
  const Case c = RandomCase(layout, 9, 4 * 32 + 9, 5, 4);
  auto backend = MakeCpu(GetParam());
  const auto want = PlainWindowScores(c, kv);
  const auto got = Score(*backend, c, kv, ScoreKind::kWindowAttention);
  for (size_t b = 0; b < want.size(); ++b) EXPECT_EQ(got[b], want[b]) << b;
}

TEST_P(ScoreBlocksTest, AgreesWithTheReference) {
  auto reference = MakeReferenceBackend(ReferenceOptions());
  auto backend = MakeCpu(GetParam());
  for (const int tail : {1, 7, 8, 9, 31, 32}) {
    const KvLayout layout = SmallLayout(32, 3, 64, KvTypeOf(GetParam()));
    PagedKv kv(layout, {0, 2, 3, 7});
    const int64_t num_tokens = 7 * 32 + tail;
    kv.Fill(num_tokens, tail);
    Case c = RandomCase(layout, 9, num_tokens, 1, 4);
    for (const ScoreKind kind : kKinds) {
      const auto want = Score(*reference, c, kv, kind), got = Score(*backend, c, kv, kind);
      for (size_t b = 0; b < want.size(); ++b) {
        EXPECT_NEAR(got[b], want[b], 1e-5 * (1 + std::fabs(want[b])))
            << "kind " << static_cast<int>(kind) << " block " << b << " tail " << tail;
      }
    }
  }
}

// Two blocks of keys that are zero but for one channel; a query of two on that channel.
class HandComputed : public testing::TestWithParam<CpuIsa> {
 protected:
  HandComputed() : layout_(SmallLayout(32, 1, 16, KvTypeOf(GetParam()))), kv_(layout_, {0, 1}) {
    c_.layout = layout_;
    c_.heads = 2;
    c_.num_tokens = 40;  // 8 tokens in the second block
    c_.positions = {38, 39};
    c_.queries.assign(2 * 2 * 16, 0.0f);
    c_.queries[0] = 4;           // row 0, head 0, channel 0
    c_.queries[16] = -2;         // row 0, head 1
    c_.queries[2 * 16 + 0] = 0;  // row 1: mean query is 2 and -1
    c_.queries[3 * 16 + 0] = 0;
  }
  void SetKey(int block, int slot, float value) {
    std::vector<float> key = kv_.Key(block, 0, slot);
    key[0] = value;
    kv_.SetKey(block, 0, slot, key);
  }
  // A byte times its scale is the number it stands for to the last bit but one or two.
  static void ExpectScores(const std::vector<float>& got, const std::vector<float>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t b = 0; b < want.size(); ++b) {
      if (KvTypeOf(GetParam()) == KvType::kInt8) {
        EXPECT_NEAR(got[b], want[b], 1e-6f * (1 + std::fabs(want[b]))) << b;
      } else {
        EXPECT_EQ(got[b], want[b]) << b;
      }
    }
  }
  std::vector<float> Scores(ScoreKind kind) {
    auto backend = MakeCpu(GetParam());
    return Score(*backend, c_, kv_, kind);
  }
  KvLayout layout_;
  PagedKv kv_;
  Case c_;
};
INSTANTIATE_TEST_SUITE_P(Isa, HandComputed, testing::ValuesIn(MachineIsas()), IsaTestName);

TEST_P(HandComputed, UnitKinds) {
  for (int t = 0; t < 8; ++t) SetKey(0, 8 + t, 1);                 // unit 1 of block 0: mean 1
  SetKey(0, 0, -8);                                                // unit 0: mean -1
  for (int t = 0; t < 8; ++t) SetKey(1, t, t == 3 ? 4.0f : 0.0f);  // mean 0.5
  // Mean query 2 on head 0 and -1 on head 1: unit mean m scores (|2 m| + |m|) / 2 = 1.5 |m|, signed
  // 0.5 m.
  ExpectScores(Scores(ScoreKind::kUnitMax), std::vector<float>{1.5f, 0.75f});
  ExpectScores(Scores(ScoreKind::kUnitSigned), std::vector<float>{0.5f, 0.25f});
  // Block 0: units 1.5, 1.5, 0, 0; block 1 has one unit.
  ExpectScores(Scores(ScoreKind::kMeanPool), std::vector<float>{0.75f, 0.75f});
  ExpectScores(Scores(ScoreKind::kMaxPool), std::vector<float>{1.5f, 6.0f});
}

TEST_P(HandComputed, UnitsOfAPartialBlockUseTheTokensThatExist) {
  c_.num_tokens = 34;
  SetKey(1, 0, 3);
  SetKey(1, 1, 1);
  SetKey(1, 2, 100);  // beyond the prompt
  EXPECT_NEAR(Scores(ScoreKind::kUnitMax)[1], 3.0f, 1e-6f);
  EXPECT_NEAR(Scores(ScoreKind::kMaxPool)[1], 4.5f, 1e-6f);
}

TEST_P(HandComputed, WindowAttentionIsASoftmaxOverVisibleTokens) {
  // All scores 0: row 1 sees 40 tokens, row 0 only 39, so the largest share is 1/39.
  ExpectScores(Scores(ScoreKind::kWindowAttention), std::vector<float>{1.0f / 39, 1.0f / 39});
  // Token 39 is not visible to row 0, the only row with a query: nothing changes.
  SetKey(1, 7, 50);
  ExpectScores(Scores(ScoreKind::kWindowAttention), std::vector<float>{1.0f / 39, 1.0f / 39});
  // A strong key takes nearly all of head 0's weight.
  SetKey(0, 5, 60);
  const auto scores = Scores(ScoreKind::kWindowAttention);
  EXPECT_NEAR(scores[0], 1.0f, 1e-6f);
  EXPECT_NEAR(scores[1], 1.0f / 38, 1e-6f);  // head 1 dislikes token 5: 38 others share
}

TEST_P(HandComputed, NanIsNeverLost) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const ScoreKind kind : kKinds) {
    c_.queries[16] = nan;
    for (const float score : Scores(kind)) EXPECT_TRUE(std::isnan(score));
    c_.queries[16] = -2;
  }
  SetKey(0, 9, nan);
  for (const ScoreKind kind : kKinds) EXPECT_TRUE(std::isnan(Scores(kind)[0]));
}

}  // namespace
}  // namespace slim
