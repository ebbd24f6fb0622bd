#include "tools/common/statistics.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

TEST(PercentileTest, InterpolatesBetweenRanks) {
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 0), 1);
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 100), 4);
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 50), 2.5);
  EXPECT_DOUBLE_EQ(Percentile({10, 20}, 95), 19.5);
  EXPECT_DOUBLE_EQ(Median({7}), 7);
}

TEST(PercentileTest, IsNotANumberWithoutSamplesAndStaysWithinRange) {
  EXPECT_TRUE(std::isnan(Percentile({}, 50)));
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, 250), 2);
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, -5), 1);
}

TEST(MeanTest, AveragesOrSaysNothing) {
  EXPECT_DOUBLE_EQ(Mean({1, 2, 6}), 3);
  EXPECT_TRUE(std::isnan(Mean({})));
}

// Reference values from Wilson's formula, and those that are published for 54 and 47 of 55 and 50.
TEST(WilsonTest, AgreesWithKnownIntervals) {
  EXPECT_NEAR(Wilson95(54, 55).low, 0.904, 0.001);
  EXPECT_NEAR(Wilson95(54, 55).high, 0.997, 0.001);
  EXPECT_NEAR(Wilson95(47, 50).low, 0.838, 0.001);
  EXPECT_NEAR(Wilson95(47, 50).high, 0.979, 0.001);
  EXPECT_NEAR(Wilson95(5, 10).low, 0.2366, 0.0001);
  EXPECT_NEAR(Wilson95(5, 10).high, 0.7634, 0.0001);
}

TEST(WilsonTest, StaysWithinZeroAndOneAtTheEnds) {
  EXPECT_NEAR(Wilson95(0, 10).low, 0, 1e-12);
  EXPECT_NEAR(Wilson95(0, 10).high, 0.2775, 0.0001);
  EXPECT_NEAR(Wilson95(10, 10).high, 1, 1e-12);
  EXPECT_EQ(Wilson95(0, 0).low, 0);
  EXPECT_EQ(Wilson95(0, 0).high, 1);
}

TEST(TextTableTest, AlignsColumnsToTheRight) {
  TextTable table({"a", "long"});
  table.AddRow({"12", "x"});
  EXPECT_EQ(table.Render(), " a  long\n12     x\n");
}

TEST(NumberTest, FormatsDigitsGroupsAndWhatIsMissing) {
  EXPECT_EQ(Number(1.2345, 2), "1.23");
  EXPECT_EQ(Number(std::nan(""), 2), "-");
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1000), "1,000");
  EXPECT_EQ(Grouped(-999), "-999");
  EXPECT_EQ(Grouped(-1234567), "-1,234,567");
  EXPECT_EQ(Grouped(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

}  // namespace
}  // namespace slim
