// A linear of 17 to 24 rows, and of integer activations with more. Jobs leave their sums in the workspace, for the next phase (step/linear_reduce.cuh).
#pragma once
#include "step/linear_shared.cuh"

namespace qspec::cuda {

// Columns of sums: no more than there can be rows.
QSPEC_DEVICE int sum_columns(Rows rows, RowBlocks blocks) {
  return rows == Rows::kTokens || blocks.columns() < kMaxLogitRows ? blocks.columns() : kMaxLogitRows;
}
// Sums of job number `job` of a row-tile (over all of k): [column][16 outputs].
QSPEC_DEVICE float* job_sums(const StepWorkspace& workspace, const LinearSpec& spec, int columns, int job, int tile) {
  return workspace.partials + (static_cast<int64_t>(job) * spec.weight.n_tiles + tile) * columns * kTileN;
}

// Leaves a warp's sums there. `column`: of the first row block.
template <int n8>
QSPEC_DEVICE void leave_sums(const Accumulator<n8>& sums, float* job, int column, int lane) {
  float* p = job + (column + lane % 4 * 2) * kTileN + lane / 4;
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c)
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) store_l2(p + (8 * c + (i & 1)) * kTileN + 8 * (i >> 1), sums.value[c][i]);
}

template <int n8, GemmMode mode, int shift>
struct TileJobs {
  const LinearPhase<n8>& phase;
  const StreamShape& s;
  int lane;
  RunProduct<n8, mode, shift> product;

  QSPEC_DEVICE explicit TileJobs(const LinearPhase<n8>& of) : phase(of), s(of.s), lane(lane_index()), product(of) {}

  QSPEC_DEVICE void leave(const Accumulator<n8>& sums, int tile, int run) const {
    const int columns = sum_columns(phase.phase.rows, phase.params.blocks);
    leave_sums(sums, job_sums(phase.params.workspace, phase.spec, columns, (s.run_begin + run) / s.job_runs, s.item_begin + tile), phase.first_column, lane);
  }

  // `wait`: until the input is there.
  template <typename Wait>
  QSPEC_DEVICE void run(const StreamSource& source, const Wait& wait) {
    RunWalk<n8> at;
    at.begin(s, source, warp_start(phase.params, phase.phase.shape_index));
    product.begin(product.even, at.place);
    wait();
    const int job_runs = s.job_runs, num_runs = s.num_runs;
    Accumulator<n8> sums;
    sums.clear();
    while (at.left > 0) {
      const RunPlace place = at.place;
      const int run = at.run, tile = at.tile;
      at.advance();
      Accumulator<n8> total;
      product.multiply(total, product.even, product.odd, place, run, at.place_or(place));
      const int in_job = run & (job_runs - 1);  // a job has 1 or 4
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) sums.value[c][i] = in_job == 0 ? total.value[c][i] : sums.value[c][i] + total.value[c][i];
      if (in_job == job_runs - 1 || run + 1 == num_runs) leave(sums, tile, run);
    }
  }
};

}  // namespace qspec::cuda
