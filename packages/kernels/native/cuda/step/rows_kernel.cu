#include "step/rows_kernel.h"

#include "common/launch.cuh"
#include "step/row_math.cuh"

namespace qspec::cuda {

namespace {
constexpr int kWarps = 8;  // of a block: a run each
}

QSPEC_KERNEL(kWarps * kWarp, 4) rows_kernel(const QSPEC_GRID_CONSTANT RowsKernelParams params) {
  let_next_kernel_begin();
  wait_for_previous_kernel();
  const Phase& phase = params.phase;
  const int rows = load_constant(&params.batch->rows), runs = num_row_runs(phase.source);
  const RowsTask task{nullptr, 0, rows, 0, runs, block_index() * kWarps + thread_index() / kWarp, grid_blocks() * kWarps};
  transform_rows<kWideRowBlocks>(phase.source, task, phase.x, params.blocks, {phase.x.data, phase.x.scales, phase.x.sums, phase.x.squares, has_tile_squares(params.blocks)});
}

bool has_rows_kernel(const Phase& phase) { return phase.kind == PhaseKind::kRows && phase.rows == Rows::kTokens && phase.linear.output == nullptr && phase.x.bits == 16; }

Status launch_rows(int rows, const RowsKernelParams& params, cudaStream_t stream) {
  const int runs = (params.phase.source.width + kRunK - 1) / kRunK;
  return launch(rows_kernel, {(rows * runs + kWarps - 1) / kWarps, kWarps * kWarp, 0, false, true}, stream, "rows kernel", params);
}

}  // namespace qspec::cuda
