#include "step/step_launch.h"

#include "step/step_kernels.h"
#include "step/step_shared.cuh"

namespace qspec::cuda {

size_t step_fixed_bytes(int num_linears, int num_shapes) { return step_fixed(num_linears, num_shapes); }

Status launch_step(int row_class, int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream) {
  switch (kRowClasses[row_class].n8) {
    case kOneRow: return launch_step_one(num_blocks, config, params, stream);
    case kFewRows: return launch_step_few(num_blocks, config, params, stream);
    case kFiveRows: return launch_step_five(num_blocks, config, params, stream);
    case 1: return launch_step_n1(num_blocks, config, params, stream);
    case 2: return launch_step_n2(num_blocks, config, params, stream);
    case 3: return launch_step_n3(num_blocks, config, params, stream);
    case 4: return launch_step_n4(num_blocks, config, params, stream);
    default: return (params.attention.way == TeamWay::kGroups ? launch_step_blocks : launch_step_n8)(num_blocks, config, params, stream);
  }
}

}  // namespace qspec::cuda
