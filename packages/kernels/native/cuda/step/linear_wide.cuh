// A linear of more than 32 rows whose activations are bf16: what matters now is to keep the tensor cores busy.
//
// Each warp has a row-tile, whose weights it unpacks in registers: they are the A operand of a warpgroup's product. Activations come through a ring of
// stages in shared memory (WideStages), from where tensor cores read them for all warps; weights through a ring of each warp's own (WeightRing), or
// to registers where they are dense. A block does a tile of the product (WideShares) run by run of k: all that a warp must find out is found out
// once a run, within which every place is a constant. While a warpgroup's tensor cores work, others unpack.
// Sums over runs, slices and k are made in the one order (common/layout.h): a run's in registers, a slice's in shared memory, a tile's in memory, each
// thread its own. What blocks leave of a tile that they share is added by whoever comes last or, where there are few such tiles, by a phase of its own
// (step/linear_reduce.cuh).
#pragma once
#include "common/wide_mma.cuh"
#include "step/linear_shared.cuh"
#include "step/wide_stages.cuh"
#include "step/wide_weights.cuh"

namespace qspec::cuda {

// ---- Sums of a tile: of a slice, and in the end of all of k, in shared memory; what is left for others in memory ------------------------------

// In memory, past L1, each thread its own: from the place of the first row block on. All loads wait together.
QSPEC_DEVICE void load_totals(Accumulator<kWideRowBlocks>& sums, const float4* at) {
  QSPEC_UNROLL
  for (int c = 0; c < kWideRowBlocks; ++c) {
    const float4 v = load_l2(at + c * kStepThreads);
    float(&to)[4] = sums.value[c];
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }
}
QSPEC_DEVICE void store_totals(const Accumulator<kWideRowBlocks>& sums, float4* at) {
  QSPEC_UNROLL
  for (int c = 0; c < kWideRowBlocks; ++c) {
    const float(&v)[4] = sums.value[c];
    store_l2(at + c * kStepThreads, float4{v[0], v[1], v[2], v[3]});
  }
}
// sums = before + sums.
QSPEC_DEVICE void add_behind(const Accumulator<kWideRowBlocks>& before, Accumulator<kWideRowBlocks>& sums) {
  QSPEC_UNROLL
  for (int c = 0; c < kWideRowBlocks; ++c)
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) sums.value[c][i] = before.value[c][i] + sums.value[c][i];
}

struct WideSums {
  uint32_t at;  // behind the stages

  QSPEC_DEVICE explicit WideSums(uint32_t region) : at(region + kWideStages * kWideStageBytes) {}
  QSPEC_DEVICE uint32_t place(int c, int thread) const { return at + c * kWideSumsStride + thread * 16; }

  // The calling thread's.
  QSPEC_DEVICE void load(Accumulator<kWideRowBlocks>& sums) const {
    uint4 words[kWideRowBlocks];
    QSPEC_UNROLL
    for (int c = 0; c < kWideRowBlocks; ++c) words[c] = shared_load_16(place(c, thread_index()));
    QSPEC_UNROLL
    for (int c = 0; c < kWideRowBlocks; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) sums.value[c][i] = float_of_bits(word_of(words[c], i));
  }
  QSPEC_DEVICE void store(const Accumulator<kWideRowBlocks>& sums) const {
    QSPEC_UNROLL
    for (int c = 0; c < kWideRowBlocks; ++c) {
      const float(&v)[4] = sums.value[c];
      shared_store_16(place(c, thread_index()), uint4{bits_of_float(v[0]), bits_of_float(v[1]), bits_of_float(v[2]), bits_of_float(v[3])});
    }
  }
  // Four neighbouring outputs of a row of the pass, of the row-tile that warp `warp` has.
  QSPEC_DEVICE void read(int warp, int row, int within, float (&v)[4]) const {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int out = within + e, thread = warp * kWarp + out % 8 * 4 + row % 8 / 2;
      v[e] = shared_load_float(place(row / 8, thread) + (out / 8 * 2 + row % 2) * 4);
    }
  }
};

// What follows when the block's share of a tile is done: functions of their own, since one that adds keeps many registers for it, which its callers must save.

// All threads: stores a tile whose sums are in shared memory.
QSPEC_DEVICE_CALL void store_wide_tile(int index, int tile) {
  constexpr int kQuads = kTileN / 4;
  const Phase& phase = phase_at(index);
  const LinearSpec& spec = phase.linear;
  const WideShares& shares = wide_state().shares;
  const WideSums totals(step_params().region_at);
  const int rows = rows_of(phase);
  const RowBlocks blocks = step_params().blocks;
  const int first = shares.pass(tile) * kWideRows, count = rows - first < kWideRows ? rows - first : kWideRows;
  named_barrier(kBlockBarrier, kStepThreads);
  QSPEC_NO_UNROLL
  for (int i = thread_index(); i < shares.group_items * kWideRows * kQuads; i += kStepThreads) {
    const int within = i % kQuads * 4, row = i / kQuads % kWideRows, in_group = i / (kQuads * kWideRows), item = shares.first_item(tile) + in_group;
    if (row >= count || item >= spec.num_items) continue;
    const float factor = shared_load_float(kFactorsAt + (first + row) * 4);
    const int warp = shares.first_warp(in_group);
    float v[4], up[4];
    totals.read(warp, row, within, v);
    if (shares.is_pair) {
      totals.read(warp + kUpWarp, row, within, up);
      store_silu<false>(spec, blocks, item * kTileN + within, first + row, factor, v, up);
    } else {
      store_output<false>(spec, item * kTileN + within, first + row, factor, {}, v);
    }
  }
  named_barrier(kBlockBarrier, kStepThreads);  // before other sums come to their place
}
// Did this block come in last of those that share a tile? Uniform over the block; what all of them left can be read then.
QSPEC_DEVICE_CALL bool is_last_of_tile(int tile) {
  const WideShares& shares = wide_state().shares;
  named_barrier(kBlockBarrier, kStepThreads);
  if (thread_index() == 0) {
    int32_t* counter = step_params().workspace.counters + (tile - shares.whole);
    const bool is_last = count_up(counter) == shares.num_blocks(tile) - 1;  // after the barrier: for what the whole block stored
    if (is_last) *counter = 0;
    shared_store_4(kCompleteAt, is_last);
  }
  named_barrier(kBlockBarrier, kStepThreads);
  return shared_load_4(kCompleteAt) != 0;
}
// All that blocks left of a tile (WideLinear::end_run()), slices in order, to shared memory.
QSPEC_DEVICE_CALL void add_wide_tile(int index, int tile) {
  const LinearSpec& spec = phase_at(index).linear;
  const WideShares& shares = wide_state().shares;
  const int runs = num_runs(spec.weight.k_tiles), added = shares.runs_added(tile, spec.job_runs);
  Accumulator<kWideRowBlocks> total, slice, next;
  load_totals(total, shares.own_sums(step_params().workspace, tile, 0));
  QSPEC_NO_UNROLL
  for (int first = added; first < runs; first += kSliceRuns) {
    const int rest = runs - first < kSliceRuns ? runs - first : kSliceRuns, together = shares.runs_together(tile, first, spec.job_runs);
    load_totals(slice, shares.own_sums(step_params().workspace, tile, first / spec.job_runs));
    QSPEC_NO_UNROLL
    for (int i = together; i < rest; ++i) {
      load_totals(next, shares.own_sums(step_params().workspace, tile, first + i));
      add_behind(slice, next);
      slice = next;
    }
    if (first > 0) add_behind(total, slice);
    total = slice;
  }
  WideSums(step_params().region_at).store(total);
}

// ---- The share -------------------------------------------------------------------------------------------------------------------------------

template <GemmMode mode, int shift>
struct WideLinear {
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasLow = mode == GemmMode::kHiLo;
  static constexpr int n8 = kWideRowBlocks;
  static constexpr int kDenseTiles = 4;  // of dense weights in registers
  using Fragments = uint32_t[2][2][4];   // of a tile
  using Ring = WeightRing<mode, shift>;
  using Unit = typename Ring::Unit;
  using DenseTile = WeightChunk<GemmMode::kDense, 0, 1>;

  const Phase& phase;
  const LinearSpec& spec;
  const WideState& state;
  RunCursor now;        // being multiplied
  int tiles_left;       // of k, from there on
  int begin;            // run of the tile that the share begins with
  bool is_whole;        // the tile is this block's alone
  WideStages stages;
  WideInput input;       // the first stage
  Accumulator<n8> sums;  // of the run
  Ring ring;
  Unit weights;          // the unit that is multiplied next
  WarpRuns<GemmMode::kDense, 0> dense;  // the run whose tiles are loaded next
  DenseTile tiles[kDenseTiles];

  QSPEC_DEVICE WideLinear(int index, uint32_t region) : phase(phase_at(index)), spec(phase.linear), state(wide_state()), stages(region), input(WideInput(region).uniform()) {}

  QSPEC_DEVICE static int warp() { return thread_index() / kWarp; }
  // When `now` is another tile's first run.
  QSPEC_DEVICE void begin_tile() {
    tiles_left = spec.weight.k_tiles - now.run * kRunTiles;
    is_whole = now.run == 0 && now.left == state.tile_runs;
    begin = now.run;
  }

  QSPEC_DEVICE void begin_weights() {
    if constexpr (kIsDense) {
      dense.begin(spec);
      QSPEC_UNROLL
      for (int i = 0; i < kDenseTiles - 1; ++i) load_dense(i);
    } else {
      ring.begin(spec, stages.region);
    }
  }
  QSPEC_DEVICE NestedRadix radix() const { return NestedRadix(spec.weight.radix); }

  // ---- Products of a run ----

  // d (+)= the product of tile `i`, counted from where `x` is: stages follow each other.
  template <bool is_first>
  QSPEC_DEVICE static void multiply(Accumulator<n8>& d, const Fragments& a, const WideInput& x, int i) {
    multiply_wide<is_first>(d.value, a[0], x, wide_half_at<n8>(2 * i));
    multiply_wide<false>(d.value, a[1], x, wide_half_at<n8>(2 * i + 1));
  }
  // When a unit's weights have been unpacked: reads the next one's, and asks for one that comes later.
  QSPEC_DEVICE void read_next(int unit) {
    ring.replace(spec, unit);
    weights = ring.template read<WideStages::kCopyGroups>(unit + 1);
  }
  // Units that are groups of 128 k. What lies behind the last tile of k is multiplied as well, and added to nothing.
  QSPEC_DEVICE void multiply_run() {
    QSPEC_UNROLL
    for (int unit = 0; unit < kWideRunUnits; ++unit) {
      stages.wait(spec, phase.x, unit);
      const uint32_t scale = weights.scales[0];
      Fragments a[kWideUnitTiles];
      QSPEC_UNROLL
      for (int i = 0; i < 2 * kWideUnitTiles; ++i) weights.unpack(a[i / 2][i % 2], i, radix());
      Accumulator<n8> group;
      begin_wide();
      multiply<true>(group, a[0], input, unit * kWideUnitTiles);
      multiply<false>(group, a[1], input, unit * kWideUnitTiles + 1);
      end_wide();
      read_next(unit);
      stages.refill(spec, phase.x, unit);
      wait_wide<0>();
      stages.release(unit);
      if (unit == 0 || unit * kWideUnitTiles < tiles_left) add_group(sums, group, scale);
    }
  }

  // Groups whose size is told at run time.
  QSPEC_DEVICE void multiply_run_in_groups() {
    const int mask = (1 << spec.half_shift) - 1, rest = (spec.weight.k - now.run * kRunK) / (kTileK / 2);  // half tiles; padding has no scales
    Accumulator<n8> group;
    group.clear();
    QSPEC_UNROLL
    for (int unit = 0; unit < kWideRunUnits; ++unit) {
      stages.wait(spec, phase.x, unit);
      QSPEC_UNROLL
      for (int i = 0; i < 2 * kWideUnitTiles; ++i) {
        uint32_t a[2][4];
        weights.unpack(a, i, radix());
        begin_wide();
        multiply_wide<false>(group.value, a, input, wide_half_at<n8>(unit * 2 * kWideUnitTiles + i));
        end_wide();
        wait_wide<0>();
        if ((i & mask) != mask) continue;
        if (unit * 2 * kWideUnitTiles + i < rest) add_group(sums, group, weights.scales_of(i >> spec.half_shift));
        group.clear();
      }
      read_next(unit);
      stages.refill(spec, phase.x, unit);
      stages.release(unit);
    }
  }

  // Dense weights are fragments already. A tile's registers are loaded anew while the tile behind it is multiplied.
  QSPEC_DEVICE void load_dense(int tile) { tiles[tile % kDenseTiles].load(dense.place, tile, 0, 0); }
  QSPEC_DEVICE void multiply_dense_run() {
    const int left = tiles_left;
    QSPEC_UNROLL
    for (int tile = 0; tile < kRunTiles; ++tile) {
      const int unit = tile / kWideUnitTiles, within = tile % kWideUnitTiles;
      DenseTile& held = tiles[tile % kDenseTiles];
      clear_unless(held, tile < left);
      Fragments a;
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) held.unpack(a[i], i, radix());
      if (within == 0) stages.wait(spec, phase.x, unit);
      const WideInput x(stages.place(unit));
      begin_wide();
      multiply<false>(sums, a, x, within);
      end_wide();
      wait_wide<1>();
      const int later = (tile + kDenseTiles - 1) % kRunTiles;  // in the place of the tile before this one
      if (later == 0) dense.advance(spec);
      load_dense(later);
      if (within > 0) continue;
      if (unit > 0) stages.release(unit - 1);
      stages.refill(spec, phase.x, unit);
    }
    wait_wide<0>();
    stages.release(kWideRunUnits - 1);
  }
  // Behind the last tile: zeros times activations that there are.
  QSPEC_DEVICE static void clear_unless(DenseTile& tile, bool is_there) {
    if (is_there) return;
    QSPEC_UNROLL
    for (int i = 0; i < DenseTile::kLoads; ++i) tile.high[i] = uint4{0, 0, 0, 0};
  }

  // ---- Sums ----

  // The run's sums are there: on to the slice's, and to the tile's. Of a tile that isn't this block's alone the share's sums are left for whoever adds them: from
  // the tile's first run on the total of whole slices, else each slice, as far as the share goes, but runs one by one where the share begins within the slice.
  QSPEC_DEVICE void end_run() {
    const int run = now.run, first = run / kSliceRuns * kSliceRuns;
    const bool ends_share = now.left == 1, is_slice = run % kSliceRuns == kSliceRuns - 1 || (is_whole && ends_share);
    const WideSums slice(stages.region);
    Accumulator<n8> before;
    if (run > first && first >= begin) {
      slice.load(before);
      add_behind(before, sums);
    }
    if (!is_slice && !ends_share && first >= begin) {
      slice.store(sums);
    } else if (begin > 0 || !is_slice) {
      leave(first < begin ? run : first);
    } else {
      float4* const total = total_place();
      if (first > 0) {
        load_totals(before, total);
        add_behind(before, sums);
      }
      if (is_whole && ends_share) slice.store(sums);
      else store_totals(sums, total);
    }
    sums.clear();
  }
  // A tile's total so far: of one that is shared, where the others' sums lie.
  QSPEC_DEVICE float4* total_place() const {
    const StepWorkspace& workspace = step_params().workspace;
    return is_whole ? reinterpret_cast<float4*>(workspace.block_scratch) + block_index() * n8 * kStepThreads + thread_index() : state.shares.own_sums(workspace, now.tile, 0);
  }
  QSPEC_DEVICE void leave(int run) const { store_totals(sums, state.shares.own_sums(step_params().workspace, now.tile, run / spec.job_runs)); }
  // The share of a tile is done. Dense weights are on their way to registers, which every call here would have in memory instead: one, and nobody comes last.
  QSPEC_DEVICE void end_tile(int index) const {
    if constexpr (!kIsDense) {
      if (!is_whole && spec.last_adds && is_last_of_tile(now.tile)) {
        add_wide_tile(index, now.tile);
        store_wide_tile(index, now.tile);
      }
    }
    if (is_whole) store_wide_tile(index, now.tile);
  }

  QSPEC_DEVICE void run(int index) {
    now = state.first;
    if (now.is_done()) return;
    begin_weights();
    stages.begin(spec, phase.x);
    sums.clear();
    begin_tile();
    if constexpr (!kIsDense) weights = ring.template read<WideStages::kCopyGroups>(0);
    QSPEC_NO_UNROLL
    while (true) {
      if constexpr (kIsDense) multiply_dense_run();
      else if constexpr (shift < 0) multiply_run_in_groups();
      else multiply_run();
      stages.end_run();
      end_run();
      if (now.left == 1) end_tile(index);
      tiles_left -= kRunTiles;
      if (!now.advance()) continue;
      if (now.is_done()) break;
      begin_tile();
    }
    stages.end();
  }
};

template <GemmMode mode, int shift>
QSPEC_DEVICE void run_wide_linear(int index, uint32_t region) {
  WideLinear<mode, shift>(index, region).run(index);
}

}  // namespace qspec::cuda
