#include "tools/bench/roofline.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/prune/cost_model.h"
#include "tools/common/text_table.h"

namespace slim {
namespace {

double OrNoValue(double peak) { return peak > 0 ? peak : kNoValue; }

// Both are NaN or none is: the kernels have a probe or not.
double Larger(double before, double after) {
  return std::isnan(before) ? before : std::max(before, after);
}

constexpr char kPrefillTitle[] =
    "\nroofline: operations of a prompt beside the machine's peak, probed before and after\n";
constexpr char kDecodeTitle[] =
    "\nroofline: bytes a step must read beside what the memory gives (CPU: probed before and "
    "after)\n";
constexpr char kNoProbe[] = "roofline: there is no probe of the peak for these kernels\n";

std::string Titled(const char* title, const TextTable& table, bool probed) {
  return absl::StrCat(title, table.Render(), probed ? "" : kNoProbe);
}

}  // namespace

RooflineProbe::RooflineProbe(const Engine& engine, bool wanted)
    : config_(engine.model_config()), step_weight_bytes_(engine.weight_bytes()) {
  const BackendInfo& backend = engine.backend_info();
  const bool on_cpu = backend.name == "cpu";
  if (!wanted || (!on_cpu && backend.device_bytes_per_second == 0)) return;
  if (on_cpu) machine_.emplace(backend.isa, backend.num_threads);
  device_bytes_per_second_ = backend.device_bytes_per_second;
  const TensorSource& source = engine.source();
  // The largest layer speaks for all: other weights than blocks of 32 are computed in floats.
  const absl::StatusOr<HostTensor> gate = source.GetTensor("blk.0.ffn_gate.weight");
  if (gate.ok() && BlockElements(gate->dtype) == 1) arithmetic_ = Arithmetic::kFp32;
  const absl::StatusOr<HostTensor> embedding = source.GetTensor("token_embd.weight");
  if (embedding.ok() && !config_.tied_embedding) {
    // The GPU holds every weight in 16 bits.
    step_weight_bytes_ -= on_cpu ? embedding->bytes() : 2 * embedding->rows * embedding->cols;
  }
}

absl::StatusOr<double> RooflineProbe::PeakOps() {
  if (!machine_.has_value()) return kNoValue;
  const absl::StatusOr<double> peak = machine_->PeakOps(arithmetic_);
  return peak.ok() ? OrNoValue(*peak) : peak;
}

absl::StatusOr<double> RooflineProbe::ReadBandwidth() {
  if (device_bytes_per_second_ > 0) return device_bytes_per_second_;
  if (!machine_.has_value()) return kNoValue;
  const absl::StatusOr<double> rate = machine_->ReadBandwidth();
  return rate.ok() ? OrNoValue(*rate) : rate;
}

absl::optional<PrefillRoofline> RooflineProbe::Prefill(absl::Span<const SegmentPlan> plan,
                                                       double seconds, double peak_before,
                                                       double peak_after) const {
  if (!machine_.has_value()) return absl::nullopt;
  const PrefillOps ops = PrunedPrefillOps(config_, plan);
  PrefillRoofline roofline;
  roofline.linear_operations = ops.linear;
  roofline.attention_operations = ops.attention;
  roofline.operations_per_second = ops.total() / seconds;
  roofline.peak_arithmetic = ArithmeticName(arithmetic_);
  roofline.peak_operations_per_second = Larger(peak_before, peak_after);
  roofline.share_of_peak = roofline.operations_per_second / roofline.peak_operations_per_second;
  return roofline;
}

absl::optional<DecodeRoofline> RooflineProbe::Decode(double kv_bytes, double seconds,
                                                     double read_before, double read_after) const {
  if (!machine_.has_value() && device_bytes_per_second_ == 0) return absl::nullopt;
  DecodeRoofline roofline;
  roofline.weight_bytes = static_cast<double>(step_weight_bytes_);
  roofline.kv_bytes = kv_bytes;
  roofline.bytes_per_second = (roofline.weight_bytes + kv_bytes) / seconds;
  roofline.read_bytes_per_second_before = read_before;
  roofline.read_bytes_per_second_after = read_after;
  roofline.share_of_read = roofline.bytes_per_second / Larger(read_before, read_after);
  return roofline;
}

std::string RooflineTable(const std::vector<PrefillRow>& rows) {
  TextTable table({"length", "pruning", "linear GOP", "attention GOP", "GOP/s", "peak GOP/s",
                   "peak of", "% of peak"});
  bool any = false, probed = true;
  for (const PrefillRow& row : rows) {
    if (!row.roofline.has_value()) continue;
    const PrefillRoofline& r = *row.roofline;
    any = true;
    probed &= !std::isnan(r.share_of_peak);
    table.AddRow({Grouped(row.length), row.pruning, Number(r.linear_operations / 1e9, 1),
                  Number(r.attention_operations / 1e9, 1), Number(r.operations_per_second / 1e9, 1),
                  Number(r.peak_operations_per_second / 1e9, 1), r.peak_arithmetic,
                  Number(100 * r.share_of_peak, 1)});
  }
  return any ? Titled(kPrefillTitle, table, probed) : "";
}

std::string RooflineTable(const std::vector<DecodeRow>& rows) {
  TextTable table({"context", "pruning", "kv", "prefetch", "streams", "weights MB", "KV MB", "GB/s",
                   "read before", "read after", "% of read"});
  bool any = false, probed = true;
  for (const DecodeRow& row : rows) {
    if (!row.roofline.has_value()) continue;
    const DecodeRoofline& r = *row.roofline;
    any = true;
    probed &= !std::isnan(r.share_of_read);
    table.AddRow(
        {Grouped(row.context), row.pruning, row.kv_tier, row.prefetch ? "on" : "off",
         Grouped(row.streams), Number(r.weight_bytes / 1e6, 1), Number(r.kv_bytes / 1e6, 1),
         Number(r.bytes_per_second / 1e9, 1), Number(r.read_bytes_per_second_before / 1e9, 1),
         Number(r.read_bytes_per_second_after / 1e9, 1), Number(100 * r.share_of_read, 1)});
  }
  return any ? Titled(kDecodeTitle, table, probed) : "";
}

}  // namespace slim
