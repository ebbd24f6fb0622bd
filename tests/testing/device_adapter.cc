#include "tests/testing/device_adapter.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim {
namespace {

// A host view's twin in the device's memory.
class DeviceTensor {
 public:
  static absl::StatusOr<DeviceTensor> Upload(Backend& device, const TensorView& host, DType dtype) {
    DeviceTensor tensor;
    tensor.host_ = host;
    tensor.view_ = TensorView{nullptr, host.rows, host.cols, dtype};
    SLIM_ASSIGN_OR_RETURN(tensor.memory_, device.Allocate(tensor.view_.bytes()));
    tensor.view_.data = tensor.memory_.data();
    if (host.rows * host.cols == 0) return tensor;
    std::vector<uint16_t> halves;
    const void* source = host.data;
    if (dtype == DType::kBF16) {
      halves.resize(host.rows * host.cols);
      std::transform(host.f32(), host.f32() + halves.size(), halves.begin(), F32ToBF16);
      source = halves.data();
    }
    SLIM_RETURN_IF_ERROR(device.CopyFromHost(source, tensor.view_.data, tensor.view_.bytes()));
    return tensor;
  }

  absl::Status Download(Backend& device) const {
    const int64_t count = host_.rows * host_.cols;
    if (count == 0) return absl::OkStatus();
    if (view_.dtype == DType::kF32) {
      return device.CopyToHost(view_.data, host_.data, view_.bytes());
    }
    std::vector<uint16_t> halves(count);
    SLIM_RETURN_IF_ERROR(device.CopyToHost(view_.data, halves.data(), view_.bytes()));
    std::transform(halves.begin(), halves.end(), host_.f32(), BF16ToF32);
    return absl::OkStatus();
  }

  const TensorView& view() const { return view_; }

 private:
  TensorView host_, view_;
  Buffer memory_;
};

// Host slabs' twins.
class DeviceSlabs {
 public:
  DeviceSlabs(Backend* device, int64_t slab_bytes) : device_(device), slab_bytes_(slab_bytes) {}

  absl::StatusOr<void*> Upload(void* host) {
    auto found = slabs_.find(host);
    if (found == slabs_.end()) {
      SLIM_ASSIGN_OR_RETURN(Buffer memory, device_->Allocate(slab_bytes_));
      SLIM_RETURN_IF_ERROR(device_->CopyFromHost(host, memory.data(), slab_bytes_));
      found = slabs_.emplace(host, std::move(memory)).first;
    }
    return found->second.data();
  }
  absl::Status Upload(absl::Span<void* const> host, std::vector<void*>* device) {
    for (void* slab : host) {
      SLIM_ASSIGN_OR_RETURN(void* const twin, Upload(slab));
      device->push_back(twin);
    }
    return absl::OkStatus();
  }
  absl::Status Download() const {
    for (const auto& [host, memory] : slabs_) {
      SLIM_RETURN_IF_ERROR(device_->CopyToHost(memory.data(), host, slab_bytes_));
    }
    return absl::OkStatus();
  }

 private:
  Backend* const device_;
  const int64_t slab_bytes_;
  std::map<void*, Buffer> slabs_;
};

class DeviceAdapter final : public Backend {
 public:
  explicit DeviceAdapter(std::unique_ptr<Backend> device)
      : device_(std::move(device)), info_(device_->info()) {
    info_.activation_type = DType::kF32;
  }

  const BackendInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(int64_t bytes) override {
    if (!device_->Allocate(bytes).ok()) return device_->Allocate(bytes).status();
    void* data = std::calloc(std::max<int64_t>(bytes, 1), 1);
    if (data == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no room for ", bytes));
    return Buffer(data, bytes, [](void* p) { std::free(p); });
  }
  absl::Status CopyFromHost(const void* host, void* device, int64_t bytes) override {
    std::memcpy(device, host, bytes);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(const void* device, void* host, int64_t bytes) override {
    std::memcpy(host, device, bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<LinearWeight>> PrepareLinear(const HostTensor& tensor) override {
    return device_->PrepareLinear(tensor);
  }
  absl::StatusOr<Buffer> PrepareVector(const HostTensor& tensor) override {
    return device_->PrepareVector(tensor);
  }
  absl::Status Configure(const KvLayout& layout, int num_heads, const RopeParams& rope,
                         int64_t max_positions) override {
    layout_ = layout;
    return device_->Configure(layout, num_heads, rope, max_positions);
  }

  absl::Status Embed(const LinearWeight& embedding, absl::Span<const int32_t> tokens,
                     TensorView out) override {
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor to, Upload(out, DType::kF32));
    SLIM_RETURN_IF_ERROR(device_->Embed(embedding, tokens, to.view()));
    return to.Download(*device_);
  }

  absl::Status Linear(const LinearInput& input, absl::Span<const LinearOutput> outputs) override {
    const bool normed = input.kind == LinearInput::Kind::kRmsNorm;
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor x,
                          Upload(input.x, normed ? DType::kF32 : activation()));
    LinearInput device_input = input;
    device_input.x = x.view();
    DeviceTensor up;
    if (input.kind == LinearInput::Kind::kSwiGlu) {
      SLIM_ASSIGN_OR_RETURN(up, Upload(input.up, activation()));
      device_input.up = up.view();
    }
    std::vector<DeviceTensor> results;
    std::vector<LinearOutput> device_outputs(outputs.begin(), outputs.end());
    for (LinearOutput& output : device_outputs) {
      const bool wide = output.accumulate || output.precise;
      SLIM_ASSIGN_OR_RETURN(DeviceTensor out,
                            Upload(output.out, wide ? DType::kF32 : activation()));
      output.out = out.view();
      results.push_back(std::move(out));
    }
    SLIM_RETURN_IF_ERROR(device_->Linear(device_input, device_outputs));
    for (const DeviceTensor& result : results) SLIM_RETURN_IF_ERROR(result.Download(*device_));
    return absl::OkStatus();
  }

  absl::Status CopyRows(TensorView src, absl::Span<const int64_t> src_rows, TensorView dst,
                        absl::Span<const int64_t> dst_rows) override {
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor from, Upload(src, DType::kF32));
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor to, Upload(dst, DType::kF32));
    SLIM_RETURN_IF_ERROR(device_->CopyRows(from.view(), src_rows, to.view(), dst_rows));
    return to.Download(*device_);
  }

  absl::Status Rope(TensorView q, absl::Span<const int32_t> positions) override {
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor rows, Upload(q, activation()));
    SLIM_RETURN_IF_ERROR(device_->Rope(rows.view(), positions));
    return rows.Download(*device_);
  }

  absl::Status RopeAndStoreKv(TensorView k, TensorView v, absl::Span<const int32_t> positions,
                              absl::Span<const KvSlot> slots) override {
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor keys, Upload(k, activation()));
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor values, Upload(v, activation()));
    DeviceSlabs slabs(device_.get(), layout_.slab_bytes());
    std::vector<KvSlot> device_slots(slots.begin(), slots.end());
    for (KvSlot& slot : device_slots) {
      SLIM_ASSIGN_OR_RETURN(slot.slab, slabs.Upload(slot.slab));
    }
    SLIM_RETURN_IF_ERROR(
        device_->RopeAndStoreKv(keys.view(), values.view(), positions, device_slots));
    return slabs.Download();
  }

  absl::Status Attention(TensorView q, absl::Span<const int32_t> positions,
                         absl::Span<const AttentionSequence> sequences, TensorView out) override {
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor queries, Upload(q, activation()));
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor result, Upload(out, activation()));
    DeviceSlabs slabs(device_.get(), layout_.slab_bytes());
    std::vector<std::vector<void*>> twins(sequences.size());
    std::vector<AttentionSequence> device_sequences(sequences.begin(), sequences.end());
    for (size_t i = 0; i < sequences.size(); ++i) {
      SLIM_RETURN_IF_ERROR(slabs.Upload(sequences[i].slabs, &twins[i]));
      device_sequences[i].slabs = twins[i];
    }
    SLIM_RETURN_IF_ERROR(
        device_->Attention(queries.view(), positions, device_sequences, result.view()));
    return result.Download(*device_);
  }

  absl::Status ScoreBlocks(const BlockScoreArgs& args, absl::Span<float> scores) override {
    SLIM_ASSIGN_OR_RETURN(const DeviceTensor queries, Upload(args.queries, DType::kF32));
    DeviceSlabs slabs(device_.get(), layout_.slab_bytes());
    std::vector<void*> twins;
    SLIM_RETURN_IF_ERROR(slabs.Upload(args.slabs, &twins));
    BlockScoreArgs device_args = args;
    device_args.queries = queries.view();
    device_args.slabs = twins;
    return device_->ScoreBlocks(device_args, scores);
  }

 private:
  DType activation() const { return device_->info().activation_type; }
  absl::StatusOr<DeviceTensor> Upload(const TensorView& host, DType dtype) {
    return DeviceTensor::Upload(*device_, host, dtype);
  }

  const std::unique_ptr<Backend> device_;
  BackendInfo info_;
  KvLayout layout_;
};

}  // namespace

std::unique_ptr<Backend> MakeDeviceAdapter(std::unique_ptr<Backend> device) {
  return std::make_unique<DeviceAdapter>(std::move(device));
}

}  // namespace slim
