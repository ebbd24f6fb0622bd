#include "tools/common/machine_probe.h"

#include "engine/backend/cpu/cpu_features.h"
#include "gtest/gtest.h"

namespace slim {
namespace {

TEST(MachineProbeTest, EveryInstructionSetOfThisMachineHasItsPeaks) {
  for (const CpuIsa isa : SupportedIsas(DetectCpuFeatures())) {
    MachineProbe probe(std::string(CpuIsaName(isa)), 2);
    const auto peak = [&](Arithmetic arithmetic) {
      const absl::StatusOr<double> value = probe.PeakOps(arithmetic);
      EXPECT_TRUE(value.ok()) << value.status();
      return value.value_or(-1);
    };
    if (isa == CpuIsa::kPortable) {
      for (const Arithmetic a : {Arithmetic::kInt8, Arithmetic::kBf16, Arithmetic::kFp32}) {
        EXPECT_EQ(peak(a), 0) << ArithmeticName(a);
      }
      EXPECT_EQ(probe.ReadBandwidth().value_or(-1), 0);
      continue;
    }
    EXPECT_GT(peak(Arithmetic::kFp32), 1e8) << CpuIsaName(isa);
    EXPECT_GT(peak(Arithmetic::kInt8), 1e8) << CpuIsaName(isa);
    EXPECT_EQ(peak(Arithmetic::kBf16) > 0, isa >= CpuIsa::kAvx512Bf16) << CpuIsaName(isa);
    EXPECT_GT(probe.ReadBandwidth().value_or(-1), 1e8) << CpuIsaName(isa);
  }
}

}  // namespace
}  // namespace slim
