#include "tests/testing/plain_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/base/status_macros.h"
#include "engine/prune/block_scorer.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

absl::StatusOr<std::vector<float>> ReadTensor(const TensorSource& source, const std::string& name) {
  SLIM_ASSIGN_OR_RETURN(const HostTensor tensor, source.GetTensor(name));
  std::vector<float> values(tensor.rows * tensor.cols);
  for (int64_t r = 0; r < tensor.rows; ++r) DequantizeRow(tensor, r, &values[r * tensor.cols]);
  return values;
}

// out[r, n] = sum_k x[r, k] w[n, k] + bias[n]
std::vector<float> Product(const std::vector<float>& x, const std::vector<float>& w, int64_t rows,
                           int64_t inputs, const std::vector<float>& bias = {}) {
  const auto outputs = static_cast<int64_t>(w.size()) / inputs;
  std::vector<float> out(rows * outputs);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < outputs; ++n) {
      double sum = bias.empty() ? 0.0 : bias[n];
      for (int64_t k = 0; k < inputs; ++k) {
        sum += static_cast<double>(x[r * inputs + k]) * w[n * inputs + k];
      }
      out[r * outputs + n] = static_cast<float>(sum);
    }
  }
  return out;
}

std::vector<float> RmsNorm(const std::vector<float>& x, const std::vector<float>& weight,
                           float eps) {
  const auto width = static_cast<int64_t>(weight.size());
  std::vector<float> out(x.size());
  for (size_t begin = 0; begin < x.size(); begin += width) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double{x[begin + i]} * x[begin + i];
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (int64_t i = 0; i < width; ++i) {
      out[begin + i] = static_cast<float>(x[begin + i] * scale * weight[i]);
    }
  }
  return out;
}

void Rope(const ModelConfig& c, std::vector<float>& x, int64_t heads) {
  const int64_t cols = heads * c.head_dim;
  const int half = c.rotary_dims / 2;
  for (int64_t row = 0; row * cols < static_cast<int64_t>(x.size()); ++row) {
    for (int64_t h = 0; h < heads; ++h) {
      float* head = &x[row * cols + h * c.head_dim];
      for (int i = 0; i < half; ++i) {
        double angle =
            static_cast<double>(row) * std::pow(double{c.rope_base}, -2.0 * i / c.rotary_dims);
        if (!c.rope_frequency_factors.empty()) angle /= c.rope_frequency_factors[i];
        float& a = c.rope_neighbouring_pairs ? head[2 * i] : head[i];
        float& b = c.rope_neighbouring_pairs ? head[2 * i + 1] : head[i + half];
        const double u = a, v = b;
        a = static_cast<float>(u * std::cos(angle) - v * std::sin(angle));
        b = static_cast<float>(u * std::sin(angle) + v * std::cos(angle));
      }
    }
  }
}

// Softmax attention of one query over the keys the mask leaves; adds to `out` [head_dim].
void Attend(const float* query, const std::vector<float>& keys, const std::vector<float>& values,
            int64_t row_stride, int64_t offset, int head_dim, int64_t position,
            const std::function<bool(int64_t)>& visible, float* out) {
  std::vector<double> weights(position + 1, 0.0);
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t t = 0; t <= position; ++t) {
    if (!visible(t)) continue;
    double dot = 0;
    for (int i = 0; i < head_dim; ++i) dot += double{query[i]} * keys[t * row_stride + offset + i];
    weights[t] = dot / std::sqrt(static_cast<double>(head_dim));
    largest = std::max(largest, weights[t]);
  }
  double sum = 0;
  for (int64_t t = 0; t <= position; ++t) {
    weights[t] = visible(t) ? std::exp(weights[t] - largest) : 0.0;
    sum += weights[t];
  }
  for (int i = 0; i < head_dim; ++i) {
    double value = 0;
    for (int64_t t = 0; t <= position; ++t) {
      value += weights[t] / sum * values[t * row_stride + offset + i];
    }
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

absl::StatusOr<PlainModel> PlainModel::Load(const TensorSource& source) {
  PlainModel model;
  SLIM_ASSIGN_OR_RETURN(model.config_, ReadModelConfig(source));
  SLIM_ASSIGN_OR_RETURN(model.embedding_, ReadTensor(source, "token_embd.weight"));
  model.head_ = model.embedding_;
  if (!model.config_.tied_embedding) {
    SLIM_ASSIGN_OR_RETURN(model.head_, ReadTensor(source, "output.weight"));
  }
  SLIM_ASSIGN_OR_RETURN(model.output_norm_, ReadTensor(source, "output_norm.weight"));
  for (int l = 0; l < model.config_.num_layers; ++l) {
    const std::string p = "blk." + std::to_string(l) + ".";
    Layer layer;
    SLIM_ASSIGN_OR_RETURN(layer.attention_norm, ReadTensor(source, p + "attn_norm.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.q, ReadTensor(source, p + "attn_q.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.k, ReadTensor(source, p + "attn_k.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.v, ReadTensor(source, p + "attn_v.weight"));
    if (model.config_.qkv_bias) {
      SLIM_ASSIGN_OR_RETURN(layer.q_bias, ReadTensor(source, p + "attn_q.bias"));
      SLIM_ASSIGN_OR_RETURN(layer.k_bias, ReadTensor(source, p + "attn_k.bias"));
      SLIM_ASSIGN_OR_RETURN(layer.v_bias, ReadTensor(source, p + "attn_v.bias"));
    }
    SLIM_ASSIGN_OR_RETURN(layer.o, ReadTensor(source, p + "attn_output.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.ffn_norm, ReadTensor(source, p + "ffn_norm.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.gate, ReadTensor(source, p + "ffn_gate.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.up, ReadTensor(source, p + "ffn_up.weight"));
    SLIM_ASSIGN_OR_RETURN(layer.down, ReadTensor(source, p + "ffn_down.weight"));
    model.layers_.push_back(std::move(layer));
  }
  return model;
}

PlainTrace PlainModel::Forward(absl::Span<const int32_t> tokens, const PlainMask& mask) const {
  const ModelConfig& c = config_;
  const auto n = static_cast<int64_t>(tokens.size());
  const int64_t kv_cols = int64_t{c.num_kv_heads} * c.head_dim;
  const int64_t q_cols = int64_t{c.num_heads} * c.head_dim;
  PlainTrace trace;
  std::vector<float> x(n * c.width);
  for (int64_t t = 0; t < n; ++t) {
    std::copy_n(&embedding_[int64_t{tokens[t]} * c.width], c.width, &x[t * c.width]);
  }
  trace.hidden.push_back(x);
  for (int l = 0; l < c.num_layers; ++l) {
    const Layer& w = layers_[l];
    const std::vector<float> normed = RmsNorm(x, w.attention_norm, c.rms_eps);
    std::vector<float> q = Product(normed, w.q, n, c.width, w.q_bias);
    std::vector<float> k = Product(normed, w.k, n, c.width, w.k_bias);
    const std::vector<float> v = Product(normed, w.v, n, c.width, w.v_bias);
    Rope(c, q, c.num_heads);
    Rope(c, k, c.num_kv_heads);
    std::vector<float> attention(n * q_cols);
    for (int64_t t = 0; t < n; ++t) {
      for (int h = 0; h < c.num_heads; ++h) {
        const int64_t offset = int64_t{h / (c.num_heads / c.num_kv_heads)} * c.head_dim;
        Attend(
            &q[t * q_cols + h * c.head_dim], k, v, kv_cols, offset, c.head_dim, t,
            [&](int64_t key) { return mask(l, t, key); }, &attention[t * q_cols + h * c.head_dim]);
      }
    }
    const std::vector<float> projected = Product(attention, w.o, n, q_cols);
    for (size_t i = 0; i < x.size(); ++i) x[i] += projected[i];
    const std::vector<float> ffn_in = RmsNorm(x, w.ffn_norm, c.rms_eps);
    std::vector<float> gate = Product(ffn_in, w.gate, n, c.width);
    const std::vector<float> up = Product(ffn_in, w.up, n, c.width);
    for (size_t i = 0; i < gate.size(); ++i) {
      gate[i] = static_cast<float>(gate[i] / (1.0 + std::exp(-double{gate[i]})) * up[i]);
    }
    const std::vector<float> down = Product(gate, w.down, n, c.ffn_width);
    for (size_t i = 0; i < x.size(); ++i) x[i] += down[i];
    trace.hidden.push_back(x);
    trace.queries.push_back(std::move(q));
    trace.keys.push_back(std::move(k));
  }
  const std::vector<float> last(x.end() - c.width, x.end());
  trace.logits = Product(RmsNorm(last, output_norm_, c.rms_eps), head_, 1, c.width);
  return trace;
}

std::vector<float> PlainModel::Scores(const PlainTrace& trace, int layer,
                                      const PruneSchedule& schedule, int block_tokens,
                                      absl::Span<const int32_t> block_ids,
                                      absl::Span<const int32_t> window, int64_t num_tokens) const {
  const ModelConfig& c = config_;
  const int D = c.head_dim;
  const int group = c.num_heads / c.num_kv_heads;
  const std::vector<float>& K = trace.keys[layer];
  const std::vector<float>& Q = trace.queries[layer];
  const auto key = [&](int64_t t, int kv) { return &K[(t * c.num_kv_heads + kv) * D]; };
  const auto query = [&](int64_t t, int h) { return &Q[(t * c.num_heads + h) * D]; };
  std::vector<int64_t> tokens;
  for (const int32_t block : block_ids) {
    for (int64_t t = int64_t{block} * block_tokens; t < int64_t{block + 1} * block_tokens; ++t) {
      if (t < num_tokens) tokens.push_back(t);
    }
  }
  std::vector<float> scores(block_ids.size(), -std::numeric_limits<float>::infinity());
  const auto block_index = [&](int64_t t) {
    return std::lower_bound(block_ids.begin(), block_ids.end(), t / block_tokens) -
           block_ids.begin();
  };
  if (schedule.score_kind == ScoreKind::kWindowAttention) {
    for (const int32_t position : window) {
      for (int h = 0; h < c.num_heads; ++h) {
        std::vector<double> p;
        double largest = -std::numeric_limits<double>::infinity(), sum = 0;
        for (const int64_t t : tokens) {
          double dot = -std::numeric_limits<double>::infinity();
          if (t <= position) {
            dot = std::inner_product(query(position, h), query(position, h) + D, key(t, h / group),
                                     0.0) /
                  std::sqrt(static_cast<double>(D));
          }
          p.push_back(dot);
          largest = std::max(largest, dot);
        }
        for (double& value : p) sum += value = std::exp(value - largest);
        for (size_t i = 0; i < tokens.size(); ++i) {
          float& score = scores[block_index(tokens[i])];
          score = std::max(score, static_cast<float>(p[i] / sum));
        }
      }
    }
  } else {
    std::vector<double> qbar(c.num_heads * D, 0.0);
    for (const int32_t position : window) {
      for (int i = 0; i < c.num_heads * D; ++i) {
        qbar[i] += query(position, 0)[i] / static_cast<double>(window.size());
      }
    }
    const bool absolute = schedule.score_kind != ScoreKind::kUnitSigned;
    const int unit = schedule.score_kind == ScoreKind::kMaxPool ? block_tokens : 8;
    std::vector<std::vector<double>> units(block_ids.size());
    for (size_t b = 0; b < block_ids.size(); ++b) {
      const int64_t begin = int64_t{block_ids[b]} * block_tokens;
      const int64_t end = std::min(begin + block_tokens, num_tokens);
      for (int64_t u = begin; u < end; u += unit) {
        const int64_t stop = std::min<int64_t>(u + unit, end);
        double mean_over_heads = 0;
        for (int h = 0; h < c.num_heads; ++h) {
          double dot = 0;
          for (int i = 0; i < D; ++i) {
            double rep = schedule.score_kind == ScoreKind::kMaxPool
                             ? -std::numeric_limits<double>::infinity()
                             : 0.0;
            for (int64_t t = u; t < stop; ++t) {
              const double value = key(t, h / group)[i];
              rep = schedule.score_kind == ScoreKind::kMaxPool
                        ? std::max(rep, value)
                        : rep + value / static_cast<double>(stop - u);
            }
            dot += qbar[h * D + i] * rep;
          }
          mean_over_heads += (absolute ? std::abs(dot) : dot) / c.num_heads;
        }
        units[b].push_back(mean_over_heads);
      }
      scores[b] = static_cast<float>(schedule.score_kind == ScoreKind::kMeanPool
                                         ? std::accumulate(units[b].begin(), units[b].end(), 0.0) /
                                               units[b].size()
                                         : *std::max_element(units[b].begin(), units[b].end()));
    }
  }
  if (schedule.dilation) Dilate(block_ids, scores);
  return scores;
}

PlainRun RunPlain(const PlainModel& model, absl::Span<const int32_t> prompt,
                  const PruneSchedule& schedule, int block_tokens, int num_tokens,
                  absl::Span<const int32_t> forced_tokens) {
  const auto n = static_cast<int64_t>(prompt.size());
  const int layers = model.config().num_layers;
  const std::vector<SegmentPlan> plan = ResolvePlan(schedule, layers, block_tokens, n);
  const std::vector<int32_t> forced = ForcedBlocks(schedule, block_tokens, n);
  PlainRun run;
  std::vector<int32_t> all(plan[0].num_blocks);
  std::iota(all.begin(), all.end(), 0);
  run.retained.push_back(all);
  std::vector<int> segment_of(layers);
  for (int s = 0; s < static_cast<int>(plan.size()); ++s) {
    for (int l = plan[s].first_layer; l < plan[s].end_layer; ++l) segment_of[l] = s;
  }
  // active[t][s]: what the t-th fed generated token sees in segment s (RESELECT).
  std::vector<std::vector<std::vector<int32_t>>> active;
  const auto contains = [](const std::vector<int32_t>& set, int64_t block) {
    return std::binary_search(set.begin(), set.end(), static_cast<int32_t>(block));
  };
  const PlainMask mask = [&](int layer, int64_t q, int64_t k) {
    if (k >= n) return true;
    const int s = segment_of[layer];
    if (s >= static_cast<int>(run.retained.size())) return true;  // not decided yet, not read
    const int64_t block = k / block_tokens;
    const bool decision_layer = layer + 1 == plan[s].end_layer && s + 1 < (int)plan.size();
    const auto t = static_cast<size_t>(q - n);
    // The block that generated tokens share with the prompt's end is always seen.
    if (q >= n && t < active.size() && s > 0 && !decision_layer && !active[t][s].empty()) {
      return contains(active[t][s], block);
    }
    return contains(run.retained[s], block);
  };
  const int window = static_cast<int>(std::min<int64_t>(schedule.window_tokens, n));
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  PlainTrace trace;
  for (size_t s = 0; s + 1 < plan.size(); ++s) {
    trace = model.Forward(tokens, mask);
    std::vector<int32_t> positions(window);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(n - window));
    const std::vector<float> scores = model.Scores(trace, plan[s].end_layer - 1, schedule,
                                                   block_tokens, run.retained[s], positions, n);
    run.retained.push_back(*SelectBlocks(run.retained[s], scores, forced, plan[s + 1].num_blocks));
  }
  trace = model.Forward(tokens, mask);
  std::vector<std::vector<int32_t>> current(plan.size());
  const bool reselect = schedule.decode_mode == DecodeMode::kReselect && plan.size() > 1;
  const auto choose = [&](size_t s, int64_t last_query) {
    const auto& retained = run.retained[s];
    const int64_t budget = schedule.decode_budget_tokens > 0
                               ? schedule.decode_budget_tokens / block_tokens
                               : static_cast<int64_t>(retained.size()) / 2;
    const int64_t count = std::clamp<int64_t>(budget, forced.size(), retained.size());
    std::vector<float> best(retained.size(), -std::numeric_limits<float>::infinity());
    PruneSchedule plain = schedule;
    plain.dilation = false;
    for (int64_t q = last_query - schedule.window_tokens + 1; q <= last_query; ++q) {
      const std::vector<int32_t> one = {static_cast<int32_t>(q)};
      const std::vector<float> scores = model.Scores(trace, plan[s - 1].end_layer - 1, plain,
                                                     block_tokens, run.retained[s - 1], one, n);
      for (size_t r = 0; r < retained.size(); ++r) {
        const size_t i =
            std::lower_bound(run.retained[s - 1].begin(), run.retained[s - 1].end(), retained[r]) -
            run.retained[s - 1].begin();
        best[r] = std::max(best[r], scores[i]);
      }
    }
    if (schedule.dilation) Dilate(retained, best);
    return *SelectBlocks(retained, best, forced, count);
  };
  for (size_t s = 1; reselect && s < plan.size(); ++s) current[s] = choose(s, n - 1);
  for (int t = 0; t < num_tokens; ++t) {
    run.logits.push_back(trace.logits);
    run.tokens.push_back(static_cast<int32_t>(
        std::max_element(trace.logits.begin(), trace.logits.end()) - trace.logits.begin()));
    if (t + 1 == num_tokens) break;
    tokens.push_back(forced_tokens.empty() ? run.tokens.back() : forced_tokens[t]);
    active.push_back(current);
    // Selection at a decision layer changes what the layers behind it see in this very step, and
    // those layers hold the next decision layer: settle the segments one after the other.
    for (size_t s = 1; reselect && s < plan.size(); ++s) {
      trace = model.Forward(tokens, mask);
      std::vector<int32_t> candidates = choose(s, n + t);
      std::vector<int32_t> common;
      std::set_intersection(candidates.begin(), candidates.end(), current[s].begin(),
                            current[s].end(), std::back_inserter(common));
      if (static_cast<double>(common.size()) <
          schedule.gamma * static_cast<double>(candidates.size())) {
        current[s] = candidates;
        ++run.swaps;
      }
      active.back() = current;
    }
    trace = model.Forward(tokens, mask);
  }
  return run;
}

}  // namespace slim
