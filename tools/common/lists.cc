#include "tools/common/lists.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace slim {
namespace {

absl::Status ItemError(absl::string_view flag, absl::string_view item, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": item '", item, "', allowed is ", allowed));
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> ParseIntList(absl::string_view flag, absl::string_view text,
                                                  int64_t low, int64_t high) {
  std::vector<int64_t> values;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(item, &value) || !(value >= low && value <= high)) {
      return ItemError(flag, item, absl::StrCat("a whole number from ", low, " to ", high));
    }
    values.push_back(value);
  }
  return values;
}

absl::StatusOr<std::vector<double>> ParseRateList(absl::string_view flag, absl::string_view text,
                                                  double high) {
  std::vector<double> values;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    double value = 0;
    if (!absl::SimpleAtod(item, &value) || !(value > 0 && value <= high)) {
      return ItemError(flag, item, absl::StrCat("a number greater than 0, at most ", high));
    }
    values.push_back(value);
  }
  return values;
}

int64_t LengthMix::Pick(double point) const {
  for (size_t i = 0; i + 1 < lengths.size(); ++i) {
    if (point < weights[i]) return lengths[i];
    point -= weights[i];
  }
  return lengths.back();
}

int64_t LengthMix::longest() const { return *std::max_element(lengths.begin(), lengths.end()); }

absl::StatusOr<LengthMix> ParseLengthMix(absl::string_view flag, absl::string_view text,
                                         int64_t max_tokens) {
  LengthMix mix;
  double sum = 0;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(item, ':');
    int64_t length = 0;
    double weight = 1;
    if (parts.size() > 2 || !absl::SimpleAtoi(parts[0], &length) ||
        !(length >= 1 && length <= max_tokens) ||
        (parts.size() == 2 &&
         !(absl::SimpleAtod(parts[1], &weight) && weight > 0 && weight <= 1e9))) {
      return ItemError(flag, item,
                       absl::StrCat("TOKENS or TOKENS:WEIGHT with 1 to ", max_tokens,
                                    " tokens and a weight greater than 0"));
    }
    mix.lengths.push_back(length);
    mix.weights.push_back(weight);
    sum += weight;
  }
  for (double& weight : mix.weights) weight /= sum;
  return mix;
}

}  // namespace slim
