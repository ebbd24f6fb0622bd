#include "engine/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

// Below this a temperature leaves nothing to chance, and its inverse may overflow.
constexpr float kGreedyTemperature = 1e-5f;

bool InRange(int32_t token, absl::Span<const float> logits) {
  return token >= 0 && static_cast<size_t>(token) < logits.size();
}

struct Largest {
  int32_t token;  // the lowest of equals
  bool has_nan;
};

// Eight maxima side by side, which the compiler can keep in one register, then the place of the
// largest. `logits` is not empty.
Largest FindLargest(absl::Span<const float> logits) {
  constexpr size_t kLanes = 8;
  float best[kLanes];
  std::fill(best, best + kLanes, logits[0]);
  int32_t unordered[kLanes] = {};
  const size_t whole = logits.size() / kLanes * kLanes;
  const float* values = logits.data();
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      best[lane] = value > best[lane] ? value : best[lane];
      unordered[lane] |= value != value ? 1 : 0;
    }
  }
  float largest = *std::max_element(best, best + kLanes);
  bool has_nan = std::count(unordered, unordered + kLanes, 0) != kLanes;
  for (size_t i = whole; i < logits.size(); ++i) {
    largest = std::max(largest, values[i]);
    has_nan |= values[i] != values[i];
  }
  const float* place = std::find(values, values + logits.size(), largest);
  if (place == values + logits.size()) return {0, true};  // NaN equals nothing
  return {static_cast<int32_t>(place - values), has_nan};
}

// Larger first, of equals the lower token.
bool Before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

}  // namespace

Sampler::Sampler(const SamplingParams& params, uint64_t seed, absl::Span<const int32_t> prompt,
                 int64_t vocab_size)
    : params_(params), state_(seed) {
  if (params_.repetition_penalty != 1.0f) {
    for (const int32_t token : prompt) {
      if (token >= 0 && token < vocab_size) counts_[token].in_prompt = true;
    }
  }
}

double Sampler::NextUniform() {
  state_ += 0x9e3779b97f4a7c15ull;
  uint64_t x = state_;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return static_cast<double>(x >> 11) * 0x1p-53;
}

void Sampler::ApplyPenalties(absl::Span<float> logits) const {
  for (const auto& [token, count] : counts_) {
    float logit = logits[token];
    if (!std::isfinite(logit)) continue;
    if (logit > 0) {
      logit /= params_.repetition_penalty;
    } else {
      logit *= params_.repetition_penalty;
    }
    if (count.in_output > 0) {
      logit -= params_.frequency_penalty * static_cast<float>(count.in_output) +
               params_.presence_penalty;
    }
    // A tiny repetition penalty must not make infinities, which only broken logits have.
    constexpr float kLargest = std::numeric_limits<float>::max();
    logits[token] = std::clamp(logit, -kLargest, kLargest);
  }
  for (const auto& [token, bias] : params_.logit_bias) {
    if (InRange(token, logits)) logits[token] += bias;
  }
}

absl::StatusOr<int32_t> Sampler::Sample(absl::Span<float> logits,
                                        absl::Span<const int32_t> banned) {
  ApplyPenalties(logits);
  for (const int32_t token : banned) {
    if (InRange(token, logits)) logits[token] = -std::numeric_limits<float>::infinity();
  }
  if (logits.empty()) return absl::InternalError("no token can be chosen: there are no logits");
  const auto [best, has_nan] = FindLargest(logits);
  if (has_nan) return absl::InternalError("the model's logits are not numbers");
  if (!std::isfinite(logits[best])) {
    return absl::InternalError(
        absl::StrCat("no token can be chosen: the largest logit is ", logits[best]));
  }
  const int32_t token =
      params_.temperature < kGreedyTemperature ? best : Draw(logits, logits[best]);
  ++counts_[token].in_output;
  return token;
}

int32_t Sampler::Draw(absl::Span<const float> logits, float largest) {
  const float scale = 1.0f / params_.temperature;
  // min_p bounds how far below the largest logit a token may lie; without it nothing below e^-30 of
  // the most likely token is worth a place in the list.
  const float floor = params_.min_p > 0 ? largest + std::log(params_.min_p) * params_.temperature
                                        : largest - 30.0f * params_.temperature;
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= floor) candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  }
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size()) {
    ranked_ = candidates_;
    const auto last = ranked_.begin() + (params_.top_k - 1);
    std::nth_element(ranked_.begin(), last, ranked_.end(), Before);
    KeepUpTo(*last);
  }
  double total = 0;
  for (auto& [value, token] : candidates_) {
    value = std::exp((value - largest) * scale);
    total += value;
  }
  if (params_.top_p < 1.0f) total = KeepNucleus(total);
  // Always by ascending id: the order of a selection is the library's choice.
  double remaining = NextUniform() * total;
  int32_t chosen = candidates_.front().second;
  for (const auto& [probability, token] : candidates_) {
    if (probability <= 0.0f) continue;
    chosen = token;
    remaining -= probability;
    if (remaining < 0) break;
  }
  return chosen;
}

void Sampler::KeepUpTo(std::pair<float, int32_t> last) {
  candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                   [&](const auto& candidate) { return Before(last, candidate); }),
                    candidates_.end());
}

double Sampler::KeepNucleus(double total) {
  const double wanted = static_cast<double>(params_.top_p) * total;
  // Usually a few tokens are enough, so only as many as may be needed are put in order.
  constexpr size_t kFirst = 64, kGrowth = 8;
  ranked_ = candidates_;
  double reached = 0;
  size_t ordered = 0;
  for (size_t count = kFirst; reached < wanted && ordered < ranked_.size(); count *= kGrowth) {
    const size_t end = std::min(count, ranked_.size());
    if (end < ranked_.size()) {
      std::nth_element(ranked_.begin() + ordered, ranked_.begin() + end, ranked_.end(), Before);
    }
    std::sort(ranked_.begin() + ordered, ranked_.begin() + end, Before);
    while (ordered < end && reached < wanted) reached += ranked_[ordered++].first;
  }
  KeepUpTo(ranked_[std::max<size_t>(ordered, 1) - 1]);
  return ordered > 0 ? reached : ranked_[0].first;
}

TokenLogprobs ComputeLogprobs(absl::Span<const float> logits, int32_t token, int top) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  const double log_sum = std::log(sum) + largest;
  TokenLogprobs result;
  result.token = token;
  result.logprob = static_cast<float>(logits[token] - log_sum);
  if (top > 0) {
    std::vector<std::pair<float, int32_t>> ranked(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) ranked[i] = {logits[i], static_cast<int32_t>(i)};
    const auto end = ranked.begin() + std::min<size_t>(top, ranked.size());
    std::partial_sort(ranked.begin(), end, ranked.end(), Before);
    for (auto it = ranked.begin(); it != end; ++it) {
      result.top.emplace_back(it->second, static_cast<float>(it->first - log_sum));
    }
  }
  return result;
}

}  // namespace slim
