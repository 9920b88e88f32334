// The weights of a wide linear on their way to a warp: a ring of units (128 k of a row-tile) in shared memory, filled by asynchronous copies.
//
// Each lane copies what it will unpack itself, so no warp waits for another, nor a lane. Registers are needed for the products: weights that wait there
// made the compiler ask for the next ones only when the last had been multiplied. Dense weights, which are fragments as they lie in memory, are
// loaded to registers all the same: their units are four times as large.
#pragma once
#include "gemm/run_product.cuh"
#include "step/wide_shares.cuh"

namespace qspec::cuda {

// Where the calling warp's weights are, run by run of the block's share.
template <GemmMode mode, int shift>
struct WarpRuns {
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasLow = mode == GemmMode::kHiLo;

  RunCursor at;
  RunPlace place;  // this lane's, of the run `at`
  int tiles;       // of k, from the run on
  int scales_at[kRunTiles / kPieceTiles];  // of the run's pieces: this lane's scales, from its place on

  QSPEC_DEVICE void begin(const LinearSpec& spec) {
    at = wide_state().first;
    find(spec);
  }
  // On to the next run; at the share's end the place stays.
  QSPEC_DEVICE void advance(const LinearSpec& spec) {
    if (at.advance()) {
      if (!at.is_done()) find(spec);
      return;
    }
    tiles -= kRunTiles;
    place.high += run_bytes(spec);
    if (kHasLow) place.low += kRunTiles * kTileBytes;
    find_scales();
  }
  QSPEC_DEVICE static int piece_bytes(const LinearSpec& spec) { return full_piece_bytes(shift < 0 ? spec.weight.group_size : 32 << shift); }

 private:
  QSPEC_DEVICE static int run_bytes(const LinearSpec& spec) { return kIsDense ? kRunTiles * kDenseTileBytes : kRunTiles / kPieceTiles * piece_bytes(spec); }
  // A warp past the last row-tile reads that, and stores nothing.
  QSPEC_DEVICE void find(const LinearSpec& spec) {
    const WideShares& shares = wide_state().shares;
    const int warp = thread_index() / kWarp, lane = lane_index(), item = shares.item(at.tile, warp);
    const int row_tile = shares.row_tile(spec, item < spec.num_items ? item : spec.num_items - 1, warp);
    const DeviceWeight& w = spec.weight;
    tiles = w.k_tiles - at.run * kRunTiles;
    const int64_t row_bytes = kIsDense ? static_cast<int64_t>(w.k_tiles) * kDenseTileBytes : hi_row_tile_bytes(w.k, w.k_tiles, w.group_size);
    place.high = (kIsDense ? w.dense : w.hi) + row_tile * row_bytes + static_cast<int64_t>(at.run) * run_bytes(spec) + lane * 16;
    if (kHasLow) place.low = w.lo + (static_cast<int64_t>(row_tile) * w.k_tiles + at.run * kRunTiles) * kTileBytes + lane * 16;
    find_scales();
  }
  // Behind a piece's codes, the last piece's may be fewer.
  QSPEC_DEVICE void find_scales() {
    const int lane = lane_index();
    QSPEC_UNROLL
    for (int p = 0; p < kRunTiles / kPieceTiles; ++p) {
      const int rest = tiles - p * kPieceTiles;
      scales_at[p] = (rest < kPieceTiles ? rest : kPieceTiles) * kTileBytes + lane / 4 * 4 - lane * 16;
    }
  }
};

template <GemmMode mode, int shift>
struct WeightRing {
  static constexpr bool kHasLow = mode == GemmMode::kHiLo;
  static constexpr int kUnits = wide_units(mode), kUnitBytes = wide_unit_bytes(mode, shift >= 0), kScales = wide_unit_scales(shift >= 0);
  static constexpr int kRowBytes = kWarp * 16, kCodeBytes = kWideUnitTiles * kTileBytes, kScalesAt = (kHasLow ? 2 : 1) * kCodeBytes;
  static_assert(kUnits == 0 || kWideRunUnits % kUnits == 0, "a unit's slot follows from its place in the run");
  using Unit = WeightChunk<mode, shift, kWideUnitTiles>;

  WarpRuns<mode, shift> next;  // the run of the unit that is copied next
  uint32_t codes, scales;      // of this lane's part of the first slot

  QSPEC_DEVICE void begin(const LinearSpec& spec, uint32_t region) {
    next.begin(spec);
    const uint32_t ring = region + kWideRingAt + thread_index() / kWarp * kUnits * kUnitBytes;
    codes = ring + lane_index() * 16, scales = ring + kScalesAt + lane_index() * 4;
    QSPEC_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) fetch(spec, unit);
  }
  // A unit of the run. `copy_groups`: of other asynchronous copies that begin with each.
  template <int copy_groups>
  QSPEC_DEVICE Unit read(int unit) const {
    Unit to;
    wait_async<kUnits - 1 + copy_groups>();
    const uint32_t slot = unit % kUnits * kUnitBytes;
    QSPEC_UNROLL
    for (int i = 0; i < kWideUnitTiles; ++i) {
      to.high[i] = shared_load_16(codes + slot + i * kRowBytes);
      if (kHasLow) to.low[i] = shared_load_16(codes + slot + kCodeBytes + i * kRowBytes);
    }
    QSPEC_UNROLL
    for (int q = 0; q < kScales; ++q) to.scales[q] = shared_load_4(scales + slot + q * kWarp * 4);
    return to;
  }
  // When a unit has been read: one that comes later, into its slot.
  QSPEC_DEVICE void replace(const LinearSpec& spec, int unit) {
    const int later = (unit + kUnits) % kWideRunUnits;
    if (later == 0) next.advance(spec);
    fetch(spec, later);
  }

 private:
  QSPEC_DEVICE void fetch(const LinearSpec& spec, int unit) const {
    if (!next.at.is_done()) copy(spec, unit);
    commit_async();
  }
  QSPEC_DEVICE void copy(const LinearSpec& spec, int unit) const {
    constexpr int kPieceUnits = kPieceTiles / kWideUnitTiles;
    const int piece = unit / kPieceUnits, half = unit % kPieceUnits;
    const uint32_t slot = unit % kUnits * kUnitBytes;
    const uint8_t *high = next.place.high + piece * WarpRuns<mode, shift>::piece_bytes(spec), *low = kHasLow ? next.place.low + unit * kCodeBytes : nullptr;
    const int shifted = shift < 0 ? spec.half_shift : shift, groups = 2 * kWideUnitTiles >> shifted;
    const uint8_t* from = high + next.scales_at[piece];
    QSPEC_UNROLL
    for (int i = 0; i < kWideUnitTiles; ++i) {
      copy_async<16>(codes + slot + i * kRowBytes, high + half * kCodeBytes + i * kTileBytes);
      if (kHasLow) copy_async<16>(codes + slot + kCodeBytes + i * kRowBytes, low + i * kTileBytes);
    }
    QSPEC_UNROLL
    for (int q = 0; q < kScales; ++q)
      if (q < groups) copy_async<4>(scales + slot + q * kWarp * 4, from + (half * groups + q) * kScaleBytes);
  }
};

}  // namespace qspec::cuda
