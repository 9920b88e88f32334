// One translation unit a kernel: they take long to compile.
#pragma once
#include "common/device.h"
#include "step/step_config.h"

namespace qspec::cuda {
Status launch_step_one(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_five(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_few(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_n1(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_n2(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_n3(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_n4(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_n8(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);
Status launch_step_blocks(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream);  // more than 32 rows, of which a block takes an item of attention (TeamWay::kGroups)
}  // namespace qspec::cuda
