// Attention of a long launch by kernels of its own: K and V of all rows go to the cache, then teams take items, in any way but by tiles.
#pragma once
#include "step/step_launch.h"

namespace qspec::cuda {

// `params`: of the one phase, kAttention of a format and head size that has_group_teams(). `rows`: of the launch.
Status launch_attention(int num_blocks, int rows, const StepConfig& config, const StepParams& params, const AttentionSpec& spec, cudaStream_t stream);

}  // namespace qspec::cuda
