// Attention of a long launch by kernels of its own: heads are made (step/heads_kernel.h), then teams take items, in any way but by tiles, and what they hand in is folded
// (step/folds_kernel.h).
#pragma once
#include "step/step_launch.h"

namespace qspec::cuda {

// `params`: of the one phase, kAttention of a format and head size that has_group_teams(). `rows`: of the launch.
Status launch_attention(int num_blocks, int rows, const StepConfig& config, const StepParams& params, const AttentionSpec& spec, const FoldShape& folds, cudaStream_t stream);

}  // namespace qspec::cuda
