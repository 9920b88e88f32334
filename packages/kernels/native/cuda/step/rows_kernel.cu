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
// A row block's run in shared memory, as in memory, but for a pad behind each eight rows' words, so that a row's lie in different banks.
constexpr int kNormWordBytes = kWideWordBytes + 16, kNormBytes = kRunTiles * kWideBlockBytes / kWideWordBytes * kNormWordBytes;
QSPEC_DEVICE uint32_t norm_place(int at) { return at / kWideWordBytes * kNormWordBytes + at % kWideWordBytes; }
// A block takes a run of eight rows, a warp a row. Each has 16 bytes here and there of what lies together: they pass through shared memory and are stored in their order.
QSPEC_KERNEL(kWarps * kWarp, 4) norm_kernel(const QSPEC_GRID_CONSTANT NormKernelParams params) {
  const int thread = thread_index(), warp = thread / kWarp, lane = lane_index(), row_block = quotient(block_index(), params.by_runs), run = block_index() - row_block * params.runs;
  const int row = 8 * row_block + warp, first = run * kRunK;
  let_next_kernel_begin();
  const int rows = load_constant(&params.batch->rows);
  float v[kRunValues] = {}, w[kRunValues];
  load_run(params.weight, params.width, run, lane, w);
  wait_for_previous_kernel();
  if (row < rows) {
    load_run(params.input + static_cast<int64_t>(row) * params.width, params.width, run, lane, v);
    const RunSquares squares = squares_of(v);
    const float sum = run_squares(squares, 4);
    if (lane == 0) params.squares[row * params.runs + run] = sum;
  }
  QSPEC_UNROLL
  for (int i = 0; i < kRunValues / 4; ++i) {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) v[4 * i + e] *= w[4 * i + e];
    const int k = run_element(lane, i);
    const uint32_t to = norm_place(k / 32 * kWideHalfBytes + wide_word_at(warp, k));
    shared_store_4(to, pack_bf16(v[4 * i], v[4 * i + 1]));
    shared_store_4(to + kNormWordBytes, pack_bf16(v[4 * i + 2], v[4 * i + 3]));
  }
  named_barrier(kBlockBarrier, kWarps * kWarp);
  const int tiles = (params.width + kTileK - 1) / kTileK - run * kRunTiles;  // maybe more than the run's
  uint8_t* const x = params.x + x_offset(params.blocks, 8 * row_block, first);
  QSPEC_UNROLL
  for (int i = 0; i < kRunTiles * kWideBlockBytes / 16 / (kWarps * kWarp); ++i) {
    const int of_run = (i * kWarps * kWarp + thread) * 16, tile = of_run / kWideBlockBytes, of_block = of_run % kWideWordBytes / 16;
    if (tile < tiles && 8 * row_block + of_block < rows)
      *reinterpret_cast<uint4*>(x + static_cast<int64_t>(tile) * x_tile_bytes(params.blocks) + of_run % kWideBlockBytes) = shared_load_16(norm_place(of_run));
  }
}

bool has_rows_kernel(const Phase& phase) { return phase.kind == PhaseKind::kRows && phase.rows == Rows::kTokens && phase.linear.output == nullptr && phase.x.bits == 16; }

Status launch_rows(int rows, const RowsKernelParams& params, cudaStream_t stream) {
  const RowsSpec& spec = params.phase.source;
  const XForm& x = params.phase.x;
  const int runs = (spec.width + kRunK - 1) / kRunK;
  const auto shape = [](int blocks, size_t shared_bytes) { return LaunchShape{blocks, kWarps * kWarp, shared_bytes, false, true}; };
  if (spec.source != RowSource::kNorm || spec.hadamard_shift != 0 || spec.delta != nullptr || has_tile_squares(params.blocks))
    return launch(rows_kernel, shape((rows * runs + kWarps - 1) / kWarps, 0), stream, "rows kernel", params);
  static_assert(kWarps == 8, "a row block's");
  const NormKernelParams norm{spec.input, spec.norm_weight, x.data, x.squares, params.batch, params.blocks, spec.width, runs, reciprocal_of(runs)};
  return launch(norm_kernel, shape((rows + 7) / 8 * runs, kNormBytes), stream, "norm kernel", norm);
}

}  // namespace qspec::cuda
