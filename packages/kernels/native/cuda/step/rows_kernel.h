// Rows that linears of a long launch read, by a kernel of its own: in the step kernel a multiprocessor has twelve warps, and most of their time is waiting.
#pragma once
#include "common/device.h"
#include "step/step_program.h"

namespace qspec::cuda {

struct RowsKernelParams {
  Phase phase;              // kRows of Rows::kTokens that has_rows_kernel()
  const StepBatch* batch;
  RowBlocks blocks;         // of the x-form in memory
};

// Does a warp need nothing but its own run for these? Into bfloat16 x-form.
bool has_rows_kernel(const Phase& phase);
// `rows`: of the launch.
Status launch_rows(int rows, const RowsKernelParams& params, cudaStream_t stream);

}  // namespace qspec::cuda
