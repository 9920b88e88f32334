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
  transform_rows<kWideRowBlocks, XKind::kBf16>(phase.source, task, phase.x, params.blocks, {phase.x.data, phase.x.scales, phase.x.sums, phase.x.squares, has_tile_squares(params.blocks)});
}

// What most launches have of it, the same in a fifth of the instructions, which are run once and so come from far: a norm of more than 32 rows, nothing rotated or added.
struct NormKernelParams {
  const float *input, *weight;
  uint8_t* x;
  float* squares;
  const StepBatch* batch;
  RowBlocks blocks;
  int width, runs;
  uint32_t by_runs;  // reciprocal
};
QSPEC_KERNEL(kWarps * kWarp, 4) norm_kernel(const QSPEC_GRID_CONSTANT NormKernelParams params) {
  const int lane = lane_index(), task = block_index() * kWarps + thread_index() / kWarp, row = quotient(task, params.by_runs), run = task - row * params.runs;
  let_next_kernel_begin();
  const int rows = load_constant(&params.batch->rows);
  float v[kRunValues], w[kRunValues];
  load_run(params.weight, params.width, run, lane, w);
  wait_for_previous_kernel();
  if (row >= rows) return;
  load_run(params.input + static_cast<int64_t>(row) * params.width, params.width, run, lane, v);
  const RunSquares squares = squares_of(v);
  const float sum = run_squares(squares, 4);
  if (lane == 0) params.squares[row * params.runs + run] = sum;
  const int first = run * kRunK + run_element(lane, 0), end = (params.width + kTileK - 1) / kTileK * kTileK;
  uint8_t* to = params.x + x_offset(params.blocks, row, first);
  const int64_t stride = x_offset(params.blocks, 0, run_element(0, 1));
  QSPEC_UNROLL
  for (int i = 0; i < kRunValues / 4; ++i, to += stride) {
    if (first + run_element(0, i) >= end) return;
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) v[4 * i + e] *= w[4 * i + e];
    *reinterpret_cast<uint32_t*>(to) = pack_bf16(v[4 * i], v[4 * i + 1]);
    *reinterpret_cast<uint32_t*>(to + kWideWordBytes) = pack_bf16(v[4 * i + 2], v[4 * i + 3]);
  }
}

bool has_rows_kernel(const Phase& phase) { return phase.kind == PhaseKind::kRows && phase.rows == Rows::kTokens && phase.linear.output == nullptr && phase.x.bits == 16; }

Status launch_rows(int rows, const RowsKernelParams& params, cudaStream_t stream) {
  const RowsSpec& spec = params.phase.source;
  const XForm& x = params.phase.x;
  const int runs = (spec.width + kRunK - 1) / kRunK;
  const LaunchShape shape{(rows * runs + kWarps - 1) / kWarps, kWarps * kWarp, 0, false, true};
  if (spec.source != RowSource::kNorm || spec.hadamard_shift != 0 || spec.delta != nullptr || has_tile_squares(params.blocks)) return launch(rows_kernel, shape, stream, "rows kernel", params);
  return launch(norm_kernel, shape, stream, "norm kernel", NormKernelParams{spec.input, spec.norm_weight, x.data, x.squares, params.batch, params.blocks, spec.width, runs, reciprocal_of(runs)});
}

}  // namespace qspec::cuda
