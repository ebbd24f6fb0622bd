#include "engine/base/status_macros.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "engine/base/check.h"

namespace slim {
namespace {

absl::Status Fail() { return absl::NotFoundError("missing"); }

absl::StatusOr<std::unique_ptr<int>> MakeInt(bool good) {
  if (!good) return absl::InvalidArgumentError("bad");
  return std::make_unique<int>(5);
}

TEST(StatusMacrosTest, ReturnIfErrorReturnsTheErrorAndStops) {
  bool went_on = false;
  const auto function = [&](bool good) -> absl::Status {
    SLIM_RETURN_IF_ERROR(good ? absl::OkStatus() : Fail());
    went_on = true;
    return absl::OkStatus();
  };
  EXPECT_EQ(function(false), absl::NotFoundError("missing"));
  EXPECT_FALSE(went_on);
  EXPECT_TRUE(function(true).ok());
  EXPECT_TRUE(went_on);
}

TEST(StatusMacrosTest, ReturnIfErrorConvertsToStatusOr) {
  const auto function = []() -> absl::StatusOr<std::string> {
    SLIM_RETURN_IF_ERROR(Fail());
    return "value";
  };
  EXPECT_EQ(function().status(), absl::NotFoundError("missing"));
}

TEST(StatusMacrosTest, ReturnIfErrorEvaluatesOnce) {
  int calls = 0;
  const auto function = [&]() -> absl::Status {
    SLIM_RETURN_IF_ERROR((++calls, absl::OkStatus()));
    return absl::OkStatus();
  };
  EXPECT_TRUE(function().ok());
  EXPECT_EQ(calls, 1);
}

TEST(StatusMacrosTest, ReturnIfErrorBindsToAnIfWithoutBraces) {
  const auto function = [](bool check) -> absl::Status {
    if (check)
      SLIM_RETURN_IF_ERROR(Fail());
    else
      return absl::AbortedError("else");
    return absl::OkStatus();
  };
  EXPECT_EQ(function(true).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(function(false).code(), absl::StatusCode::kAborted);
}

TEST(StatusMacrosTest, AssignOrReturnMovesTheValueOut) {
  const auto function = [](bool good) -> absl::StatusOr<int> {
    SLIM_ASSIGN_OR_RETURN(std::unique_ptr<int> first, MakeInt(true));
    SLIM_ASSIGN_OR_RETURN(auto second, MakeInt(good));
    SLIM_ASSIGN_OR_RETURN(first, MakeInt(true));
    return *first + *second;
  };
  EXPECT_EQ(*function(true), 10);
  EXPECT_EQ(function(false).status(), absl::InvalidArgumentError("bad"));
}

TEST(CheckTest, ABrokenInvariantAbortsWithItsText) {
  SLIM_CHECK(1 + 1 == 2);
  EXPECT_DEATH(SLIM_CHECK(1 + 1 == 3), "broken invariant: 1 \\+ 1 == 3");
}

}  // namespace
}  // namespace slim
