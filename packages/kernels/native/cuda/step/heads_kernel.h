// Of a long launch, before its attention: heads are normed and rotated, K and V of all rows go to the cache, and queries become what teams copy (made_query()).
#pragma once
#include "common/device.h"
#include "step/step_program.h"

namespace qspec::cuda {

Status launch_heads(int rows, const AttentionSpec& spec, const StepBatch* batch, cudaStream_t stream);

}  // namespace qspec::cuda
