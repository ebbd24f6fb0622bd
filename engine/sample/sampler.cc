#include "engine/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace slim {
namespace {

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
    float& logit = logits[token];
    if (logit > 0) {
      logit /= params_.repetition_penalty;
    } else {
      logit *= params_.repetition_penalty;
    }
    if (count.in_output > 0) {
      logit -= params_.frequency_penalty * static_cast<float>(count.in_output) +
               params_.presence_penalty;
    }
  }
  for (const auto& [token, bias] : params_.logit_bias) logits[token] += bias;
}

absl::StatusOr<int32_t> Sampler::Sample(absl::Span<float> logits,
                                        absl::Span<const int32_t> banned) {
  ApplyPenalties(logits);
  for (const int32_t token : banned) logits[token] = -std::numeric_limits<float>::infinity();
  int32_t best = 0;
  bool ordered = true;  // no NaN
  for (size_t i = 0; i < logits.size(); ++i) {
    ordered &= logits[i] == logits[i];
    if (logits[i] > logits[best]) best = static_cast<int32_t>(i);
  }
  if (!ordered) return absl::InternalError("the model's logits are not numbers");
  if (!std::isfinite(logits[best])) {
    return absl::InternalError(
        absl::StrCat("no token can be chosen: the largest logit is ", logits[best]));
  }
  const int32_t token = params_.temperature == 0.0f ? best : Draw(logits, logits[best]);
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
  const bool sorted = params_.top_p < 1.0f || params_.top_k > 0;
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(),
                     Before);
    candidates_.resize(params_.top_k);
  }
  if (sorted) std::sort(candidates_.begin(), candidates_.end(), Before);
  double total = 0;
  for (auto& [value, token] : candidates_) {
    value = std::exp((value - largest) * scale);
    total += value;
  }
  if (params_.top_p < 1.0f) {
    const double wanted = static_cast<double>(params_.top_p) * total;
    double reached = 0;
    size_t kept = 0;
    while (kept < candidates_.size() && reached < wanted) reached += candidates_[kept++].first;
    candidates_.resize(std::max<size_t>(kept, 1));
    total = reached;
  }
  double remaining = NextUniform() * total;
  for (const auto& [probability, token] : candidates_) {
    remaining -= probability;
    if (remaining < 0) return token;
  }
  return candidates_.back().second;
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
