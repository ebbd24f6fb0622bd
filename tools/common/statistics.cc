#include "tools/common/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace slim {

double Percentile(std::vector<double> samples, double percent) {
  if (samples.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(samples.begin(), samples.end());
  const double rank =
      std::clamp(percent, 0.0, 100.0) / 100.0 * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, samples.size() - 1);
  const double share = rank - static_cast<double>(below);
  return samples[below] + share * (samples[above] - samples[below]);
}

double Mean(const std::vector<double>& samples) {
  if (samples.empty()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (const double sample : samples) sum += sample;
  return sum / static_cast<double>(samples.size());
}

Interval Wilson95(int64_t successes, int64_t trials) {
  if (trials <= 0) return Interval{};
  constexpr double kZ = 1.959963984540054;
  const auto n = static_cast<double>(trials);
  const double share = static_cast<double>(successes) / n;
  const double scale = 1 + kZ * kZ / n;
  const double center = (share + kZ * kZ / (2 * n)) / scale;
  const double half = kZ / scale * std::sqrt(share * (1 - share) / n + kZ * kZ / (4 * n * n));
  return Interval{std::max(0.0, center - half), std::min(1.0, center + half)};
}

}  // namespace slim
