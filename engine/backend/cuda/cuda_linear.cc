#include "engine/backend/cuda/cuda_linear.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/tensor/dequantize.h"

namespace slim::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what the library recommends for Hopper
// Shapes differ by their number of rows only; a server sees some hundreds.
constexpr size_t kMaxPlans = 16384;
constexpr int64_t kUploadElements = int64_t{8} << 20;

cudaDataType_t CudaType(Element type) { return type == Element::kF32 ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

absl::StatusOr<std::unique_ptr<CudaWeight>> CudaWeight::Create(const HostTensor& tensor,
                                                               CudaContext& context) {
  if (tensor.rows <= 0 || tensor.cols <= 0 || tensor.data == nullptr ||
      tensor.cols % BlockElements(tensor.dtype) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight ", tensor.name, " is ", std::string(DTypeName(tensor.dtype)), " [",
                     tensor.rows, ", ", tensor.cols, "], columns must be a positive multiple of ",
                     BlockElements(tensor.dtype)));
  }
  auto weight = std::unique_ptr<CudaWeight>(new CudaWeight());
  weight->outputs_ = tensor.rows;
  weight->inputs_ = tensor.cols;
  weight->dtype_ = tensor.dtype;
  SLIM_ASSIGN_OR_RETURN(weight->data_, context.Allocate(tensor.rows * tensor.cols *
                                                        static_cast<int64_t>(sizeof(Bf16))));
  if (tensor.random_deviation > 0) {
    // By name, so that matrices differ and runs do not.
    const uint64_t seed = std::hash<std::string>()(tensor.name);
    SLIM_RETURN_IF_ERROR(context.BeginOp(CudaContext::kAtOnce));
    SLIM_RETURN_IF_ERROR((context.Submit<Op::kRandom, &FillRandom>(
        tensor.random_deviation, seed, tensor.rows * tensor.cols,
        static_cast<Bf16*>(weight->data_.data()))));
    return weight;
  }
  const int64_t chunk_rows = std::max<int64_t>(1, kUploadElements / tensor.cols);
  std::vector<float> row(tensor.cols);
  std::vector<Bf16> chunk(std::min(chunk_rows, tensor.rows) * tensor.cols);
  for (int64_t first = 0; first < tensor.rows; first += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, tensor.rows - first);
    const void* source = chunk.data();
    if (tensor.dtype == DType::kBF16) {
      source = static_cast<const Bf16*>(tensor.data) + first * tensor.cols;
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        DequantizeRow(tensor, first + r, row.data());
        std::transform(row.begin(), row.end(), chunk.begin() + r * tensor.cols, F32ToBF16);
      }
    }
    SLIM_RETURN_IF_ERROR(context.Check(
        cudaMemcpyAsync(static_cast<Bf16*>(weight->data_.data()) + first * tensor.cols, source,
                        static_cast<size_t>(rows * tensor.cols) * sizeof(Bf16),
                        cudaMemcpyHostToDevice, context.stream()),
        "cudaMemcpyAsync"));
    SLIM_RETURN_IF_ERROR(context.Synchronize());  // `chunk` is written again
  }
  return weight;
}

absl::StatusOr<std::unique_ptr<CudaMatmul>> CudaMatmul::Create(CudaContext* context) {
  std::unique_ptr<CudaMatmul> matmul(new CudaMatmul(context));
  SLIM_RETURN_IF_ERROR(FromCublas(cublasLtCreate(&matmul->handle_), "cublasLtCreate"));
  SLIM_RETURN_IF_ERROR(
      FromCublas(cublasLtMatmulDescCreate(&matmul->operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate"));
  // The library thinks in columns: out^T [outputs, rows] = (weight^T)^T x^T.
  const cublasOperation_t transposed = CUBLAS_OP_T;
  SLIM_RETURN_IF_ERROR(
      FromCublas(cublasLtMatmulDescSetAttribute(matmul->operation_, CUBLASLT_MATMUL_DESC_TRANSA,
                                                &transposed, sizeof(transposed)),
                 "cublasLtMatmulDescSetAttribute"));
  SLIM_ASSIGN_OR_RETURN(matmul->workspace_, context->Allocate(kWorkspaceBytes));
  return matmul;
}

CudaMatmul::~CudaMatmul() {
  for (auto& [shape, plan] : plans_) DestroyPlan(&plan);
  if (operation_ != nullptr) (void)cublasLtMatmulDescDestroy(operation_);
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

void CudaMatmul::DestroyPlan(Plan* plan) {
  for (cublasLtMatrixLayout_t layout : {plan->weight, plan->x, plan->out}) {
    if (layout != nullptr) (void)cublasLtMatrixLayoutDestroy(layout);
  }
}

absl::Status CudaMatmul::BuildPlan(const Shape& shape, Plan* plan) {
  const auto outputs = static_cast<uint64_t>(shape.outputs);
  const auto inputs = static_cast<uint64_t>(shape.inputs);
  const auto rows = static_cast<uint64_t>(shape.rows);
  SLIM_RETURN_IF_ERROR(FromCublas(
      cublasLtMatrixLayoutCreate(&plan->weight, CUDA_R_16BF, inputs, outputs, shape.inputs),
      "cublasLtMatrixLayoutCreate"));
  SLIM_RETURN_IF_ERROR(
      FromCublas(cublasLtMatrixLayoutCreate(&plan->x, CUDA_R_16BF, inputs, rows, shape.inputs),
                 "cublasLtMatrixLayoutCreate"));
  SLIM_RETURN_IF_ERROR(FromCublas(
      cublasLtMatrixLayoutCreate(&plan->out, CudaType(shape.type), outputs, rows, shape.outputs),
      "cublasLtMatrixLayoutCreate"));
  cublasLtMatmulPreference_t preference;
  SLIM_RETURN_IF_ERROR(
      FromCublas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
  const auto workspace = static_cast<size_t>(kWorkspaceBytes);
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(
      preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace));
  // Inputs and results are whole rows of larger buffers.
  const uint32_t alignment = 16;
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    if (status != CUBLAS_STATUS_SUCCESS) break;
    status =
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof(alignment));
  }
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(handle_, operation_, plan->weight, plan->x, plan->out,
                                            plan->out, preference, 1, &result, &found);
  }
  (void)cublasLtMatmulPreferenceDestroy(preference);
  SLIM_RETURN_IF_ERROR(FromCublas(status, "cublasLtMatmulAlgoGetHeuristic"));
  if (found == 0) {
    return absl::InternalError(absl::StrCat("cuBLASLt has no algorithm for ", shape.rows, " x ",
                                            shape.inputs, " x ", shape.outputs));
  }
  plan->algorithm = result.algo;
  return absl::OkStatus();
}

absl::StatusOr<const CudaMatmul::Plan*> CudaMatmul::PlanFor(const Shape& shape) {
  const auto found = plans_.find(shape);
  if (found != plans_.end()) return &found->second;
  if (plans_.size() >= kMaxPlans) {
    SLIM_RETURN_IF_ERROR(context_->Flush());  // what was put off uses them
    for (auto& [old_shape, old_plan] : plans_) DestroyPlan(&old_plan);
    plans_.clear();
  }
  Plan plan;
  const absl::Status status = BuildPlan(shape, &plan);
  if (!status.ok()) {
    DestroyPlan(&plan);
    return status;
  }
  plan.number = ++plans_made_;
  return &plans_.emplace(shape, plan).first->second;
}

absl::Status CudaMatmul::Run(const Bf16* x, int64_t rows, const CudaWeight& weight, void* out,
                             Element type, bool accumulate) {
  SLIM_ASSIGN_OR_RETURN(const Plan* const plan,
                        PlanFor({rows, weight.outputs(), weight.inputs(), type}));
  return context_->Submit<Op::kMatmul, &CudaMatmul::Launch>(
      static_cast<const CudaMatmul*>(this), plan, plan->number, weight.data(), x, out, accumulate);
}

cublasStatus_t CudaMatmul::Launch(const CudaMatmul* matmul, const Plan* plan, uint64_t plan_number,
                                  const Bf16* weight, const Bf16* x, void* out, bool accumulate,
                                  cudaStream_t stream) {
  const float alpha = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  return cublasLtMatmul(matmul->handle_, matmul->operation_, &alpha, weight, plan->weight, x,
                        plan->x, &beta, out, plan->out, out, plan->out, &plan->algorithm,
                        matmul->workspace_.data(), static_cast<size_t>(kWorkspaceBytes), stream);
}

}  // namespace slim::cuda
