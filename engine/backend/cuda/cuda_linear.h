// Linear layers by cuBLASLt: bf16 weights and inputs, float32 accumulation, bf16 or float32
// results. The algorithm for a shape is chosen once, by the library's heuristic.
// Thread rule: the worker thread.
#ifndef ENGINE_BACKEND_CUDA_CUDA_LINEAR_H_
#define ENGINE_BACKEND_CUDA_CUDA_LINEAR_H_

#include <cublasLt.h>

#include <cstdint>
#include <memory>

#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/cuda/cuda_context.h"
#include "engine/backend/cuda/kernels.h"

namespace slim::cuda {

// A weight in bf16, row-major [outputs, inputs], whatever its type in the file was.
class CudaWeight final : public LinearWeight {
 public:
  // INVALID_ARGUMENT as Backend::PrepareLinear; RESOURCE_EXHAUSTED. Dequantises on the host; where
  // any numbers will do, draws them on the device.
  static absl::StatusOr<std::unique_ptr<CudaWeight>> Create(const HostTensor& tensor,
                                                            CudaContext& context);
  int64_t outputs() const override { return outputs_; }
  int64_t inputs() const override { return inputs_; }
  DType dtype() const override { return dtype_; }
  int64_t bytes() const override { return data_.bytes(); }
  const Bf16* data() const { return static_cast<const Bf16*>(data_.data()); }

 private:
  CudaWeight() = default;

  int64_t outputs_ = 0, inputs_ = 0;
  DType dtype_ = DType::kF32;
  Buffer data_;
};

class CudaMatmul {
 public:
  // INTERNAL when the library cannot be used.
  static absl::StatusOr<std::unique_ptr<CudaMatmul>> Create(CudaContext* context);
  ~CudaMatmul();
  CudaMatmul(const CudaMatmul&) = delete;
  CudaMatmul& operator=(const CudaMatmul&) = delete;

  // out[r, n] (+)= sum_k x[r, k] * weight[n, k]; x [rows, inputs] in bf16, out [rows, outputs] of
  // `type`; both 16-byte aligned. INTERNAL when the library has no algorithm for the shape.
  absl::Status Run(const Bf16* x, int64_t rows, const CudaWeight& weight, void* out, Element type,
                   bool accumulate);

 private:
  struct Shape {
    int64_t rows, outputs, inputs;
    Element type;
    bool operator==(const Shape& o) const {
      return rows == o.rows && outputs == o.outputs && inputs == o.inputs && type == o.type;
    }
    template <typename H>
    friend H AbslHashValue(H h, const Shape& s) {
      return H::combine(std::move(h), s.rows, s.outputs, s.inputs, s.type);
    }
  };
  // Descriptors and algorithm of one shape.
  struct Plan {
    cublasLtMatrixLayout_t weight = nullptr, x = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm;
    uint64_t number = 0;  // never used again, where an address may be
  };

  explicit CudaMatmul(CudaContext* context) : context_(context) {}
  absl::StatusOr<const Plan*> PlanFor(const Shape& shape);
  absl::Status BuildPlan(const Shape& shape, Plan* plan);
  static void DestroyPlan(Plan* plan);
  // The plan's number only tells launches apart that are put off.
  static cublasStatus_t Launch(const CudaMatmul* matmul, const Plan* plan, uint64_t plan_number,
                               const Bf16* weight, const Bf16* x, void* out, bool accumulate,
                               cudaStream_t stream);

  CudaContext* const context_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t operation_ = nullptr;
  Buffer workspace_;
  uint64_t plans_made_ = 0;
  absl::node_hash_map<Shape, Plan> plans_;  // plans stay where they are
};

}  // namespace slim::cuda

#endif  // ENGINE_BACKEND_CUDA_CUDA_LINEAR_H_
