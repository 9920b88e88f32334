// A linear of 17 to 32 rows, and of integer activations with more. A warp, or from 25 rows on a warpgroup unless activations are integers, multiplies slices of k of
// row-tiles and leaves their sums in the workspace, for the next phase (step/linear_reduce.cuh). Slices that don't go round are shared out run by run: their sums meet in
// shared memory first.
#pragma once
#include "step/linear_shared.cuh"

namespace qspec::cuda {

// Columns of sums: no more than there can be rows.
QSPEC_DEVICE int sum_columns(Rows rows, RowBlocks blocks) {
  return rows == Rows::kTokens || blocks.columns() < kMaxLogitRows ? blocks.columns() : kMaxLogitRows;
}
// Sums of a slice (over all of k) of a row-tile: [column][16 outputs].
QSPEC_DEVICE float* slice_sums(const StepWorkspace& workspace, const LinearSpec& spec, int columns, int slice, int tile) {
  return workspace.partials + (static_cast<int64_t>(slice) * spec.weight.n_tiles + tile) * columns * kTileN;
}

// Leaves a warp's sums there. `column`: of the first row block.
template <int n8>
QSPEC_DEVICE void leave_sums(const Accumulator<n8>& sums, float* slice, int column, int lane) {
  float* p = slice + (column + lane % 4 * 2) * kTileN + lane / 4;
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c)
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) store_l2(p + (8 * c + (i & 1)) * kTileN + 8 * (i >> 1), sums.value[c][i]);
}

// Of run `number` of the rest, a member's.
template <int n8>
QSPEC_DEVICE uint32_t rest_slab(const StreamShape& s, int number, int member) {
  return s.slabs_at + ((number - s.rest_begin) * s.members + member) * slab_bytes(8 * n8);
}
// Of the slices that were shared out run by run, whose sums lie in slabs: a warp takes half the columns of one. Where it lies is found while the others still
// multiply.
template <int n8>
struct RestSums {
  static constexpr int kQuads = kTileN / 4, kColumns = 8 * n8, kHalf = kColumns * kQuads / 2;
  const LinearPhase<n8>& phase;
  const StreamShape& s;

  struct Task {
    uint32_t slab;  // of its first run
    int runs, half;
    float* to;      // nullptr: a warpgroup's row-tile that isn't there
  };
  QSPEC_DEVICE int num_tasks() const { return 2 * s.num_rest * s.members; }
  QSPEC_DEVICE Task task(int number) const {
    const int of_slice = number / 2, member = of_slice % s.members, slice = all_slices(s) - s.num_rest + of_slice / s.members;
    const int in_order = slice / tile_slices(s), begin = first_run(s, slice), tile = tile_in_order(s, in_order, member), columns = sum_columns(phase.phase.rows, phase.params.blocks);
    float* to = slice_sums(phase.params.workspace, phase.spec, columns, s.run_begin / kSliceRuns + slice - in_order * tile_slices(s), s.item_begin + tile);
    return {rest_slab<n8>(s, begin, member), first_run(s, slice + 1) - begin, number % 2, tile < 0 ? nullptr : to + phase.first_column * kTileN};
  }
  // When the calling warp is done with its runs.
  QSPEC_DEVICE void leave() const {
    int number = thread_index() / kWarp;
    Task t = task(number);
    named_barrier(kBlockBarrier, step_threads<n8>());
    QSPEC_NO_UNROLL
    while (number < num_tasks()) {
      QSPEC_NO_UNROLL
      for (int i = t.half * kHalf + lane_index(); t.to && i < (t.half + 1) * kHalf; i += kWarp) {
        const int column = i / kQuads, within = i % kQuads * 4;
        const FourSums sum = sum_slabs(t.slab + slab_place(column, within), s.members * slab_bytes(kColumns), t.runs);
        store_l2(reinterpret_cast<float4*>(t.to + column * kTileN + within), float4{sum.value[0], sum.value[1], sum.value[2], sum.value[3]});
      }
      number += kStepWarps;
      t = task(number);
    }
  }
};
template <int n8>
QSPEC_DEVICE_CALL void leave_rest(int index, int first_column) {
  const LinearPhase<n8> phase(step_params(), index, first_column);
  RestSums<n8>{phase, phase.s}.leave();
}

template <int n8>
QSPEC_DEVICE_CALL WarpStart call_rest_start(int shape) {
  return RunWalk<n8>::find_rest_start(stream_shape(shape), thread_index() / kWarp);
}

template <int n8, GemmMode mode, int shift>
struct TileJobs {
  const LinearPhase<n8>& phase;
  const StreamShape& s;
  int lane;
  RunProduct<n8, mode, shift> product;
  // With three row blocks the rest's first run is found by a function of its own, which keeps the loop short: 2 to 5 % of a pass. With four the call takes
  // registers that the loop hasn't got, and costs as much.
  static constexpr bool kHasRegisters = n8 == 3, kByGroups = is_by_groups<n8>(mode);

  QSPEC_DEVICE explicit TileJobs(const LinearPhase<n8>& of) : phase(of), s(of.s), lane(own_lane()), product(of) {}

  QSPEC_DEVICE void leave(const Accumulator<n8>& sums, int tile, int run) const {
    const int columns = sum_columns(phase.phase.rows, phase.params.blocks);
    leave_sums(sums, slice_sums(phase.params.workspace, phase.spec, columns, (s.run_begin + run) / kSliceRuns, s.item_begin + tile), phase.first_column, lane);
  }

  // `wait`: until the input is there.
  template <typename Wait>
  QSPEC_DEVICE void run(const StreamSource& source, const Wait& wait) {
    RunWalk<n8> at;
    at.begin(s, source, warp_start(phase.params, phase.phase.shape_index));
    product.begin(product.even, at.place);
    wait();
    product.begin_input();
    const int num_runs = s.num_runs, known = s.rest_begin;
    const auto rest_begin = [&] { return kHasRegisters ? known : s.rest_begin; };
    Accumulator<n8> sums;
    sums.clear();
    while (at.left > 0) {
      const RunPlace place = at.place;
      const int run = at.run, tile = at.tile, number = at.number;
      if constexpr (kByGroups) at.advance_group(s, source);
      else at.advance();
      if (at.left == 0 && number < rest_begin()) {
        if constexpr (kHasRegisters) at.begin(s, source, call_rest_start<n8>(phase.phase.shape_index));
        else at.begin(s, source, RunWalk<n8>::find_rest_start(s, thread_index() / kWarp));
      }
      Accumulator<n8> total;
      product.multiply(total, product.even, product.odd, place, run, at.place_or(place));
      if (number >= rest_begin()) {
        write_slab<n8>(rest_slab<n8>(s, number, kByGroups ? thread_index() / kWarp % kGroupWarps : 0), total, 8 * n8, lane);
        continue;
      }
      const int in_slice = run % kSliceRuns;
      QSPEC_UNROLL
      for (int c = 0; c < n8; ++c)
        QSPEC_UNROLL
        for (int i = 0; i < 4; ++i) sums.value[c][i] = in_slice == 0 ? total.value[c][i] : sums.value[c][i] + total.value[c][i];
      if ((in_slice == kSliceRuns - 1 || run + 1 == num_runs) && (!kByGroups || tile >= 0)) leave(sums, tile, run);
    }
    if (s.num_rest > 0) leave_rest<n8>(phase.index, phase.first_column);
  }
};

}  // namespace qspec::cuda
