#include "tests/testing/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/tensor/dequantize.h"
#include "kvcache/int8_kv.h"

namespace slim {
namespace {

class ReferenceWeight final : public LinearWeight {
 public:
  explicit ReferenceWeight(const HostTensor& tensor)
      : rows_(tensor.rows), cols_(tensor.cols), dtype_(tensor.dtype), values(rows_ * cols_) {
    for (int64_t r = 0; r < rows_; ++r) DequantizeRow(tensor, r, &values[r * cols_]);
  }
  int64_t outputs() const override { return rows_; }
  int64_t inputs() const override { return cols_; }
  DType dtype() const override { return dtype_; }
  int64_t bytes() const override { return static_cast<int64_t>(values.size() * sizeof(float)); }

 private:
  const int64_t rows_, cols_;
  const DType dtype_;

 public:
  std::vector<float> values;  // [outputs, inputs]
};

using Float4 = float __attribute__((vector_size(16)));
using Double2 = double __attribute__((vector_size(16)));

// a . b, in lanes so that the compiler uses vectors of sixteen bytes, as every processor has them.
template <typename T>
double Dot(const T* a, const T* b, int64_t count) {
  using Lanes = std::conditional_t<std::is_same_v<T, float>, Float4, Double2>;
  constexpr int kLanes = 16 / sizeof(T), kVectors = 4;
  Lanes sums[kVectors] = {};
  int64_t k = 0;
  for (; k + kLanes * kVectors <= count; k += kLanes * kVectors) {
    for (int i = 0; i < kVectors; ++i) {
      Lanes x, y;
      std::memcpy(&x, a + k + i * kLanes, sizeof(x));
      std::memcpy(&y, b + k + i * kLanes, sizeof(y));
      sums[i] += x * y;
    }
  }
  double sum = 0;
  for (const Lanes& lanes : sums) {
    for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  }
  for (; k < count; ++k) sum += double{a[k]} * b[k];
  return sum;
}

// out[r, n] for rows [begin, end), some at a time: those stay in the nearest cache.
void MultiplyRows(const float* x, const float* w, float* out, int64_t begin, int64_t end,
                  int64_t inputs, int64_t outputs) {
  constexpr int64_t kRows = 8;
  for (int64_t first = begin; first < end; first += kRows) {
    for (int64_t n = 0; n < outputs; ++n) {
      for (int64_t r = first; r < std::min(end, first + kRows); ++r) {
        out[r * outputs + n] = static_cast<float>(Dot(x + r * inputs, w + n * inputs, inputs));
      }
    }
  }
}

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(const ReferenceOptions& options) : options_(options) {
    info_.name = "reference";
    info_.device = "plain loops";
    info_.isa = "scalar";
    info_.num_threads = options.num_threads;
    info_.kv_type = options.kv_type;
  }

  const BackendInfo& info() const override { return info_; }

  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    void* data = std::calloc(std::max<int64_t>(bytes, 1), 1);
    if (data == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no room for ", bytes));
    return Buffer(data, bytes, [](void* p) { std::free(p); });
  }
  absl::Status CopyFromHost(const void* host, void* device, int64_t bytes) override {
    std::memcpy(device, host, bytes);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(const void* device, void* host, int64_t bytes) override {
    std::memcpy(host, device, bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<LinearWeight>> PrepareLinear(const HostTensor& tensor) override {
    return std::unique_ptr<LinearWeight>(new ReferenceWeight(tensor));
  }
  absl::StatusOr<Buffer> PrepareVector(const HostTensor& tensor) override {
    auto buffer = Allocate(tensor.cols * static_cast<int64_t>(sizeof(float)));
    if (buffer.ok()) DequantizeRow(tensor, 0, static_cast<float*>(buffer->data()));
    return buffer;
  }
  absl::Status Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                         int64_t) override {
    layout_ = layout;
    num_heads_ = num_heads;
    rope_ = rope;
    frequency_factors_.assign(rope.frequency_factors.begin(), rope.frequency_factors.end());
    return absl::OkStatus();
  }

  absl::Status Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                     TensorView out) override {
    const auto& weight = static_cast<const ReferenceWeight&>(embedding);
    for (size_t r = 0; r < tokens.size(); ++r) {
      std::copy_n(&weight.values[tokens[r] * out.cols], out.cols, out.f32() + r * out.cols);
    }
    return absl::OkStatus();
  }

  absl::Status Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) override {
    const std::vector<float> x = Transform(input);
    for (const LinearOutput& output : outputs) {
      const auto& weight = static_cast<const ReferenceWeight&>(*output.weight);
      std::vector<float> product(output.out.rows * weight.outputs());
      SplitRows(output.out.rows, [&](int64_t begin, int64_t end) {
        MultiplyRows(x.data(), weight.values.data(), product.data(), begin, end, weight.inputs(),
                     weight.outputs());
      });
      const float* bias =
          output.bias != nullptr ? static_cast<const float*>(output.bias->data()) : nullptr;
      for (size_t i = 0; i < product.size(); ++i) {
        float value = product[i];
        if (bias != nullptr) value += bias[i % weight.outputs()];
        output.out.f32()[i] = output.accumulate ? output.out.f32()[i] + value : value;
      }
    }
    return absl::OkStatus();
  }

  absl::Status CopyRows(TensorView src, absl::Span<const int64_t> src_rows, TensorView dst,
                        absl::Span<const int64_t> dst_rows) override {
    for (size_t i = 0; i < src_rows.size(); ++i) {
      std::copy_n(src.f32() + src_rows[i] * src.cols, src.cols, dst.f32() + dst_rows[i] * dst.cols);
    }
    return absl::OkStatus();
  }

  absl::Status Rope(TensorView q, absl::Span<const int32_t> positions) override {
    for (int64_t r = 0; r < q.rows; ++r) {
      for (int64_t h = 0; h < q.cols / layout_.head_dim; ++h) {
        RotateHead(q.f32() + r * q.cols + h * layout_.head_dim, positions[r]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status RopeAndStoreKv(TensorView k, TensorView v, absl::Span<const int32_t> positions,
                              absl::Span<const KvSlot> slots) override {
    SLIM_CHECK(Rope(k, positions).ok());
    for (int64_t r = 0; r < k.rows; ++r) {
      for (int h = 0; h < layout_.num_kv_heads; ++h) {
        if (layout_.type == KvType::kInt8) {
          const int64_t first = r * k.cols + h * layout_.head_dim;
          EncodeKey(layout_, k.f32() + first, h, slots[r].slot, slots[r].slab);
          EncodeValue(layout_, v.f32() + first, h, slots[r].slot, slots[r].slab);
          continue;
        }
        for (int d = 0; d < layout_.head_dim; ++d) {
          const int64_t i = r * k.cols + h * layout_.head_dim + d;
          Store(slots[r].slab, layout_.key_offset(h, slots[r].slot, d), k.f32()[i]);
          Store(slots[r].slab, layout_.value_offset(h, slots[r].slot, d), v.f32()[i]);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status Attention(TensorView q, absl::Span<const int32_t> positions,
                         absl::Span<const AttentionSequence> sequences, TensorView out) override {
    const int group = num_heads_ / layout_.num_kv_heads;
    for (const AttentionSequence& sequence : sequences) {
      const auto rows = positions.subspan(sequence.first_row, sequence.num_rows);
      const int32_t last = rows.empty() ? -1 : *std::max_element(rows.begin(), rows.end());
      for (int kv_head = 0; kv_head < layout_.num_kv_heads; ++kv_head) {
        const HeadTokens tokens = TokensUpTo(last, kv_head, sequence);
        SplitRows(sequence.num_rows, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
              const int64_t at = (sequence.first_row + i) * q.cols + h * layout_.head_dim;
              AttendHead(q.f32() + at, rows[i], tokens, out.f32() + at);
            }
          }
        });
      }
    }
    return absl::OkStatus();
  }

  absl::Status ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) override {
    if (args.kind == ScoreKind::kWindowAttention) {
      ScoreByWindowAttention(args, scores);
    } else {
      ScoreByUnits(args, scores);
    }
    return absl::OkStatus();
  }

 private:
  float Load(const void* slab, int64_t offset) const {
    if (layout_.type == KvType::kF32) return static_cast<const float*>(slab)[offset];
    return BF16ToF32(static_cast<const uint16_t*>(slab)[offset]);
  }
  std::vector<float> Key(const void* slab, int kv_head, int slot) const {
    std::vector<float> key(layout_.head_dim);
    if (layout_.type == KvType::kInt8) {
      DecodeRotatedKey(layout_, slab, kv_head, slot, key.data());
      UndoRotation(key.data(), layout_.head_dim);
      return key;
    }
    for (int d = 0; d < layout_.head_dim; ++d) {
      key[d] = Load(slab, layout_.key_offset(kv_head, slot, d));
    }
    return key;
  }
  std::vector<float> Value(const void* slab, int kv_head, int slot) const {
    std::vector<float> value(layout_.head_dim);
    if (layout_.type == KvType::kInt8) {
      DecodeValue(layout_, slab, kv_head, slot, value.data());
      return value;
    }
    for (int d = 0; d < layout_.head_dim; ++d) {
      value[d] = Load(slab, layout_.value_offset(kv_head, slot, d));
    }
    return value;
  }
  void Store(void* slab, int64_t offset, float value) const {
    if (layout_.type == KvType::kF32) {
      static_cast<float*>(slab)[offset] = value;
    } else {
      static_cast<uint16_t*>(slab)[offset] = F32ToBF16(value);
    }
  }

  template <typename F>
  void SplitRows(int64_t rows, const F& work) const {
    const int64_t threads = std::min<int64_t>(options_.num_threads, rows / 8);
    if (threads < 2) return work(0, rows);
    std::vector<std::thread> pool;
    for (int64_t t = 0; t < threads; ++t) {
      pool.emplace_back(work, rows * t / threads, rows * (t + 1) / threads);
    }
    for (std::thread& thread : pool) thread.join();
  }

  static std::vector<float> Transform(const LinearInput& input) {
    const TensorView& x = input.x;
    std::vector<float> out(x.f32(), x.f32() + x.rows * x.cols);
    for (int64_t r = 0; r < x.rows; ++r) {
      float* row = &out[r * x.cols];
      if (input.kind == LinearInput::Kind::kRmsNorm) {
        double squares = 0;
        for (int64_t i = 0; i < x.cols; ++i) squares += double{row[i]} * row[i];
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + input.eps);
        const float* weight = static_cast<const float*>(input.norm_weight->data());
        for (int64_t i = 0; i < x.cols; ++i) {
          row[i] = static_cast<float>(row[i] * scale * weight[i]);
        }
      } else if (input.kind == LinearInput::Kind::kSwiGlu) {
        for (int64_t i = 0; i < x.cols; ++i) {
          row[i] = static_cast<float>(row[i] / (1.0 + std::exp(-double{row[i]})) *
                                      input.up.f32()[r * x.cols + i]);
        }
      }
    }
    return out;
  }

  void RotateHead(float* head, int32_t position) const {
    const int half = rope_.rotary_dims / 2;
    for (int i = 0; i < half; ++i) {
      double angle = position * std::pow(double{rope_.base}, -2.0 * i / rope_.rotary_dims);
      if (!frequency_factors_.empty()) angle /= frequency_factors_[i];
      float& a = rope_.neighbouring_pairs ? head[2 * i] : head[i];
      float& b = rope_.neighbouring_pairs ? head[2 * i + 1] : head[i + half];
      const double u = a, v = b, c = std::cos(angle), s = std::sin(angle);
      a = static_cast<float>(u * c - v * s);
      b = static_cast<float>(u * s + v * c);
    }
  }

  // Of one KV head, in the order of the slabs.
  struct HeadTokens {
    std::vector<int32_t> positions;
    std::vector<double> keys, values;  // [positions.size(), head_dim]
  };

  HeadTokens TokensUpTo(int32_t last, int kv_head, const AttentionSequence& sequence) const {
    const int B = layout_.block_tokens;
    HeadTokens tokens;
    for (size_t p = 0; p < sequence.slabs.size(); ++p) {
      for (int slot = 0; slot < B && sequence.block_ids[p] * B + slot <= last; ++slot) {
        tokens.positions.push_back(sequence.block_ids[p] * B + slot);
        const std::vector<float> key = Key(sequence.slabs[p], kv_head, slot);
        tokens.keys.insert(tokens.keys.end(), key.begin(), key.end());
        const std::vector<float> value = Value(sequence.slabs[p], kv_head, slot);
        tokens.values.insert(tokens.values.end(), value.begin(), value.end());
      }
    }
    return tokens;
  }

  void AttendHead(const float* q, int32_t position, const HeadTokens& tokens, float* out) const {
    const int D = layout_.head_dim;
    const std::vector<double> query(q, q + D);
    std::vector<size_t> seen;
    std::vector<double> weights;
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t t = 0; t < tokens.positions.size(); ++t) {
      if (tokens.positions[t] > position) continue;
      seen.push_back(t);
      weights.push_back(Dot(query.data(), &tokens.keys[t * D], D) /
                        std::sqrt(static_cast<double>(D)));
      largest = std::max(largest, weights.back());
    }
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    std::vector<double> result(D, 0.0);
    for (size_t i = 0; i < seen.size(); ++i) {
      const double* value = &tokens.values[seen[i] * D];
      for (int d = 0; d < D; ++d) result[d] += weights[i] * value[d];
    }
    for (int d = 0; d < D; ++d) out[d] = static_cast<float>(result[d] / sum);
  }

  // The formulas of engine/prune/block_scorer.h in double.
  void ScoreByWindowAttention(const BlockScoreArgs& args, absl::Span<float> scores) const {
    const int B = layout_.block_tokens, D = layout_.head_dim;
    std::fill(scores.begin(), scores.end(), 0.0f);
    for (int64_t w = 0; w < args.queries.rows; ++w) {
      for (int h = 0; h < args.num_heads; ++h) {
        const float* q = args.queries.f32() + w * args.queries.cols + h * D;
        const int kv = h / (args.num_heads / layout_.num_kv_heads);
        std::vector<double> weights;
        std::vector<size_t> owner;
        double largest = -std::numeric_limits<double>::infinity();
        for (size_t p = 0; p < args.slabs.size(); ++p) {
          for (int slot = 0; slot < B; ++slot) {
            const int64_t t = int64_t{args.block_ids[p]} * B + slot;
            if (t >= args.num_tokens || t > args.positions[w]) break;
            double dot = 0;
            const std::vector<float> key = Key(args.slabs[p], kv, slot);
            for (int d = 0; d < D; ++d) dot += double{q[d]} * key[d];
            weights.push_back(dot / std::sqrt(static_cast<double>(D)));
            owner.push_back(p);
            largest = std::max(largest, weights.back());
          }
        }
        double sum = 0;
        for (double& weight : weights) sum += weight = std::exp(weight - largest);
        for (size_t i = 0; i < weights.size(); ++i) {
          const auto probability = static_cast<float>(weights[i] / sum);
          if (!(probability <= scores[owner[i]])) scores[owner[i]] = probability;
        }
      }
    }
  }

  void ScoreByUnits(const BlockScoreArgs& args, absl::Span<float> scores) const {
    const int B = layout_.block_tokens, D = layout_.head_dim;
    const bool pool = args.kind == ScoreKind::kMaxPool;
    std::vector<double> qbar(args.queries.cols, 0.0);
    for (int64_t w = 0; w < args.queries.rows; ++w) {
      for (int64_t i = 0; i < args.queries.cols; ++i) {
        qbar[i] +=
            args.queries.f32()[w * args.queries.cols + i] / static_cast<double>(args.queries.rows);
      }
    }
    for (size_t p = 0; p < args.slabs.size(); ++p) {
      const int64_t tokens = std::min<int64_t>(B, args.num_tokens - int64_t{args.block_ids[p]} * B);
      const int unit = pool ? B : 8;
      double best = -std::numeric_limits<double>::infinity(), total = 0;
      int units = 0;
      for (int64_t u = 0; u < tokens; u += unit, ++units) {
        double score = 0;
        for (int h = 0; h < args.num_heads; ++h) {
          const int kv = h / (args.num_heads / layout_.num_kv_heads);
          std::vector<double> rep(D, pool ? -std::numeric_limits<double>::infinity() : 0.0);
          const int64_t end = std::min<int64_t>(u + unit, tokens);
          for (int64_t t = u; t < end; ++t) {
            const std::vector<float> key = Key(args.slabs[p], kv, static_cast<int>(t));
            for (int d = 0; d < D; ++d) {
              rep[d] = pool ? std::max<double>(rep[d], key[d])
                            : rep[d] + key[d] / static_cast<double>(end - u);
            }
          }
          double dot = 0;
          for (int d = 0; d < D; ++d) dot += qbar[h * D + d] * rep[d];
          score += (args.kind == ScoreKind::kUnitSigned ? dot : std::abs(dot)) / args.num_heads;
        }
        total += score;
        if (!(score <= best)) best = score;
      }
      scores[p] = static_cast<float>(args.kind == ScoreKind::kMeanPool ? total / units : best);
    }
  }

  const ReferenceOptions options_;
  BackendInfo info_;
  KvLayout layout_;
  int num_heads_ = 0;
  RopeParams rope_;
  std::vector<float> frequency_factors_;
};

}  // namespace

std::unique_ptr<Backend> MakeReferenceBackend(const ReferenceOptions& options) {
  return std::make_unique<ReferenceBackend>(options);
}

}  // namespace slim
