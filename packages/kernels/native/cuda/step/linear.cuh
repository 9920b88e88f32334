// A linear phase: a block owns a range of items (row-tiles, or (gate, up) pairs) over one part of k. It brings that part of the
// activations to shared memory, and its warps multiply (step/linear_runs.cuh, step/linear_tiles.cuh).
#pragma once
#include "step/linear_reduce.cuh"
#include "step/linear_runs.cuh"
#include "step/linear_tiles.cuh"
#include "step/linear_wide.cuh"

namespace qspec::cuda {

// Copies this share's activations of some row blocks, from `first_block` on, to shared memory; the caller waits for them.
template <int n8>
QSPEC_DEVICE void copy_input(const LinearPhase<n8>& linear) {
  const StreamShape& s = linear.s;
  const ShareInput& to = linear.input;
  const RowBlocks all = linear.params.blocks, blocks = linear.blocks;
  const int first_block = linear.first_column / 8, thread = thread_index(), num_threads = step_threads<n8>();
  const XForm& x = linear.phase.x;
  const int all_bytes = x.bits == 16 ? x_tile_bytes(all) : code_tile_bytes(all), tile_bytes = x.bits == 16 ? x_tile_bytes(blocks) : code_tile_bytes(blocks);
  const uint8_t* from = x.data + static_cast<int64_t>(s.run_begin) * kRunTiles * all_bytes + first_block * (tile_bytes / blocks.blocks);
  if (has_input_runs<n8>(linear.spec.mode)) {
    if (thread < kWarp) InputRuns::copy(to.x, from, s.tiles, tile_bytes);
    return;
  }
  if (all_bytes == tile_bytes) {
    for (int i = thread * 16; i < s.tiles * tile_bytes; i += num_threads * 16) copy_async<16>(to.x + i, from + i);
  } else {
    for (int tile = thread / kWarp; tile < s.tiles; tile += num_threads / kWarp)
      for (int i = thread % kWarp * 16; i < tile_bytes; i += kWarp * 16) copy_async<16>(to.x + tile * tile_bytes + i, from + static_cast<int64_t>(tile) * all_bytes + i);
  }
  commit_async();
  if (x.bits < 16) {
    const int groups_a_run = kRunK >> x.group_shift, columns = blocks.columns(), begin = s.run_begin * groups_a_run;
    for (int i = thread; i < (s.k >> x.group_shift) * columns; i += num_threads) {
      const int group = i / columns, at = (begin + group) * all.columns() + first_block * blocks.rows + (i - group * columns);
      shared_store_float(to.scales + i * 4, load_l2(x.scales + at));
      shared_store_4(to.sums + i * 4, static_cast<uint32_t>(load_l2(x.sums + at)));
    }
  }
}

// An input that is posted, each thread's pieces of 16 bytes from `first` on, when they are there. Of one row: through registers, several on their way together.
QSPEC_DEVICE void await_loads(uint32_t to, const uint8_t* from, int first, int bytes) {
  constexpr int kAtOnce = 6, kStride = step_threads<kOneRow>() * 16;
  QSPEC_NO_UNROLL
  for (int base = first; base < bytes; base += kAtOnce * kStride) {
    uint4 v[kAtOnce];
    QSPEC_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      v[i] = uint4{0, 0, 0, 0};
      if (base + i * kStride < bytes) peek(&v[i], from + base + i * kStride);
    }
    QSPEC_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      await(&v[i], from + base + i * kStride);
      if (base + i * kStride < bytes) shared_store_16(to + base + i * kStride, v[i]);
    }
  }
}
// Of more rows, which registers have no room for: when the first piece is there the others are copied, and what wasn't there yet once more.
template <int n8>
QSPEC_DEVICE_CALL void await_copies(uint32_t to, const uint8_t* from, int first, int bytes) {
  constexpr int kStride = step_threads<n8>() * 16;
  if (first >= bytes) return;
  uint4 v{};
  peek(&v, from + first);
  await(&v, from + first);
  shared_store_16(to + first, v);
  first += kStride;
  QSPEC_NO_UNROLL
  for (int i = first; i < bytes; i += kStride) copy_async<16>(to + i, from + i);
  for (bool are_there = false; !are_there;) {
    commit_async(), wait_async<0>();
    are_there = true;
    QSPEC_NO_UNROLL
    for (int i = first; i < bytes; i += kStride) {
      if (is_there(shared_load_16(to + i))) continue;
      are_there = false;
      copy_async<16>(to + i, from + i);
    }
    if (!are_there) pause();
  }
}
template <int n8>
QSPEC_DEVICE void await_input(const LinearPhase<n8>& linear) {
  const int bytes = linear.s.tiles * x_tile_bytes(linear.blocks), first = thread_index() * 16;
  const uint8_t* from = linear.phase.x.data + static_cast<int64_t>(linear.s.run_begin) * kRunTiles * x_tile_bytes(linear.blocks);
  if constexpr (n8 == kOneRow) {
    await_loads(linear.input.x, from, first, bytes);
  } else {
    static_assert(n8 != kFewRows || step_threads<n8>() * 16 % (kMostFewRows * 64) == 0, "a thread's pieces are all of one row");
    if (n8 == kFewRows && first / 64 % kMostFewRows >= linear.rows) return;  // of a row that isn't there
    await_copies<n8>(linear.input.x, from, first, bytes);
  }
}

// Makes the input of this share, all warps, each its part.
template <int n8, XKind kind>
QSPEC_DEVICE void make_input(const LinearPhase<n8>& linear) {
  const Phase& phase = linear.phase;
  const StreamShape& s = linear.s;
  uint8_t* const base = shared_memory();
  const RowsTask task{phase.rows == Rows::kTokensOfLogits ? step_batch().logit_row_index : nullptr, 0, linear.rows, s.run_begin, s.run_begin + s.num_runs,
                      thread_index() / kWarp, step_warps<n8>()};
  transform_rows<n8, kind>(phase.source, task, phase.x, linear.blocks,
                           {base + linear.input.x, reinterpret_cast<float*>(base + linear.input.scales), reinterpret_cast<int32_t*>(base + linear.input.sums), reinterpret_cast<float*>(base + kSquaresAt), false});
}

// Before the products: every warp finds the rows' factors of a prologue for itself, the same, so that nobody waits for another.
QSPEC_DEVICE void put_factors(const RowsSpec& source, int rows) {
  QSPEC_NO_UNROLL
  for (int row = 0; row < rows; ++row) {
    const float factor = row_factor(source, kSquaresAt + row * num_row_runs(source) * 4);
    if (lane_index() == 0) shared_store_float(own_factor_at(row), factor);
  }
  sync_warp();
}

template <int n8, GemmMode mode, int shift>
QSPEC_DEVICE void run_products(const StepParams& params, int index, int first_column) {
  const LinearPhase<n8> linear(params, index, first_column);
  const StreamSource& source = stream_source(linear.phase.linear_index);
  if constexpr (n8 < 3) {
    WaveRuns<n8, mode, shift> runs(linear);
    const bool has_prologue = may_make_input<n8>() && linear.spec.has_prologue;
    // The rows' factors, by the first warps, which have no more runs than others; who needs them meets them again. Where they were put first, W8A16 took 1 % less at
    // eight rows, W4A16 up to 3 % more.
    constexpr bool kFactorsFirst = !may_post<n8>() && mode == GemmMode::kHiLo;
    // Whoever waits for words asks for the first weights before; where there is a barrier in between they would be in the way of what it waits for.
    if (may_post<n8>()) runs.begin(source);
    if (has_prologue) {
      if constexpr (may_make_input<n8>()) make_input<n8, is_integer(mode) ? XKind::kCodes : XKind::kBf16>(linear);
    } else {
      const bool awaits = may_post<n8>() && linear.phase.x.awaits;
      if constexpr (may_post<n8>())
        if (awaits) await_input<n8>(linear);
      if (!awaits) copy_input<n8>(linear);
      if (kFactorsFirst) put_copied_factors<n8>(linear.phase, linear.rows);
      wait_async<0>();
    }
    linear.stamp(0);
    if (!may_post<n8>()) runs.begin(source);  // in one place: where two meet, registers are copied, and that waits for what is on its way to them
    named_barrier(kBlockBarrier, step_threads<n8>());
    if (has_prologue) put_factors(linear.phase.source, linear.rows);
    else if (!kFactorsFirst) put_copied_factors<n8>(linear.phase, linear.rows);
    runs.run(source);
  } else {
    TileJobs<n8, mode, shift>(linear).run(source, [] {
      if (is_by_groups<n8>(mode) && !has_input_runs<n8>(mode)) publish_wide_input();
      named_barrier(kBlockBarrier, step_threads<n8>());
    });
  }
}

template <int n8, GemmMode mode, int shift>
QSPEC_DEVICE_CALL void call_products(int index, int first_column) {
  run_products<n8, mode, shift>(step_params(), index, first_column);
}
// A function of its own where registers are short: with many rows, and for groups that few weights have. Not of a warpgroup's products, which would wait for each
// other there.
template <int n8, GemmMode mode, int shift>
QSPEC_DEVICE void do_products(const StepParams& params, int index, int first_column) {
  if constexpr (!is_by_groups<n8>(mode) && (n8 >= 3 || shift < 0)) call_products<n8, mode, shift>(index, first_column);
  else run_products<n8, mode, shift>(params, index, first_column);
}

template <int n8>
QSPEC_DEVICE void run_pass(const StepParams& params, int index, int first) {
  const LinearSpec& spec = phase_at(index).linear;
  const bool has_wide_groups = spec.half_shift == 2;  // of 128, which most weights have: every loop is unrolled
  if (is_integer(spec.mode)) return has_wide_groups ? do_products<n8, GemmMode::kHiInt, 2>(params, index, first) : do_products<n8, GemmMode::kHiInt, -1>(params, index, first);
  if constexpr (n8 < kWideRowBlocks) {
    switch (spec.mode) {
      case GemmMode::kDense: do_products<n8, GemmMode::kDense, 0>(params, index, first); break;
      case GemmMode::kHi: has_wide_groups ? do_products<n8, GemmMode::kHi, 2>(params, index, first) : do_products<n8, GemmMode::kHi, -1>(params, index, first); break;
      case GemmMode::kHiLo: has_wide_groups ? do_products<n8, GemmMode::kHiLo, 2>(params, index, first) : do_products<n8, GemmMode::kHiLo, -1>(params, index, first); break;
      case GemmMode::kHiInt: break;
    }
  }
}

// More than 32 rows of integer activations take several passes over the share's weights: from L2 where the linear fits into it, else from memory again.
template <int n8>
QSPEC_DEVICE void run_passes(const StepParams& params, int index, int rows) {
  const Phase& phase = phase_at(index);
  if (stream_shape(phase.shape_index).units == 0) return;
  QSPEC_NO_UNROLL
  for (int first = 0; first < (n8 == 4 ? rows : 1); first += kPassRows) {
    if (n8 == 4 && first > 0) named_barrier(kBlockBarrier, step_threads<n8>());  // everybody is done with the last pass's input
    if constexpr (n8 >= 3) {
      copy_input<n8>(LinearPhase<n8>(params, index, first));
      wait_async<0>();
      stamp_clock(params, index, 0);
    }
    run_pass<n8>(params, index, first);
  }
}

// 64 rows and more.
QSPEC_DEVICE void run_wide(const StepParams& params, int index, int rows) {
  const Phase& phase = phase_at(index);
  const uint32_t region = params.region_at;
  if (thread_index() == 0) {
    wide_state().begin(phase.linear, rows);
    WideStages(region).fill(phase.linear, phase.x);
  }
  put_copied_factors<kWideRowBlocks>(phase, rows);
  named_barrier(kBlockBarrier, kStepThreads);
  const bool has_wide_groups = phase.linear.half_shift == 2;
  switch (phase.linear.mode) {
    case GemmMode::kDense: return run_wide_linear<GemmMode::kDense, 0>(index, region);
    case GemmMode::kHi: return has_wide_groups ? run_wide_linear<GemmMode::kHi, 2>(index, region) : run_wide_linear<GemmMode::kHi, -1>(index, region);
    case GemmMode::kHiLo: return has_wide_groups ? run_wide_linear<GemmMode::kHiLo, 2>(index, region) : run_wide_linear<GemmMode::kHiLo, -1>(index, region);
    case GemmMode::kHiInt: return;
  }
}

// A linear that leaves sums for the phase behind it.
template <int n8>
QSPEC_DEVICE bool leaves_sums(const Phase& phase) {
  return n8 >= 3 && phase.kind == PhaseKind::kLinear && (n8 < kWideRowBlocks || is_integer(phase.linear.mode));
}
// Before the grid's barrier behind it: what that phase needs besides. Most blocks have time for it then.
template <int n8>
QSPEC_DEVICE void finish_linear(int index) {
  if constexpr (n8 >= 3) put_copied_factors<n8>(phase_at(index), rows_of(phase_at(index)));
}

template <int n8>
QSPEC_DEVICE void run_linear(const StepParams& params, int index) {
  const Phase& phase = phase_at(index);
  const int rows = rows_of(phase);
  if constexpr (n8 < kWideRowBlocks) run_passes<n8>(params, index, rows);
  else if (!is_integer(phase.linear.mode)) run_wide(params, index, rows);
  else run_passes<4>(params, index, rows);
}

}  // namespace qspec::cuda
