// Comma-separated lists on the command line. Pure functions; INVALID_ARGUMENT names the flag, the
// item seen and what is allowed.
#ifndef TOOLS_COMMON_LISTS_H_
#define TOOLS_COMMON_LISTS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace slim {

// "512,2048" -> {512, 2048}; each within [low, high], at least one.
absl::StatusOr<std::vector<int64_t>> ParseIntList(absl::string_view flag, absl::string_view text,
                                                  int64_t low, int64_t high);

// "0.5,2" -> {0.5, 2}; each finite, greater than 0, at most `high`; at least one.
absl::StatusOr<std::vector<double>> ParseRateList(absl::string_view flag, absl::string_view text,
                                                  double high);

// A mix of prompt lengths: "128:0.7,2048:0.3" -> lengths in tokens and their weights, normalised to
// a sum of 1. A weight may be left out and counts 1.
struct LengthMix {
  std::vector<int64_t> lengths;
  std::vector<double> weights;
  // The length at `point`, 0 <= point < 1, of the cumulative weights.
  int64_t Pick(double point) const;
  int64_t longest() const;
};
absl::StatusOr<LengthMix> ParseLengthMix(absl::string_view flag, absl::string_view text,
                                         int64_t max_tokens);

}  // namespace slim

#endif  // TOOLS_COMMON_LISTS_H_
