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

template <int n8>
QSPEC_DEVICE void reduce_slices(const StepParams& params, const Phase& phase, int rows) {
  const RowBlocks blocks = params.blocks;
  constexpr int kQuads = kTileN / 4;
  const int columns = sum_columns(phase.rows, blocks);
  const LinearSpec& spec = phase.linear;
  const bool is_pair = spec.epilogue == Epilogue::kSilu;
  const int tiles = is_pair ? spec.weight.n_tiles / 2 : spec.weight.n_tiles;
  QSPEC_NO_UNROLL
  for (int i = block_index() * step_threads<n8>() + thread_index(); i < tiles * columns * kQuads; i += grid_blocks() * step_threads<n8>()) {
    const int tile = i / (columns * kQuads), row = i / kQuads % columns, within = i % kQuads * 4;
    const bool is_there = row < rows;
    const Residual<false> residual = Residual<false>::load(spec, tile * kTileN + within, row, is_there);
    FourSums sum{}, up{};
    if (is_there) add_slices(params.workspace, spec, columns, tile, row * kTileN + within, sum);
    if (is_there && is_pair) add_slices(params.workspace, spec, columns, tiles + tile, row * kTileN + within, up);
    const float factor = is_there ? shared_load_float(kFactorsAt + row * 4) : 0;
    const int column = tile * kTileN + within;
    if (spec.next_norm) store_residual(spec, blocks, column, row, is_there, factor, residual, sum.value);
    else if (is_there && is_pair) store_silu<false>(spec, blocks, column, row, factor, sum.value, up.value);
    else if (is_there) store_output<false>(spec, column, row, factor, {}, sum.value);
  }
}

// ---- Wide linears ----------------------------------------------------------------------------------------------------------------------------

// Of a slice of a tile that several blocks share, the block that has its first run left the sum as far as its share goes; runs behind that lie
// one by one. Adds the slices. `at`: of the first run's sums in the workspace.
QSPEC_DEVICE void add_shares(const LinearSpec& spec, const WideShares& shares, int tile, const float* at, int64_t run_floats, float (&result)[4]) {
  const int runs = num_runs(spec.weight.k_tiles), job = shares.tile_job(tile);
  QSPEC_NO_UNROLL
  for (int first = 0; first < runs; first += kSliceRuns) {
    const int slot = first / spec.job_runs, rest = runs - first < kSliceRuns ? runs - first : kSliceRuns;
    const int together = spec.job_runs > 1 ? kSliceRuns : shares.first_job(shares.block_of(job + first) + 1) - job - first;
    float4 v[kSliceRuns];  // all loads wait together
    QSPEC_UNROLL
    for (int i = 0; i < kSliceRuns; ++i) {
      v[i] = float4{0, 0, 0, 0};
      if (i == 0 || (i >= together && i < rest)) v[i] = load_l2(reinterpret_cast<const float4*>(at + (slot + i) * run_floats));
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

// Blocks take pieces of the tiles that are left in turn: as many outputs as they have threads, times four.
QSPEC_DEVICE void reduce_shares(const StepParams& params, const Phase& phase, int rows) {
  constexpr int kQuads = kTileN / 4;
  const LinearSpec& spec = phase.linear;
  const WideShares shares(spec, rows);
  const int each = shares.group_items * kWideRows * kQuads / kStepThreads;
  QSPEC_NO_UNROLL
  for (int i = block_index(); i < (shares.tiles - shares.whole) * each; i += grid_blocks()) {
    const int tile = shares.whole + i / each, at = i % each * kStepThreads + thread_index();
    if (shares.is_whole(tile)) continue;
    const int within = at % kQuads * 4, column = at / kQuads % kWideRows, row = shares.pass(tile) * kWideRows + column;
    const int in_group = at / (kQuads * kWideRows), item = shares.first_item(tile) + in_group, warp = shares.first_warp(in_group);
    if (row >= rows || item >= spec.num_items) continue;
    const float factor = shared_load_float(kFactorsAt + row * 4);
    const auto add = [&](int of_warp, float(&to)[4]) {
      add_shares(spec, shares, tile, shares.sums(params.workspace, tile, 0, of_warp) + column * kTileN + within, int64_t{kStepWarps} * kWideRows * kTileN, to);
    };
    float sum[4] = {0, 0, 0, 0}, up[4] = {0, 0, 0, 0};
    add(warp, sum);
    if (shares.is_pair) {
      add(warp + kUpWarp, up);
      store_silu<false>(spec, params.blocks, item * kTileN + within, row, factor, sum, up);
    } else {
      store_output<false>(spec, item * kTileN + within, row, factor, {}, sum);
    }
  }
}

template <int n8>
QSPEC_DEVICE_CALL void run_reduce(int index) {
  const Phase& phase = phase_at(index);
  const int rows = phase.rows == Rows::kTokens ? step_batch().rows : step_batch().logit_rows;
  if (n8 >= kWideRowBlocks && !is_integer(phase.linear.mode)) reduce_shares(step_params(), phase, rows);
  else reduce_slices<n8>(step_params(), phase, rows);
}

}  // namespace qspec::cuda
