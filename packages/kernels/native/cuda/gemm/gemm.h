// The linear op on CUDA:  out[r, out_column + n] (+)= Σ_k x[r, k] · W[n, k] (+ bias[n]), any number of rows.
//
// Target mode takes bfloat16 activations, sums in float32; draft modes take integer activations. A row's result is the same bit for bit
// whatever the other rows are and however many: the order of sums is k_plan's (layout.h), whichever kernel runs.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "common/layout.h"
#include "qspec/params.h"
#include "qspec/status.h"

namespace qspec::cuda {

// Scratch that GEMMs of one stream share. `counters` must be zero before the first use; every launch leaves them zero.
struct GemmWorkspace {
  float* partials;     // gemm_workspace_floats(...)
  int64_t num_floats;
  unsigned* counters;  // kGemmCounters
};
constexpr int kGemmCounters = 1 << 16;

struct GemmParams {
  const DeviceWeight* weight;
  Plane plane;             // kHi reads only the 4-bit plane of nested8
  const __nv_bfloat16* x;  // [rows, x_stride], 16-byte aligned, x_stride a multiple of 8; nullptr when quantised
  int64_t x_stride;
  const QuantizedRows* quantized;  // codes in code_place order (layout.h); the weight's group size
  const float* bias;               // [n] or nullptr
  float* out;                      // [rows, out_stride]
  int64_t out_stride, out_column, rows;
  bool add;  // out += instead of out =
};

// Floats of workspace that a product with `rows` rows needs (0 when k fits one slice).
int64_t gemm_workspace_floats(const DeviceWeight& weight, int64_t rows);
// How one launch goes to the stream: programmatic dependent launch lets weights be fetched while the kernel before drains.
// Every kernel of this backend waits for its predecessor before it touches activations, so a whole graph may use it.
struct LaunchOptions {
  bool dependent = true;
  int units_per_block = 0;  // row-tiles a thread block takes one after the other; 0 = chosen from the shape
};
Status launch_gemm(const GemmParams& params, const GemmWorkspace& workspace, cudaStream_t stream, const LaunchOptions& options = {});

}  // namespace qspec::cuda
