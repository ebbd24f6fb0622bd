// Rooflines of prefill and decode: what was achieved beside what the machine gave right before and
// right after, the larger of the two (the memory of a virtual machine may change its speed in
// between: where the two differ much, measure again). Thread rule: one thread.
//
// On a GPU nothing is probed: decode stands beside the bandwidth that the clock and the width of
// its memory give, prefill has no roofline (PrefillRow::tflops_per_second says what it achieved).
//
// Prefill counts the operations of PrunedPrefillOps (engine/prune/cost_model.h): linear layers and
// attention as the pass computes them, without embedding, norms, block scores and the LM head of
// one row. The peak is that of the arithmetic of the linear layers; attention has
// more to do than its products (softmax, scales), so its share cannot reach the int8 peak.
//
// Decode counts the bytes that a step must read once: packed weights with the LM head (an embedding
// of its own is left out, a step reads a row of it per stream), and for each stream the keys and
// values its tokens see. What the discrete KV tier copies is not counted.
#ifndef TOOLS_BENCH_ROOFLINE_H_
#define TOOLS_BENCH_ROOFLINE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/engine.h"
#include "tools/common/machine_probe.h"
#include "tools/common/result_json.h"

namespace slim {

class RooflineProbe {
 public:
  // Where `wanted` is false no measurement gets a roofline.
  RooflineProbe(const Engine& engine, bool wanted);

  // What the machine gives now, NaN where there is no probe for the kernels, or nothing is probed.
  // The errors of MachineProbe.
  absl::StatusOr<double> PeakOps();
  absl::StatusOr<double> ReadBandwidth();

  // Of a prompt that took `seconds`; the peak is the larger of the two.
  absl::optional<PrefillRoofline> Prefill(absl::Span<const SegmentPlan> plan, double seconds,
                                          double peak_before, double peak_after) const;
  // Of a decode step of all streams that took `seconds` and saw `kv_bytes` of keys and values.
  absl::optional<DecodeRoofline> Decode(double kv_bytes, double seconds, double read_before,
                                        double read_after) const;

 private:
  const ModelConfig config_;
  Arithmetic arithmetic_ = Arithmetic::kInt8;  // of the linear layers
  int64_t step_weight_bytes_ = 0;
  absl::optional<MachineProbe> machine_;  // nullopt: nothing is probed
  double device_bytes_per_second_ = 0;    // of a GPU; 0: not known, or not wanted
};

// One line for each measurement that has a roofline; empty when none has.
std::string RooflineTable(const std::vector<PrefillRow>& rows);
std::string RooflineTable(const std::vector<DecodeRow>& rows);

}  // namespace slim

#endif  // TOOLS_BENCH_ROOFLINE_H_
