// What the two ways of doing a linear share: its input in shared memory, what becomes of its sums, and the product of a run.
#pragma once
#include "step/input_runs.cuh"
#include "step/row_math.cuh"
#include "step/weight_walk.cuh"

namespace qspec::cuda {

// From tile `first_tile` of the share on.
template <GemmMode mode>
QSPEC_DEVICE TileInput tile_input(const ShareInput& share, int half_shift, RowBlocks blocks, int first_tile) {
  if constexpr (!is_integer(mode)) return {share.x + first_tile * x_tile_bytes(blocks), 0, 0, blocks};
  const int group = (2 * first_tile >> half_shift) * blocks.columns() * 4;
  return {share.x + first_tile * code_tile_bytes(blocks), share.scales + group, share.sums + group, blocks};
}

// ---- Sums in order: runs of a slice, then slices. Without branches, which would set one load behind the other -----------------------------------

struct FourSums {
  float value[4];

  QSPEC_DEVICE static FourSums of(const float4& v) { return {{v.x, v.y, v.z, v.w}}; }
  QSPEC_DEVICE static FourSums of(const uint4& v) { return {{float_of_bits(v.x), float_of_bits(v.y), float_of_bits(v.z), float_of_bits(v.w)}}; }
  // Adds what comes next, if it is there; the first replaces what was here.
  QSPEC_DEVICE void add(const FourSums& next, bool is_there, bool is_first = false) {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float sum = is_first ? next.value[e] : value[e] + next.value[e];
      value[e] = is_there ? sum : value[e];
    }
  }
};

// Of up to kSliceRuns slabs, from `p` on: where there is no run, the first once more.
QSPEC_DEVICE FourSums sum_slabs(uint32_t p, int bytes, int runs) {
  uint4 v[kSliceRuns];
  QSPEC_UNROLL
  for (int i = 0; i < kSliceRuns; ++i) v[i] = shared_load_16(p + (i < runs ? i * bytes : 0));
  FourSums sum = FourSums::of(v[0]);
  QSPEC_UNROLL
  for (int i = 1; i < kSliceRuns; ++i) sum.add(FourSums::of(v[i]), i < runs);
  return sum;
}
// A warp's sums of a run into its slab; of `columns` that are there.
template <int n8>
QSPEC_DEVICE void write_slab(uint32_t slab, const Accumulator<n8>& total, int columns, int lane) {
  const int g = lane / 4, t = lane % 4;
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c)
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * c + 2 * t + (i & 1);
      if (n8 > 1 || column < columns) shared_store_float(slab + slab_place(column, g + 8 * (i >> 1)), total.value[c][i]);
    }
}

// ---- From the order of fragments to rows -----------------------------------------------------------------------------------------------------

// Lane (g, t) has outputs g and g + 8 of rows 2t and 2t + 1; gets four neighbouring outputs of one of these rows: see four_of_lane(). All lanes.
QSPEC_DEVICE void transpose_fours(float (&v)[4]) {
  QSPEC_UNROLL
  for (int step = 1; step < 4; step *= 2) {
    const bool is_odd = lane_index() / 4 & step;
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      float &low = v[i], &high = v[i + step];
      const float other = shuffle_xor(is_odd ? low : high, 4 * step);
      if (is_odd) low = other;
      else high = other;
    }
  }
}
struct FourOfLane {
  int row, within;  // of the row block; the first output
};
QSPEC_DEVICE FourOfLane four_of_lane() {
  const int g = lane_index() / 4, t = lane_index() % 4, i = g % 4;
  return {2 * t + i % 2, i / 2 * 8 + g / 4 * 4};
}

// ---- What becomes of a sum ---------------------------------------------------------------------------------------------------------------

// Where a row's factor of the norm is: where the block makes its own input every warp has found it for itself.
QSPEC_DEVICE uint32_t own_factor_at(int row) { return kOwnFactorsAt + (thread_index() / kWarp * kPrologueRows + row) * 4; }
QSPEC_DEVICE uint32_t factor_at(const LinearSpec& spec, int row) { return spec.has_prologue ? own_factor_at(row) : kFactorsAt + row * 4; }

// Four neighbouring outputs of a row: sums over k in, the op's values out; past n, anything. `factor`: of the row's norm. Here and below few
// branches: with few rows everybody waits for one thread's chain of instructions.
QSPEC_DEVICE void finish_sums(const LinearSpec& spec, int column, float factor, float (&v)[4]) {
  const bool is_nested = spec.mode == GemmMode::kHiLo, has_units = is_nested || spec.mode == GemmMode::kHi;
  const float scale = (is_nested ? factor / static_cast<float>(spec.weight.radix) : factor) * (has_units ? kCodesAUnit : 1.0f);
  QSPEC_UNROLL
  for (int e = 0; e < 4; ++e) v[e] *= scale;
  if (spec.bias == nullptr) return;
  const int last = spec.weight.n - 1;
  QSPEC_UNROLL
  for (int e = 0; e < 4; ++e) v[e] += load_constant(spec.bias + (column + e < last ? column + e : last));
}
// What a linear that adds to the residual needs besides its sums: the residual, and the weights of the norm behind it. Asked for early: everybody waits for
// what is done with it.
template <bool may_post>
struct Residual {
  uint4 before;
  float4 weights;

  QSPEC_DEVICE static const float* place(const LinearSpec& spec, int column, int row) { return spec.before + row * spec.output_stride + column; }
  QSPEC_DEVICE static Residual load(const LinearSpec& spec, int column, int row, bool is_there) {
    Residual r{};
    if (spec.before && is_there && may_post) peek(&r.before, place(spec, column, row));
    else if (spec.before && is_there) r.before = load_l2(reinterpret_cast<const uint4*>(place(spec, column, row)));
    if (spec.next_norm && is_there) r.weights = load_constant(reinterpret_cast<const float4*>(spec.next_norm + column));
    return r;
  }
  // What four outputs of a row become; waits for the residual if it must.
  QSPEC_DEVICE void add(const LinearSpec& spec, int column, int row, const float (&v)[4], float (&sum)[4]) const {
    uint4 words = before;
    if (may_post && spec.awaits_before) await(&words, place(spec, column, row));
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) sum[e] = add_flushed(float_of_bits(word_of(words, e)), v[e]);
  }
};
// Where there is one: the sum of the residual and what a linear adds to it, and with it the x-form of the norm behind it, without its factor. All lanes of
// a warp: four neighbouring ones have a row's outputs of a row-tile.
template <bool may_post>
QSPEC_DEVICE void store_residual(const LinearSpec& spec, RowBlocks blocks, int column, int row, bool is_there, float factor, const Residual<may_post>& r, float (&v)[4]) {
  float sum[4] = {0, 0, 0, 0};
  if (is_there) finish_sums(spec, column, factor, v), r.add(spec, column, row, v, sum);
  const float squares = tile_squares(four_squares(sum));
  if (!is_there) return;
  float* p = spec.output + row * spec.output_stride + column;
  float* to_squares = spec.next_squares + row * row_squares(spec.weight.n) + column / kTileN;
  const float normed[4] = {sum[0] * r.weights.x, sum[1] * r.weights.y, sum[2] * r.weights.z, sum[3] * r.weights.w};
  if (may_post && spec.posts) {
    post_x4(spec.out_x, blocks, row, column, normed);
    if (column % kTileN == 0) post(to_squares, bits_of_float(squares));
    return post(p, sum);
  }
  *reinterpret_cast<float4*>(p) = float4{sum[0], sum[1], sum[2], sum[3]};
  store_x4(spec.out_x, blocks, row, column, normed);
  if (column % kTileN == 0) store_l2(to_squares, squares);
}
// Without a norm, one thread.
template <bool may_post>
QSPEC_DEVICE void store_output(const LinearSpec& spec, int column, int row, float factor, const Residual<may_post>& r, float (&v)[4]) {
  finish_sums(spec, column, factor, v);
  float* p = spec.output + row * spec.output_stride + spec.output_column + column;
  if (may_post && spec.posts) {
    if (spec.before) r.add(spec, column, row, v, v);
    return post(p, v);
  }
  const bool is_sum = spec.epilogue == Epilogue::kAdd;
  const int left = spec.weight.n - column;
  if (left >= 4 && is_sum) {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) add_to(p + e, v[e]);
  } else if (left >= 4 && reinterpret_cast<uintptr_t>(p) % sizeof(float4) == 0) {
    *reinterpret_cast<float4*>(p) = float4{v[0], v[1], v[2], v[3]};
  } else {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) {
      if (e < left && is_sum) add_to(p + e, v[e]);
      else if (e < left) p[e] = v[e];
    }
  }
}
// silu(gate) · up of elements k … k + 3 of the product (its width is a multiple of 16): float rows, or bf16 x-form.
template <bool may_post>
QSPEC_DEVICE void store_silu(const LinearSpec& spec, RowBlocks blocks, int k, int row, float factor, float (&gate)[4], float (&up)[4]) {
  const int width = spec.weight.n / 2;
  finish_sums(spec, k, factor, gate);
  finish_sums(spec, width + k, factor, up);
  QSPEC_UNROLL
  for (int e = 0; e < 4; ++e) gate[e] = silu(gate[e]) * up[e];
  if (may_post && spec.posts) return post_x4(spec.out_x, blocks, row, k, gate);
  if (spec.out_x == nullptr) *reinterpret_cast<float4*>(spec.output + static_cast<int64_t>(row) * width + k) = float4{gate[0], gate[1], gate[2], gate[3]};
  else store_x4(spec.out_x, blocks, row, k, gate);
}

// The factors of rows whose x-form another phase made, each warp every so many rows, `together` at a time, whose sums of squares are on their way at once.
template <int together, bool may_await = false>
QSPEC_DEVICE void put_factors_of(const Phase& phase, int rows) {
  const XForm& x = phase.x;
  const int each = row_squares(phase.source.width);
  QSPEC_NO_UNROLL
  for (int first = thread_index() / kWarp; first < rows; first += together * kStepWarps) {
    RowFactors<together> factors;
    const auto squares = [&](int r) { return x.squares && first + r * kStepWarps < rows ? x.squares + (first + r * kStepWarps) * each : nullptr; };
    factors.begin(phase.source, squares);
    QSPEC_UNROLL
    for (int r = 0; r < together; ++r) {
      const int row = first + r * kStepWarps;
      if (row >= rows) break;
      const float factor = x.squares ? factors.template factor<may_await>(phase.source, squares(r), r, x.awaits) : 1.0f;
      if (lane_index() == 0) shared_store_float(kFactorsAt + row * 4, factor);
    }
  }
}
QSPEC_DEVICE_CALL void put_many_factors(const Phase& phase, int rows) { put_factors_of<4>(phase, rows); }
// The same from the runs' squares.
QSPEC_DEVICE_CALL void put_run_factors(const Phase& phase, int rows) {
  constexpr int kTogether = 8;
  const int lane = lane_index(), runs = num_row_runs(phase.source);
  QSPEC_NO_UNROLL
  for (int first = thread_index() / kWarp; first < rows; first += kTogether * kStepWarps) {
    float squares[kTogether] = {};  // of the lane's first run; few rows have more than 32
    const auto load = [&](int row, int run) { return load_l2(phase.x.squares + row * runs + run); };
    QSPEC_UNROLL
    for (int r = 0; r < kTogether; ++r)
      if (phase.x.squares && first + r * kStepWarps < rows && lane < runs) squares[r] = load(first + r * kStepWarps, lane);
    QSPEC_UNROLL
    for (int r = 0; r < kTogether; ++r) {
      const int row = first + r * kStepWarps;
      if (row >= rows) break;
      float sum = squares[r];
      for (int run = lane + kWarp; phase.x.squares && run < runs; run += kWarp) sum += load(row, run);
      const float factor = phase.x.squares ? factor_of(phase.source, sum) : 1.0f;
      if (lane == 0) shared_store_float(kFactorsAt + row * 4, factor);
    }
  }
}
template <int n8>
QSPEC_DEVICE void put_copied_factors(const Phase& phase, int rows) {
  if constexpr (n8 >= kWideRowBlocks) put_run_factors(phase, rows);
  else if constexpr (n8 >= 3) put_many_factors(phase, rows);
  else put_factors_of<1, may_post<n8>()>(phase, rows);
}

// ---- The product of a run -----------------------------------------------------------------------------------------------------------------

// A linear phase of this block.
template <int n8>
struct LinearPhase {
  const StepParams& params;
  int index;
  const Phase& phase;
  const LinearSpec& spec;
  const StreamShape& s;
  RowBlocks blocks;  // in shared memory
  ShareInput input;
  int rows;
  int first_column;  // of this pass

  QSPEC_DEVICE LinearPhase(const StepParams& of, int index_of_phase, int first)
      : params(of),
        index(index_of_phase),
        phase(phase_at(index)),
        spec(phase.linear),
        s(stream_shape(phase.shape_index)),
        blocks(kernel_blocks(n8)),  // a constant
        input(share_input(s, spec.weight.group_size, params.region_at, blocks)),
        rows(rows_of(phase)),
        first_column(first) {}

  // Profiling: 0 this warp's part of the input is there, 1 all of it, 2 this warp's products are done, 3 all (up to 16 rows).
  QSPEC_DEVICE void stamp(int step) const { stamp_clock(params, index, step); }
};

// Multiplies runs one after another. Two chunks of weights take turns: one is on its way while the other is multiplied. Where sums or a second plane need
// the registers, chunks are half as long.
template <int n8, GemmMode mode, int shift>
struct RunProduct {
  static constexpr bool kByGroups = is_by_groups<n8>(mode);
  static constexpr bool kHasShortChunks = shift >= 0 && ((n8 >= 3 && !(kByGroups && mode == GemmMode::kDense)) || (n8 == 2 && mode == GemmMode::kHiLo));
  using Chunk = WeightChunk<mode, shift, most_chunk_tiles(mode, shift) / (kHasShortChunks ? 2 : 1)>;
  static constexpr bool kIsWholeRun = Chunk::kChunks == 1;  // then runs take turns, else chunks of a run
  static_assert(!kByGroups || !kIsWholeRun, "chunks of a run take turns");

  const LinearPhase<n8>& phase;
  int lane, whole_runs;
  NestedRadix radix;
  uint32_t parity;  // of the input's runs
  Chunk even, odd;

  QSPEC_DEVICE explicit RunProduct(const LinearPhase<n8>& of) : phase(of), lane(own_lane()), whole_runs(of.s.k / kRunK), radix(of.spec.weight.radix) {}
  // Asks for the first chunk of a run. Always: a load that may not happen makes the compiler wait for it. Of a run shorter than 512 k, which is
  // multiplied otherwise, this brings what isn't used.
  QSPEC_DEVICE void begin(Chunk& chunk, const RunPlace& place) { chunk.load(place, 0, phase.spec.half_shift, lane); }
  // Behind the barrier that follows the input's copies.
  QSPEC_DEVICE void begin_input() {
    if constexpr (has_input_runs<n8>(mode)) parity = InputRuns::parity();
  }
  // A warpgroup's input from tile `first` of the share on.
  QSPEC_DEVICE WideInput of_group(int first) const {
    const WideInput at(phase.input.x + (kByGroups ? first * x_tile_bytes(phase.blocks) : 0));
    return kByGroups ? at.uniform() : at;
  }
  // total = the product of a run whose first chunk is in `now`. The next run's begins: in `next` of whole runs, else in `now`.
  QSPEC_DEVICE void multiply(Accumulator<row_blocks<n8>()>& total, Chunk& now, Chunk& next, const RunPlace& place, int run, const RunPlace& next_place) {
    const int half_shift = phase.spec.half_shift, first = run * kRunTiles;
    const auto input = [&](int c) { return tile_input<mode>(phase.input, half_shift, phase.blocks, first + c * Chunk::kTiles); };
    const WideInput of_run = of_group(first);
    const auto multiply = [&](const Chunk& chunk, int c) {
      if constexpr (kByGroups) chunk.multiply(total, of_run, c * Chunk::kTiles, half_shift, radix, lane);
      else chunk.multiply(total, input(c), half_shift, radix, lane);
    };
    total.clear();
    if (kIsWholeRun) begin(next, next_place);
    if constexpr (has_input_runs<n8>(mode)) InputRuns::wait(run, parity);
    if (run >= whole_runs) {
      const int k = phase.s.k - run * kRunK;
      if constexpr (kByGroups) multiply_short_run<mode>(total, place, k, of_run, half_shift, radix, lane);
      else multiply_short_run<mode>(total, place, k, input(0), half_shift, radix, lane);
      if (!kIsWholeRun) begin(now, next_place);
      return;
    }
    if constexpr (kIsWholeRun) {
      multiply(now, 0);
    } else {
      QSPEC_UNROLL
      for (int c = 0; c < Chunk::kChunks; c += 2) {
        next.load(place, c + 1, half_shift, lane);
        multiply(now, c);
        if (c + 2 < Chunk::kChunks) now.load(place, c + 2, half_shift, lane);
        else begin(now, next_place);
        multiply(next, c + 1);
      }
    }
  }
};

}  // namespace qspec::cuda
