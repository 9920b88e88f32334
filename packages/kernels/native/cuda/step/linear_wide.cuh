// A linear of 64 rows and more whose activations are bf16: what matters now is to keep the tensor cores busy.
//
// Each warp has a row-tile; weights come from memory to its registers as in every kernel and are unpacked there: they are the A operand of a
// warpgroup's product. Activations come through a ring of stages in shared memory, from where tensor cores read them for all warps. A block does
// a tile of the product (WideShares) piece by piece of k; while a warpgroup's tensor cores work, others unpack.
// Sums over runs, slices and k are made in the one order (common/layout.h): a run's in registers, the others in shared memory, each thread its own.
#pragma once
#include "common/wide_mma.cuh"
#include "step/linear_shared.cuh"
#include "step/linear_tiles.cuh"
#include "step/wide_stages.cuh"

namespace qspec::cuda {

constexpr int kRunPieces = kRunTiles / kPieceTiles;

// ---- Sums of a tile in shared memory --------------------------------------------------------------------------------------------------------

template <int n8>
struct WideSums {
  uint32_t at;  // behind the stages

  QSPEC_DEVICE explicit WideSums(const StepParams& params) : at(params.region_at + kWideStages * wide_stage_bytes(n8)) {}
  QSPEC_DEVICE uint32_t slice(int c, int thread) const { return at + c * kWideSumsStride + thread * 16; }
  QSPEC_DEVICE uint32_t total(int c, int thread) const { return slice(n8 + c, thread); }

  // Four neighbouring outputs of a row of the pass, of the row-tile that warp `warp` has.
  QSPEC_DEVICE void read_totals(int warp, int row, int within, float (&v)[4]) const {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int out = within + e, thread = warp * kWarp + out % 8 * 4 + row % 8 / 2;
      v[e] = shared_load_float(total(row / 8, thread) + (out / 8 * 2 + row % 2) * 4);
    }
  }
};

// v = what lies there + v.
QSPEC_DEVICE void add_before(float (&v)[4], uint32_t at) {
  const uint4 before = shared_load_16(at);
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = float_of_bits(word_of(before, i)) + v[i];
}
QSPEC_DEVICE void store_floats(uint32_t at, const float (&v)[4]) {
  shared_store_16(at, uint4{bits_of_float(v[0]), bits_of_float(v[1]), bits_of_float(v[2]), bits_of_float(v[3])});
}

// All threads, when a tile that this block has alone is done.
template <int n8>
QSPEC_DEVICE_CALL void store_wide_tile(int index, int tile) {
  constexpr int kQuads = kTileN / 4, kColumns = 8 * n8;
  const Phase& phase = phase_at(index);
  const LinearSpec& spec = phase.linear;
  const WideShares& shares = wide_state().shares;
  const WideSums<n8> sums(step_params());
  const int rows = phase.rows == Rows::kTokens ? step_batch().rows : step_batch().logit_rows;
  const RowBlocks blocks = step_params().blocks;
  const int first = shares.pass(tile) * kColumns, count = rows - first < kColumns ? rows - first : kColumns;
  QSPEC_NO_UNROLL
  for (int i = thread_index(); i < shares.group_items * kColumns * kQuads; i += step_threads<n8>()) {
    const int within = i % kQuads * 4, row = i / kQuads % kColumns, in_group = i / (kQuads * kColumns), item = shares.first_item(tile) + in_group;
    if (row >= count || item >= spec.num_items) continue;
    const float factor = shared_load_float(kFactorsAt + (first + row) * 4);
    const int warp = shares.first_warp(in_group);
    float v[4], up[4];
    sums.read_totals(warp, row, within, v);
    if (shares.is_pair) {
      sums.read_totals(warp + kUpWarp, row, within, up);
      store_silu(spec, blocks, item * kTileN + within, first + row, factor, v, up);
    } else {
      store_output(spec, item * kTileN + within, first + row, factor, v);
    }
  }
}

// ---- The share -------------------------------------------------------------------------------------------------------------------------------

template <int n8, GemmMode mode, int shift>
struct WideLinear {
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasLow = mode == GemmMode::kHiLo;
  static constexpr int kThreads = step_threads<n8>(), kColumns = 8 * n8;
  using Chunk = WeightChunk<mode, shift, kPieceTiles / 2>;
  using Fragments = uint32_t[2][2][4];  // of a tile

  const Phase& phase;
  const LinearSpec& spec;
  const WideState& state;
  const int lane;
  PieceCursor now;         // being multiplied
  RunPlace next;           // this lane's weights of the piece after it
  int next_scales;         // from there to the scales of the lane's rows
  WideStages<n8> stages;
  Chunk even, odd;         // weights of a piece's halves
  Accumulator<n8> sums;    // of the run

  QSPEC_DEVICE explicit WideLinear(int index) : phase(phase_at(index)), spec(phase.linear), state(wide_state()), lane(lane_index()) {}

  QSPEC_DEVICE static int warp() { return thread_index() / kWarp; }
  QSPEC_DEVICE int pieces() const { return num_pieces(spec.weight.k_tiles); }

  // ---- Weights ----

  QSPEC_DEVICE int piece_bytes() const { return kIsDense ? kPieceTiles * kDenseTileBytes : full_piece_bytes(shift < 0 ? spec.weight.group_size : 32 << shift); }
  // `next` = a piece of this warp's row-tile in a tile of the product. A warp past the last row-tile reads that, and stores nothing.
  QSPEC_DEVICE void find_next(int tile, int piece) {
    const int item = state.shares.item(tile, warp()), row_tile = state.shares.row_tile(spec, item < spec.num_items ? item : spec.num_items - 1, warp());
    const DeviceWeight& w = spec.weight;
    const int64_t row_bytes = kIsDense ? static_cast<int64_t>(w.k_tiles) * kDenseTileBytes : hi_row_tile_bytes(w.k, w.k_tiles, w.group_size);
    next.high = (kIsDense ? w.dense : w.hi) + row_tile * row_bytes + static_cast<int64_t>(piece) * piece_bytes() + lane * 16;
    next.low = kHasLow ? w.lo + static_cast<int64_t>(row_tile) * w.k_tiles * kTileBytes + static_cast<int64_t>(piece) * kPieceTiles * kTileBytes + lane * 16 : nullptr;
    find_scales(piece);
  }
  QSPEC_DEVICE void find_scales(int piece) { next_scales = piece_tiles(spec.weight.k_tiles, piece * kPieceTiles) * kTileBytes + lane / 4 * 4 - lane * 16; }
  // On to the piece after `of`, which `next` is; at the share's end it stays.
  QSPEC_DEVICE void advance_next(const PieceCursor& of) {
    if (of.piece + 1 < of.piece_end) {
      next.high += piece_bytes(), next.low += kPieceTiles * kTileBytes;
      if (!kIsDense) find_scales(of.piece + 1);
    } else if ((of.tile + 1) * state.shares.jobs < state.job_end) {
      find_next(of.tile + 1, 0);
    }
  }
  QSPEC_DEVICE void load(Chunk& chunk, int half_piece) { chunk.load(next, half_piece, spec.half_shift, 0, next_scales); }

  // Fragments of tile 0 or 1 of a chunk.
  QSPEC_DEVICE void unpack(Fragments& a, const Chunk& chunk, int tile) const {
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half) chunk.unpack(a[half], 2 * tile + half, radix2());
  }
  QSPEC_DEVICE uint32_t radix2() const {
    const float radix = static_cast<float>(spec.weight.radix);
    return kHasLow ? pack_bf16(radix, radix) : 0;
  }

  // ---- Products of a piece ----

  // d (+)= a tile's product.
  template <bool is_first>
  QSPEC_DEVICE static void multiply(Accumulator<n8>& d, const Fragments& a, const WideInput& x, int tile) {
    constexpr uint32_t kTile = n8 * kWideBlockBytes;
    multiply_wide<is_first>(d.value, a[0], x, tile * kTile);
    multiply_wide<false>(d.value, a[1], x, tile * kTile + kWideHalfBytes);
  }

  // Groups of 128 k, one half of the piece each. What lies behind the last tile is multiplied as well, and added to nothing.
  QSPEC_DEVICE void multiply_group(Chunk& chunk, const WideInput& x, int half_piece, bool is_there) {
    Fragments low, high;
    Accumulator<n8> group;
    unpack(low, chunk, 0), unpack(high, chunk, 1);
    const float row_scale = bf16_low(chunk.scales[0]), other_scale = bf16_high(chunk.scales[0]);
    load(chunk, half_piece);  // its registers are free
    begin_wide();
    multiply<true>(group, low, x, 2 * half_piece);
    multiply<false>(group, high, x, 2 * half_piece + 1);
    end_wide();
    wait_wide<0>();
    if (is_there) add_group(sums, group, row_scale, other_scale);
  }
  QSPEC_DEVICE void multiply_piece() {
    stages.wait(spec, phase.x);
    const WideInput x(stages.place());
    multiply_group(even, x, 0, true);
    multiply_group(odd, x, 1, now.piece * kPieceTiles + kPieceTiles / 2 < spec.weight.k_tiles);
    stages.release(lane);
  }

  // Groups whose size is told at run time.
  QSPEC_DEVICE void multiply_piece_in_groups() {
    stages.wait(spec, phase.x);
    const WideInput x(stages.place());
    const int mask = (1 << spec.half_shift) - 1, rest = (spec.weight.k - now.piece * kPieceK) / (kTileK / 2);  // half tiles; padding has no scales
    Accumulator<n8> group;
    group.clear();
    QSPEC_UNROLL
    for (int half = 0; half < 2 * kPieceTiles; ++half) {
      const Chunk& chunk = half < kPieceTiles ? even : odd;
      const int within = half % kPieceTiles;
      uint32_t a[2][4];
      chunk.unpack(a, within, radix2());
      begin_wide();
      multiply_wide<false>(group.value, a, x, half / 2 * n8 * kWideBlockBytes + half % 2 * kWideHalfBytes);
      end_wide();
      wait_wide<0>();
      if ((half & mask) != mask) continue;
      if (half < rest) add_group(sums, group, chunk.scales_of(within >> spec.half_shift));
      group.clear();
    }
    stages.release(lane);
    load(even, 0), load(odd, 1);
  }

  // Dense weights are fragments already.
  QSPEC_DEVICE void multiply_dense_piece() {
    const int tiles = spec.weight.k_tiles - now.piece * kPieceTiles;
    if (tiles < kPieceTiles) clear_missing(tiles);
    stages.wait(spec, phase.x);
    const WideInput x(stages.place());
    multiply_dense(even, x, 0, tiles);
    multiply_dense(odd, x, kPieceTiles / 2, tiles);
    wait_wide<1>();
    load(even, 0);
    wait_wide<0>();
    load(odd, 1);
    stages.release(lane);
  }
  // Behind the last tile: zeros times activations that there are.
  QSPEC_DEVICE void multiply_dense(const Chunk& chunk, const WideInput& x, int first, int tiles) {
    begin_wide();
    QSPEC_UNROLL
    for (int half = 0; half < kPieceTiles; ++half) {
      uint32_t a[2][4];
      chunk.unpack(a, half, 0);
      const int tile = first + half / 2;
      multiply_wide<false>(sums.value, a, x, (tile < tiles ? tile : 0) * n8 * kWideBlockBytes + half % 2 * kWideHalfBytes);
    }
    end_wide();
  }
  QSPEC_DEVICE void clear_missing(int tiles) {
    QSPEC_UNROLL
    for (int i = 0; i < Chunk::kLoads; ++i) {
      if (i / 4 >= tiles) even.high[i] = uint4{0, 0, 0, 0};
      if (kPieceTiles / 2 + i / 4 >= tiles) odd.high[i] = uint4{0, 0, 0, 0};
    }
  }

  // ---- Sums ----

  // Leaves `sums` where the reducing phase expects those that begin with this run.
  QSPEC_DEVICE void leave(int run) {
    const int item = state.shares.item(now.tile, warp());
    if (item >= spec.num_items) return;
    const StepParams& params = step_params();
    float* to = job_sums(params.workspace, spec, sum_columns(phase.rows, params.blocks), run / spec.job_runs, state.shares.row_tile(spec, item, warp()));
    leave_sums(sums, to, state.shares.pass(now.tile) * kColumns, lane);
  }
  // The run's sums are there: on to the slice's, and to the tile's. Of a tile that isn't this block's alone a slice is left as far as the
  // share goes, but runs one by one where the share begins within the slice.
  QSPEC_DEVICE void end_run(bool is_whole) {
    const int run = now.piece / kRunPieces, thread = thread_index(), first = run / kSliceRuns * kSliceRuns;
    const int begin = state.job_begin > now.tile * state.shares.jobs ? (state.job_begin - now.tile * state.shares.jobs) * spec.job_runs : 0;  // the share's, within the tile
    const bool ends_slice = run + 1 == first + kSliceRuns || now.piece + 1 == now.piece_end || first < begin;
    const WideSums<n8> at(step_params());
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) {
      if (run > first && first >= begin) add_before(sums.value[c], at.slice(c, thread));
      if (!ends_slice) {
        store_floats(at.slice(c, thread), sums.value[c]);
      } else if (is_whole) {
        if (first > 0) add_before(sums.value[c], at.total(c, thread));
        store_floats(at.total(c, thread), sums.value[c]);
      }
    }
    if (ends_slice && !is_whole) leave(first < begin ? run : first);
    sums.clear();
  }

  // Up to the run's last piece.
  QSPEC_DEVICE void multiply_run() {
    QSPEC_NO_UNROLL
    while (true) {
      if constexpr (kIsDense) multiply_dense_piece();
      else if constexpr (shift < 0) multiply_piece_in_groups();
      else multiply_piece();
      if (now.piece + 1 == now.piece_end || now.piece % kRunPieces == kRunPieces - 1) return;
      ++now.piece;
      advance_next(now);
    }
  }
  QSPEC_DEVICE void run(int index) {
    now = state.first;
    if (now.is_done()) return;
    find_next(now.tile, now.piece);
    load(even, 0), load(odd, 1);
    stages.begin(spec, phase.x);
    advance_next(now);
    sums.clear();
    bool is_whole = now.piece == 0 && now.piece_end == pieces();
    QSPEC_NO_UNROLL
    while (true) {
      multiply_run();
      const bool ends_tile = now.piece + 1 == now.piece_end;
      end_run(is_whole);
      if (ends_tile && is_whole) {
        named_barrier(kBlockBarrier, kThreads);
        store_wide_tile<n8>(index, now.tile);
        named_barrier(kBlockBarrier, kThreads);
      }
      now.advance(state.shares, spec, state.job_end);
      if (now.is_done()) break;
      if (now.piece == 0) is_whole = now.piece_end == pieces();
      advance_next(now);
    }
    stages.end();
  }
};

template <int n8, GemmMode mode, int shift>
QSPEC_DEVICE void run_wide_linear(int index) {
  WideLinear<n8, mode, shift>(index).run(index);
}

}  // namespace qspec::cuda
