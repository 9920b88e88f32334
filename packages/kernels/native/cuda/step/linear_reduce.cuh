// The phase behind a linear of 17 rows and more: adds the sums that slices left in the workspace, in order, and stores. Spread evenly over all threads:
// with so many sums that costs less than meeting per row-tile.
#pragma once
#include "step/linear_tiles.cuh"
#include "step/wide_shares.cuh"

namespace qspec::cuda {

// Four neighbouring outputs of a column: slices in order.
QSPEC_DEVICE void add_slices(const StepWorkspace& workspace, const LinearSpec& spec, int columns, int tile, int at, FourSums& result) {
  constexpr int kAtOnce = 8;
  const int slices = num_slices(spec.weight.k_tiles);
  const float* p = slice_sums(workspace, spec, columns, 0, tile) + at;
  const int64_t stride = static_cast<int64_t>(spec.weight.n_tiles) * columns * kTileN;
  QSPEC_NO_UNROLL
  for (int base = 0; base < slices; base += kAtOnce, p += kAtOnce * stride) {
    float4 v[kAtOnce];  // all loads wait together
    QSPEC_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      v[i] = float4{0, 0, 0, 0};
      if (base + i < slices) v[i] = load_l2(reinterpret_cast<const float4*>(p + i * stride));
    }
    QSPEC_UNROLL
    for (int i = 0; i < kAtOnce; ++i) result.add(FourSums::of(v[i]), base + i < slices, base + i == 0);
  }
}

// A thread's tasks: four outputs of a column of a row-tile each.
template <int n8>
struct SliceTasks {
  static constexpr int kQuads = kTileN / 4, kStride = step_threads<n8>();
  const LinearSpec& spec;
  int columns, rows, tiles;

  struct Task {
    int tile, row, within;
    bool is_there;
    QSPEC_DEVICE int column() const { return tile * kTileN + within; }
    QSPEC_DEVICE int at() const { return row * kTileN + within; }  // of a row-tile's sums
  };
  QSPEC_DEVICE int first() const { return block_index() * kStride + thread_index(); }
  QSPEC_DEVICE int step() const { return grid_blocks() * kStride; }
  QSPEC_DEVICE int end() const { return tiles * columns * kQuads; }
  QSPEC_DEVICE Task task(int i) const {
    const int row = i / kQuads % columns;
    return {i / (columns * kQuads), row, i % kQuads * 4, i < end() && row < rows};
  }
};

// Gates and ups of which a thread has several tasks: with up to two slices of k all their sums wait together.
template <int n8>
QSPEC_DEVICE void reduce_pairs(const StepParams& params, const SliceTasks<n8>& tasks) {
  constexpr int kTogether = 3, kSlices = 2;
  const LinearSpec& spec = tasks.spec;
  const int slices = num_slices(spec.weight.k_tiles);
  QSPEC_NO_UNROLL
  for (int i = tasks.first(); i < tasks.end(); i += kTogether * tasks.step()) {
    float4 v[kTogether][2][kSlices];
    QSPEC_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const auto t = tasks.task(i + j * tasks.step());
      QSPEC_UNROLL
      for (int up = 0; up < 2; ++up)
        QSPEC_UNROLL
        for (int slice = 0; slice < kSlices; ++slice) {
          const float* sums = slice_sums(params.workspace, spec, tasks.columns, slice, up * tasks.tiles + t.tile);
          v[j][up][slice] = float4{0, 0, 0, 0};
          if (t.is_there && slice < slices) v[j][up][slice] = load_l2(reinterpret_cast<const float4*>(sums + t.at()));
        }
    }
    QSPEC_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const auto t = tasks.task(i + j * tasks.step());
      if (!t.is_there) continue;
      FourSums sums[2] = {FourSums::of(v[j][0][0]), FourSums::of(v[j][1][0])};
      QSPEC_UNROLL
      for (int up = 0; up < 2; ++up) sums[up].add(FourSums::of(v[j][up][1]), slices > 1);
      store_silu<false>(spec, params.blocks, t.column(), t.row, shared_load_float(kFactorsAt + t.row * 4), sums[0].value, sums[1].value);
    }
  }
}

template <int n8>
QSPEC_DEVICE void reduce_slices(const StepParams& params, const Phase& phase, int rows) {
  const LinearSpec& spec = phase.linear;
  const bool is_pair = spec.epilogue == Epilogue::kSilu;
  const SliceTasks<n8> tasks{spec, sum_columns(phase.rows, params.blocks), rows, is_pair ? spec.weight.n_tiles / 2 : spec.weight.n_tiles};
  if (is_pair && num_slices(spec.weight.k_tiles) <= 2) return reduce_pairs(params, tasks);
  QSPEC_NO_UNROLL
  for (int i = tasks.first(); i < tasks.end(); i += tasks.step()) {
    const auto t = tasks.task(i);
    const Residual<false> residual = Residual<false>::load(spec, t.column(), t.row, t.is_there);
    FourSums sum{}, up{};
    if (t.is_there) add_slices(params.workspace, spec, tasks.columns, t.tile, t.at(), sum);
    if (t.is_there && is_pair) add_slices(params.workspace, spec, tasks.columns, tasks.tiles + t.tile, t.at(), up);
    const float factor = t.is_there ? shared_load_float(kFactorsAt + t.row * 4) : 0;
    if (spec.next_norm) store_residual(spec, params.blocks, t.column(), t.row, t.is_there, factor, residual, sum.value);
    else if (t.is_there && is_pair) store_silu<false>(spec, params.blocks, t.column(), t.row, factor, sum.value, up.value);
    else if (t.is_there) store_output<false>(spec, t.column(), t.row, factor, {}, sum.value);
  }
}

// ---- Wide linears ----------------------------------------------------------------------------------------------------------------------------

// What blocks left of a tile that they share (WideLinear::end_run()): the first block's whole slices together; of the others each slice as far as the share
// goes that has its first run, and runs behind that one by one. Adds four sums of a thread's, slices in order. `at`: of the first job.
QSPEC_DEVICE void add_shares(const LinearSpec& spec, const WideShares& shares, int tile, const float4* at, float (&result)[4]) {
  const int runs = num_runs(spec.weight.k_tiles), added = shares.runs_added(tile, spec.job_runs);
  const float4 total = load_l2(at);
  result[0] = total.x, result[1] = total.y, result[2] = total.z, result[3] = total.w;
  QSPEC_NO_UNROLL
  for (int first = added; first < runs; first += kSliceRuns) {
    const int slot = first / spec.job_runs, rest = runs - first < kSliceRuns ? runs - first : kSliceRuns, together = shares.runs_together(tile, first, spec.job_runs);
    float4 v[kSliceRuns];  // all loads wait together
    QSPEC_UNROLL
    for (int i = 0; i < kSliceRuns; ++i) {
      v[i] = float4{0, 0, 0, 0};
      if (i == 0 || (i >= together && i < rest)) v[i] = load_l2(at + (slot + i) * int64_t{WideShares::kJobSums});
    }
    float sum[4] = {v[0].x, v[0].y, v[0].z, v[0].w};
    QSPEC_UNROLL
    for (int i = 1; i < kSliceRuns; ++i) {
      if (i < together || i >= rest) continue;
      const float four[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) sum[e] += four[e];
    }
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) result[e] = first == 0 ? sum[e] : result[e] + sum[e];
  }
}

// Blocks take pieces of the tiles that are shared in turn: as many outputs as they have threads, times four.
QSPEC_DEVICE void reduce_shares(const StepParams& params, const Phase& phase, int rows) {
  const LinearSpec& spec = phase.linear;
  const WideShares shares(spec, rows);
  const int each = shares.group_items * kWideRowBlocks / kStepWarps;
  QSPEC_NO_UNROLL
  for (int i = block_index(); i < (shares.tiles - shares.whole) * each; i += grid_blocks()) {
    const int tile = shares.whole + i / each, unit = i % each * kStepWarps + thread_index() / kWarp;
    if (shares.num_blocks(tile) == 1) continue;
    const int in_group = unit % shares.group_items, c = unit / shares.group_items, item = shares.first_item(tile) + in_group, warp = shares.first_warp(in_group);
    const FourOfLane place = four_of_lane();
    const int row = shares.pass(tile) * kWideRows + 8 * c + place.row, at = item * kTileN + place.within;
    if (row - place.row >= rows || item >= spec.num_items) continue;
    const float factor = row < rows ? shared_load_float(kFactorsAt + row * 4) : 0;
    const auto add = [&](int of_warp, float(&to)[4]) {
      const int other = (of_warp - thread_index() / kWarp) * kWarp;  // the thread whose sums these are
      add_shares(spec, shares, tile, shares.own_sums(params.workspace, tile, 0) + c * kStepThreads + other, to);
      transpose_fours(to);
    };
    float sum[4], up[4];
    add(warp, sum);
    if (shares.is_pair) {
      add(warp + kUpWarp, up);
      if (row < rows) store_silu<false>(spec, params.blocks, at, row, factor, sum, up);
    } else if (row < rows) {
      store_output<false>(spec, at, row, factor, {}, sum);
    }
  }
}

template <int n8>
QSPEC_DEVICE_CALL void run_reduce(int index) {
  const Phase& phase = phase_at(index);
  const int rows = rows_of(phase);
  if (n8 >= kWideRowBlocks && !is_integer(phase.linear.mode)) reduce_shares(step_params(), phase, rows);
  else reduce_slices<n8>(step_params(), phase, rows);
}

}  // namespace qspec::cuda
