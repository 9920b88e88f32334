// Launchers of the sampling kernels.
#pragma once
#include "common/device.h"
#include "sampling/sample_params.h"

namespace qspec::cuda {

// Draws a token for every row of the batch; `max_rows` bounds how many there are. `has_general`: some rows need the long way.
Status launch_sample(const SampleParams& params, int max_rows, bool has_general, cudaStream_t stream);

}  // namespace qspec::cuda
