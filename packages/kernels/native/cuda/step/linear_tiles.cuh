// A linear of 17 rows and more. Jobs leave their sums in the workspace; after the grid's next barrier a phase of its own adds them in order and
// stores, spread evenly over all threads: with so many sums that costs less than meeting per row-tile.
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

template <int n8, GemmMode mode, int shift>
struct TileJobs {
  const LinearPhase<n8>& phase;
  const StreamShape& s;
  int lane;
  RunProduct<n8, mode, shift> product;

  QSPEC_DEVICE explicit TileJobs(const LinearPhase<n8>& of) : phase(of), s(of.s), lane(lane_index()), product(of) {}

  QSPEC_DEVICE void leave(const Accumulator<n8>& sums, int tile, int run) const {
    const int g = lane / 4, t = lane % 4;
    float* p = job_sums(phase.params.workspace, phase.spec, sum_columns(phase.phase.rows, phase.params.blocks), (s.run_begin + run) / s.job_runs, s.item_begin + tile) + (phase.first_column + 2 * t) * kTileN + g;
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) store_l2(p + (8 * c + (i & 1)) * kTileN + 8 * (i >> 1), sums.value[c][i]);
  }

  // `wait`: until the input is there.
  template <typename Wait>
  QSPEC_DEVICE void run(const StreamSource& source, const Wait& wait) {
    RunWalk<n8> at;
    at.begin(s, source);
    at.begin_wave(s, source, 0, thread_index() / kWarp);
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

// ---- The reducing phase ----------------------------------------------------------------------------------------------------------------------

// Four neighbouring outputs of a column: runs of a slice in order, then slices in order. Jobs are runs, or whole slices.
QSPEC_DEVICE void add_jobs(const StepWorkspace& workspace, const LinearSpec& spec, int columns, int tile, int at, float (&result)[4]) {
  const int jobs = (num_runs(spec.weight.k_tiles) + spec.job_runs - 1) / spec.job_runs, together = kSliceRuns / spec.job_runs;
  const float* p = job_sums(workspace, spec, columns, 0, tile) + at;
  const int64_t stride = static_cast<int64_t>(spec.weight.n_tiles) * columns * kTileN;
  QSPEC_NO_UNROLL
  for (int base = 0; base < jobs; base += 4) {
    float4 v[4];  // all loads wait together
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) {
      v[i] = float4{0, 0, 0, 0};
      if (base + i < jobs) v[i] = load_l2(reinterpret_cast<const float4*>(p));
      p += stride;
    }
    float sum[4] = {v[0].x, v[0].y, v[0].z, v[0].w};
    if (together == 1) {  // each is a slice
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) result[e] = base == 0 ? sum[e] : result[e] + sum[e];
    }
    QSPEC_UNROLL
    for (int i = 1; i < 4; ++i) {
      if (base + i >= jobs) break;
      const float four[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (together == 1) result[e] += four[e];
        else sum[e] += four[e];
      }
    }
    if (together == 1) continue;
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) result[e] = base == 0 ? sum[e] : result[e] + sum[e];
  }
}

template <int n8>
QSPEC_DEVICE_CALL void run_reduce(int index) {
  const StepParams& params = step_params();
  const Phase& phase = phase_at(index);
  const RowBlocks blocks = params.blocks;
  constexpr int kQuads = kTileN / 4;
  const int columns = sum_columns(phase.rows, blocks);
  const LinearSpec& spec = phase.linear;
  const int rows = phase.rows == Rows::kTokens ? step_batch().rows : step_batch().logit_rows;
  const bool is_pair = spec.epilogue == Epilogue::kSilu;
  const int tiles = is_pair ? spec.weight.n_tiles / 2 : spec.weight.n_tiles;
  QSPEC_NO_UNROLL
  for (int i = block_index() * step_threads<n8>() + thread_index(); i < tiles * columns * kQuads; i += grid_blocks() * step_threads<n8>()) {
    const int tile = i / (columns * kQuads), row = i / kQuads % columns, within = i % kQuads * 4;
    if (row >= rows) continue;
    const float factor = shared_load_float(kFactorsAt + row * 4);
    float sum[4] = {0, 0, 0, 0}, up[4] = {0, 0, 0, 0};
    add_jobs(params.workspace, spec, columns, tile, row * kTileN + within, sum);
    if (is_pair) {
      add_jobs(params.workspace, spec, columns, tiles + tile, row * kTileN + within, up);
      store_silu(spec, blocks, tile * kTileN + within, row, factor, sum, up);
    } else {
      store_output(spec, tile * kTileN + within, row, factor, sum);
    }
  }
}

}  // namespace qspec::cuda
