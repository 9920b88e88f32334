// Launcher of the step kernel.
#pragma once
#include "common/device.h"
#include "step/step_config.h"

namespace qspec::cuda {

// Shared memory before the region.
size_t step_fixed_bytes(int num_linears, int num_shapes);

// One forward pass over the rows of `params.batch`, which are of class `row_class`. `num_blocks`: at most one a multiprocessor.
Status launch_step(int row_class, int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);

}  // namespace qspec::cuda
