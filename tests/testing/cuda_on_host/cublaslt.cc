// The calls of cuBLASLt that the backend makes: products by plain loops, columns first.

#include <cublasLt.h>

#include <cstring>
#include <vector>

#include "engine/tensor/float_convert.h"
#include "tests/testing/cuda_on_host/queue.h"

namespace {

struct Layout {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t stride;
};

const Layout& Read(cublasLtMatrixLayout_t layout) {
  return *reinterpret_cast<const Layout*>(layout);
}

float Load(const void* data, const Layout& layout, int64_t row, int64_t col) {
  const int64_t at = col * layout.stride + row;
  return layout.type == CUDA_R_32F ? static_cast<const float*>(data)[at]
                                   : slim::BF16ToF32(static_cast<const uint16_t*>(data)[at]);
}

std::vector<float> Columns(const void* data, const Layout& layout) {
  std::vector<float> values;
  values.reserve(layout.rows * layout.cols);
  for (uint64_t col = 0; col < layout.cols; ++col) {
    for (uint64_t row = 0; row < layout.rows; ++row) {
      values.push_back(Load(data, layout, row, col));
    }
  }
  return values;
}

// Eight sums, for the compiler's vectors.
float Dot(const float* a, const float* b, uint64_t count) {
  float sums[8] = {};
  uint64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    for (int i = 0; i < 8; ++i) sums[i] += a[k + i] * b[k + i];
  }
  for (; k < count; ++k) sums[0] += a[k] * b[k];
  float sum = 0;
  for (const float s : sums) sum += s;
  return sum;
}

void Store(float value, const Layout& layout, int64_t row, int64_t col, void* data) {
  const int64_t at = col * layout.stride + row;
  if (layout.type == CUDA_R_32F) {
    static_cast<float*>(data)[at] = value;
  } else {
    static_cast<uint16_t*>(data)[at] = slim::F32ToBF16(value);
  }
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
const char* cublasLtGetStatusName(cublasStatus_t) { return "a status"; }

// The only operation that the backend uses: first operand transposed.
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t) {
  *desc = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t) {
  return attribute == CUBLASLT_MATMUL_DESC_TRANSA &&
                 *static_cast<const cublasOperation_t*>(value) == CUBLAS_OP_T
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t stride) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, cols, stride});
  return static_cast<int64_t>(rows) <= stride ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(const cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<const Layout*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  std::memset(results, 0, sizeof(results[0]));
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  const Layout la = Read(a_layout), lb = Read(b_layout), ld = Read(d_layout);
  if (la.cols != ld.rows || lb.cols != ld.cols || la.rows != lb.rows) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const cudaError_t queued = slim::cuda_on_host::Enqueue(stream, [=] {
    const std::vector<float> left = Columns(a, la), right = Columns(b, lb);
    for (uint64_t col = 0; col < ld.cols; ++col) {
      for (uint64_t row = 0; row < ld.rows; ++row) {
        const float sum = Dot(&left[row * la.rows], &right[col * lb.rows], la.rows);
        const float before = keep == 0 ? 0.0f : keep * Load(c, ld, row, col);
        Store(scale * sum + before, ld, row, col, d);
      }
    }
  });
  return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
