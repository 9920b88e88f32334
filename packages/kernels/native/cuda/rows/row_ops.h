// Row-wise ops on CUDA: one thread block a row, the row in shared memory in float32; Hadamard, then bfloat16 store or quantisation.
// Width at most kMaxRowWidth. Every row is computed alone, so all of these are row-invariant.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "common/layout.h"
#include "qspec/params.h"
#include "qspec/status.h"

namespace qspec::cuda {

constexpr int kMaxRowWidth = 49152;

// Destination, device pointers. Quantised codes go to code_place order (layout.h).
struct DeviceSink {
  __nv_bfloat16* values;    // [rows, values_stride] or nullptr when quantised
  int64_t values_stride;
  QuantizedRows quantized;  // codes != nullptr when quantised
  int hadamard_block;       // 0 = none
};

// input (+= delta, in place, when given) / sqrt(mean(input²) + eps) · weight
Status launch_rms_norm(float* input, const float* delta, const float* weight, float eps, int64_t rows, int64_t width, const DeviceSink& sink, cudaStream_t stream);
Status launch_transform(const float* input, int64_t rows, int64_t width, const DeviceSink& sink, cudaStream_t stream);
// silu(gate) · up of [rows, 2·width]
Status launch_silu_mul(const float* input, int64_t rows, int64_t width, const DeviceSink& sink, cudaStream_t stream);
Status launch_gather_rows(const float* input, const int32_t* row_index, float* output, int64_t rows, int64_t width, cudaStream_t stream);

}  // namespace qspec::cuda
