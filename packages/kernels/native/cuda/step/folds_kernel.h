// Of a long launch, behind its attention: what items handed in, folded for all columns.
#pragma once
#include "common/device.h"
#include "step/step_program.h"

namespace qspec::cuda {

struct FoldsParams {
  AttentionSpec spec;
  const StepBatch* batch;
  StepWorkspace workspace;
  RowBlocks blocks;  // of out_x
  FoldShape shape;
};
Status launch_folds(const FoldsParams& params, cudaStream_t stream);

}  // namespace qspec::cuda
