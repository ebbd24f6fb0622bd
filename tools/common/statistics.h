// Percentiles and confidence intervals for the bench and eval tools. Pure functions.
#ifndef TOOLS_COMMON_STATISTICS_H_
#define TOOLS_COMMON_STATISTICS_H_

#include <cstdint>
#include <vector>

namespace slim {

// The value below which `percent` (0 to 100) of the samples lie, interpolated linearly between the
// two nearest ranks. NaN when there are none.
double Percentile(std::vector<double> samples, double percent);
inline double Median(std::vector<double> samples) { return Percentile(std::move(samples), 50); }
double Mean(const std::vector<double>& samples);  // NaN when there are none

struct Interval {
  double low = 0;
  double high = 1;
};

// Wilson's score interval of a share at 95 %: sound for small counts and shares near 0 and 1.
// `successes` <= `trials`; [0, 1] when there are no trials.
Interval Wilson95(int64_t successes, int64_t trials);

}  // namespace slim

#endif  // TOOLS_COMMON_STATISTICS_H_
