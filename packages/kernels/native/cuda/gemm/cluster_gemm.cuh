// A linear of many rows (a prefill, a large batch) as a kernel of its own: what matters is the tensor cores' rate, and with fewer rows that all multiprocessors have something to do.
//
// A block does tiles of 128 outputs x 128 rows, or 64 or 32 (or 256 x 32), over all of k, so that nobody adds what others left; or, where there are fewer tiles than blocks, several blocks share
// one (`is_shared`): of n blocks the i-th takes slices i, i + n … of k, and adds each when those before it were added. Two warpgroups multiply (or four): each warp has a row-tile's weights
// in registers, the A operand, which come by its own lanes' copies and are unpacked there; activations, the B operand, come through a ring of stages that a third warpgroup's copies
// fill, whose other warps find what rows are multiplied with. Blocks of a cluster have the same rows and other outputs: each brings its part of a stage to all of them. The warpgroup that copies needs few
// registers, so those that multiply have 224: a group's sums and a run's, 128 x 64 of each a warpgroup, fit, or a run's and a slice's.
//
// Sums are made in the one order (common/layout.h): a run's in registers, a slice's, too, or in shared memory (`has_slices_in_registers()`), a tile's in memory, each thread its own.
#pragma once
#include "common/bulk_copy.cuh"
#include "common/wide_mma.cuh"
#include "gemm/cluster_gemm.h"
#include "gemm/run_product.cuh"
#include "step/linear_shared.cuh"

namespace qspec::cuda {

#if defined(__CUDACC__)
constexpr int kClusterBlocks = 2;
#else
constexpr int kClusterBlocks = 1;
#endif
constexpr int kGemmUnitTiles = 2, kGemmUnits = kRunTiles / kGemmUnitTiles;  // a unit is 128 k; of a run
constexpr int kGemmGroupSize = kGemmUnitTiles * kTileK;

// Of activations there are three stages with most rows, six with fewer (four where dense weights' ring takes the room).
constexpr int kGemmStagesBytes = 3 * kGemmUnitTiles * kGemmRowBlocks * kWideBlockBytes, kGemmMostStages = 6, kGemmMostDenseStages = 4;
// Of all rows of a launch of up to 32, whose linears make the norm behind them.
constexpr bool has_few_rows(int row_blocks) { return row_blocks == kPassRows / 8; }
// Units of codes that a warp has in its ring; tiles of dense weights: more with fewer rows, which are sooner multiplied.
constexpr int gemm_ring_units(GemmMode mode) { return mode == GemmMode::kHiLo ? 2 : 4; }
constexpr int dense_ring_tiles(int n8) { return n8 == kGemmRowBlocks ? 4 : 8; }
// Registers hold two sums of most rows; of codes those are a group's and a run's. Where they can, they hold a slice's: activations and weights take most of what shared memory's paths carry.
constexpr bool has_slices_in_registers(GemmMode mode, int n8) { return mode == GemmMode::kDense || n8 < kGemmRowBlocks; }
constexpr int gemm_unit_bytes(GemmMode mode) { return kGemmUnitTiles * kTileBytes * (mode == GemmMode::kHiLo ? 2 : 1) + kWarp * 4; }
// What a warp has of rows' sums of squares: of twelve rows, or one of the widest. The pad has several rows' in different banks.
constexpr int kRowSquaresPad = 32, kRowSquaresBytes = 12 * (row_squares(4096) * 4 + kRowSquaresPad);
static_assert(kRowSquaresBytes >= row_squares(kMaxRowRuns * kRunK) * 4 + kRowSquaresPad, "room for a row");

QSPEC_DEVICE int gemm_cluster_rank() {
#if defined(QSPEC_HAS_WGMMA)
  return cluster_rank();
#else
  return 0;
#endif
}

// ---- Tiles ---------------------------------------------------------------------------------------------------------------------------------

// A tile's rows and outputs, and what a block that makes it has in shared memory: [counters][rows' scales of two tiles][stages][sums][weights][rows' sums of squares].
template <GemmMode mode, int n8, int groups>
struct GemmTile {
  static constexpr int kRows = 8 * n8, kTileBytes = n8 * kWideBlockBytes;
  static constexpr int kWarps = groups * kGroupWarps, kMultipliers = 32 * kWarps, kThreads = kMultipliers + 128;  // the last warpgroup brings activations
  // Of all registers, what those that multiply and those that copy have.
  static constexpr int kRegisters = groups == kGemmGroups ? 224 : 112, kCopyRegisters = groups == kGemmGroups ? 56 : 32;
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasSlices = has_slices_in_registers(mode, n8);
  static constexpr int kStageBytes = kGemmUnitTiles * kTileBytes;
  static constexpr int kTotalBytes = static_cast<int>(gemm_total_bytes(n8, groups)), kSumsBytes = kHasSlices ? kTotalBytes / 2 : kTotalBytes;  // a slice's, or what gates and ups exchange
  static constexpr int kRingTiles = dense_ring_tiles(n8), kRingBytes = kIsDense ? kRingTiles * kDenseTileBytes : gemm_ring_units(mode) * gemm_unit_bytes(mode);
  static constexpr uint32_t kScalesAt = 128, kStagesAt = kScalesAt + 2 * kRows * 4;
  static constexpr int kStages = std::min(kIsDense ? kGemmMostDenseStages : kGemmMostStages, kGemmStagesBytes / kStageBytes);
  static constexpr uint32_t kSumsAt = kStagesAt + kStages * kStageBytes, kRingAt = kSumsAt + kSumsBytes, kSquaresAt = kRingAt + kWarps * kRingBytes;
  static constexpr int kScaleWarps = 3, kSharedBytes = kSquaresAt + (has_few_rows(n8) ? kScaleWarps * kRowSquaresBytes : 0);
  static_assert(kStages * 16 <= static_cast<int>(kScalesAt), "a counter of full stages and one of empty ones each");
};

// Passes of a tile's rows of the first outputs, then of the next: neighbours read the same weights. A cluster has neighbouring outputs of one pass.
template <int groups, bool is_shared>
struct GemmTiles {
  static constexpr int kWarps = groups * kGroupWarps;
  static constexpr int kNeighbours = is_shared ? 1 : kClusterBlocks;  // blocks of a cluster, with a tile's outputs each
  int passes, tiles, runs;
  bool is_pair;
  int parts;  // blocks that share a tile

  QSPEC_HOST_DEVICE GemmTiles(const LinearSpec& spec, int rows, int tile_rows, int blocks_a_tile)
      : passes((rows + tile_rows - 1) / tile_rows), runs(num_runs(spec.weight.k_tiles)), is_pair(spec.epilogue == Epilogue::kSilu), parts(blocks_a_tile) {
    const int items = kNeighbours * block_items();
    tiles = (spec.num_items + items - 1) / items * passes;
  }
  QSPEC_HOST_DEVICE int block_items() const { return is_pair ? kWarps / 2 : kWarps; }
  QSPEC_DEVICE int first() const { return block_index() / (is_shared ? parts : kNeighbours); }
  QSPEC_DEVICE int step() const { return grid_blocks() / (is_shared ? parts : kNeighbours); }
  // Of its k, the block's first run; and how far it is from a run's successor, when that begins a slice, to the block's next.
  QSPEC_DEVICE int first_run() const { return is_shared ? block_index() % parts * kSliceRuns : 0; }
  QSPEC_DEVICE int skipped_runs() const { return (parts - 1) * kSliceRuns; }
  QSPEC_DEVICE bool has_last_slice() const { return !is_shared || (runs - 1) / kSliceRuns % parts == block_index() % parts; }
  QSPEC_DEVICE int pass(int tile) const { return tile % passes; }
  // A warp's item, maybe past the last, and its row-tile.
  QSPEC_DEVICE int item(int tile, int rank, int warp) const {
    return (tile / passes * kNeighbours + rank) * block_items() + (is_pair ? warp / kGroupWarps * kUpWarp + warp % kUpWarp : warp);
  }
  QSPEC_DEVICE bool is_up(int warp) const { return is_pair && warp % kGroupWarps >= kUpWarp; }
  QSPEC_DEVICE int row_tile(const LinearSpec& spec, int item, int warp) const {
    const int there = item < spec.num_items ? item : spec.num_items - 1;
    return is_up(warp) ? there + spec.num_items : there;
  }
};

// A run of a tile; walks all runs of the block's tiles.
template <int groups, bool is_shared>
struct GemmCursor {
  using Tiles = GemmTiles<groups, is_shared>;
  int tile, run;
  QSPEC_DEVICE static GemmCursor first(const Tiles& tiles) { return {tiles.first(), tiles.first_run()}; }
  // True when another tile begins.
  QSPEC_DEVICE bool advance(const Tiles& tiles) {
    ++run;
    if (is_shared && run % kSliceRuns == 0) run += tiles.skipped_runs();
    if (run < tiles.runs) return false;
    run = tiles.first_run(), tile += tiles.step();
    return true;
  }
  QSPEC_DEVICE bool is_done(const Tiles& tiles) const { return tile >= tiles.tiles; }
};

// ---- Activations --------------------------------------------------------------------------------------------------------------------------

template <typename Tile>
struct GemmInput {
  const uint8_t* data;
  int tile_bytes, last_tile;

  QSPEC_DEVICE GemmInput(const ClusterGemmParams& params)
      : data(params.phase.x.data), tile_bytes(x_tile_bytes(params.blocks)), last_tile(params.phase.linear.weight.k_tiles - 1) {}
  // Of tile `i` of a unit. Behind the last tile of k it is that again: to be multiplied by zeros, or added to nothing.
  QSPEC_DEVICE const uint8_t* source(int pass, int run, int unit, int i) const {
    const int tile = run * kRunTiles + unit * kGemmUnitTiles + i;
    return data + pass * Tile::kTileBytes + static_cast<int64_t>(tile < last_tile ? tile : last_tile) * tile_bytes;
  }
};

// Which stage, and the parity of the round that it is in.
template <typename Tile>
struct GemmStage {
  uint32_t index = 0, parity = 0;
  QSPEC_DEVICE uint32_t place() const { return Tile::kStagesAt + index * Tile::kStageBytes; }
  QSPEC_DEVICE uint32_t full_at() const { return index * 16; }
  QSPEC_DEVICE uint32_t empty_at() const { return index * 16 + 8; }
  QSPEC_DEVICE void advance() {
    if (++index == Tile::kStages) index = 0, parity ^= 1;
  }
};

#if defined(QSPEC_HAS_WGMMA)
// One thread: fills stages for all tiles of the block.
template <typename Tile, int groups, bool is_shared>
QSPEC_DEVICE void bring_activations(const ClusterGemmParams& params, const GemmTiles<groups, is_shared>& tiles) {
  constexpr int kBlocks = GemmTiles<groups, is_shared>::kNeighbours;
  constexpr uint32_t kBytes = Tile::kTileBytes, kPart = kBytes / kBlocks, kAll = (1u << kBlocks) - 1;
  const GemmInput<Tile> input(params);
  const uint32_t part = gemm_cluster_rank() * kPart;
  GemmStage<Tile> stage;
  const auto bring = [&](int pass, int run, int unit) {
    wait_for_counter(stage.empty_at(), stage.parity ^ 1);
    expect_bytes(stage.full_at(), Tile::kStageBytes);
    QSPEC_UNROLL
    for (int i = 0; i < kGemmUnitTiles; ++i) copy_bulk_to(stage.place() + i * kBytes + part, input.source(pass, run, unit, i) + part, kPart, stage.full_at(), kAll);
    stage.advance();
  };
  for (auto at = GemmCursor<groups, is_shared>::first(tiles); !at.is_done(tiles); at.advance(tiles))
    QSPEC_NO_UNROLL
    for (int unit = 0; unit < kGemmUnits; ++unit) bring(tiles.pass(at.tile), at.run, unit);
}
#endif

// ---- Weights ------------------------------------------------------------------------------------------------------------------------------

// Where the calling lane's weights of a run are; walks the block's runs.
template <GemmMode mode, int groups, bool is_shared>
struct GemmWeightRuns {
  using Tiles = GemmTiles<groups, is_shared>;
  static constexpr bool kIsDense = mode == GemmMode::kDense, kHasLow = mode == GemmMode::kHiLo;
  static constexpr int kPieceBytes = full_piece_bytes(kGemmGroupSize), kRunBytes = kIsDense ? kRunTiles * kDenseTileBytes : kRunTiles / kPieceTiles * kPieceBytes;

  GemmCursor<groups, is_shared> at;
  RunPlace place;

  QSPEC_DEVICE void begin(const LinearSpec& spec, const Tiles& tiles, int rank, int warp) {
    at = GemmCursor<groups, is_shared>::first(tiles);
    if (!at.is_done(tiles)) find(spec, tiles, rank, warp);
  }
  // At the end the place stays.
  QSPEC_DEVICE void advance(const LinearSpec& spec, const Tiles& tiles, int rank, int warp) {
    const int before = at.run;
    if (at.advance(tiles)) {
      if (!at.is_done(tiles)) find(spec, tiles, rank, warp);
      return;
    }
    move(is_shared ? at.run - before : 1);
  }

 private:
  QSPEC_DEVICE void move(int runs) {
    place.high += runs * kRunBytes;
    if (kHasLow) place.low += runs * kRunTiles * kTileBytes;
  }
  QSPEC_DEVICE void find(const LinearSpec& spec, const Tiles& tiles, int rank, int warp) {
    const DeviceWeight& w = spec.weight;
    const int lane = lane_index();
    const int64_t row_tile = tiles.row_tile(spec, tiles.item(at.tile, rank, warp), warp);
    if (kIsDense) place.high = w.dense + row_tile * w.k_tiles * kDenseTileBytes + lane * 16;
    else place.high = w.hi + row_tile * hi_row_tile_bytes(w.k, w.k_tiles, kGemmGroupSize) + lane * 16;
    if (kHasLow) place.low = w.lo + row_tile * w.k_tiles * kTileBytes + lane * 16;
    if (is_shared) move(at.run);
  }
};

// A warp's ring of units; each lane copies what it will unpack.
template <GemmMode mode, int n8, int groups, bool is_shared>
struct GemmRing {
  using Tile = GemmTile<mode, n8, groups>;
  using Tiles = GemmTiles<groups, is_shared>;
  using Runs = GemmWeightRuns<mode, groups, is_shared>;
  static constexpr bool kHasLow = mode == GemmMode::kHiLo;
  static constexpr int kUnits = gemm_ring_units(mode), kUnitBytes = gemm_unit_bytes(mode), kCodeBytes = kGemmUnitTiles * kTileBytes, kScalesAt = (kHasLow ? 2 : 1) * kCodeBytes;
  using Unit = WeightChunk<mode, 2, kGemmUnitTiles>;

  Runs next;                  // the run of the unit that is copied next
  SharedPlace codes, scales;  // of this lane's part of the first slot

  QSPEC_DEVICE void begin(const LinearSpec& spec, const Tiles& tiles, int rank, int warp) {
    next.begin(spec, tiles, rank, warp);
    const uint32_t ring = Tile::kRingAt + warp * kUnits * kUnitBytes;
    codes = shared_place(ring + lane_index() * 16), scales = shared_place(ring + kScalesAt + lane_index() * 4);
    QSPEC_UNROLL
    for (int unit = 0; unit < kUnits; ++unit) fetch(spec, tiles, unit);
  }
  QSPEC_DEVICE Unit read(int unit) const {
    Unit to;
    wait_async<kUnits - 1>();
    const uint32_t slot = unit % kUnits * kUnitBytes;
    QSPEC_UNROLL
    for (int i = 0; i < kGemmUnitTiles; ++i) {
      to.high[i] = shared_load_16(codes + (slot + i * kTileBytes));
      if (kHasLow) to.low[i] = shared_load_16(codes + (slot + kCodeBytes + i * kTileBytes));
    }
    to.scales[0] = shared_load_4(scales + slot);
    return to;
  }
  // When a unit has been read: one that comes later, into its slot.
  QSPEC_DEVICE void replace(const LinearSpec& spec, const Tiles& tiles, int rank, int warp, int unit) {
    const int later = (unit + kUnits) % kGemmUnits;
    if (later == 0) next.advance(spec, tiles, rank, warp);
    fetch(spec, tiles, later);
  }

 private:
  QSPEC_DEVICE void fetch(const LinearSpec& spec, const Tiles& tiles, int unit) const {
    if (!next.at.is_done(tiles)) copy(spec, unit);
    commit_async();
  }
  // Behind a piece's codes, of which the last may have fewer, are its scales.
  QSPEC_DEVICE void copy(const LinearSpec& spec, int unit) const {
    constexpr int kPieceUnits = kPieceTiles / kGemmUnitTiles;
    const int piece = unit / kPieceUnits, half = unit % kPieceUnits;
    const uint32_t slot = unit % kUnits * kUnitBytes;
    const uint8_t* high = next.place.high + piece * Runs::kPieceBytes;
    QSPEC_UNROLL
    for (int i = 0; i < kGemmUnitTiles; ++i) {
      copy_async<16>(codes + (slot + i * kTileBytes), high + half * kCodeBytes + i * kTileBytes);
      if (kHasLow) copy_async<16>(codes + (slot + kCodeBytes + i * kTileBytes), next.place.low + unit * kCodeBytes + i * kTileBytes);
    }
    const int rest = spec.weight.k_tiles - next.at.run * kRunTiles - piece * kPieceTiles;
    copy_async<4>(scales + slot, high + (rest < kPieceTiles ? rest : kPieceTiles) * kTileBytes + half * kScaleBytes - lane_index() * 16 + lane_index() / 4 * 4);
  }
};

// The same of dense weights, tile by tile.
template <typename Tile, int groups, bool is_shared>
struct DenseRing {
  using Tiles = GemmTiles<groups, is_shared>;
  using Held = WeightChunk<GemmMode::kDense, 0, 1>;
  static constexpr int kTiles = Tile::kRingTiles;

  GemmWeightRuns<GemmMode::kDense, groups, is_shared> next;  // the run of the tile that is copied next
  SharedPlace place;                                         // of this lane's part of the first

  QSPEC_DEVICE void begin(const LinearSpec& spec, const Tiles& tiles, int rank, int warp) {
    next.begin(spec, tiles, rank, warp);
    place = shared_place(Tile::kRingAt + warp * Tile::kRingBytes + lane_index() * 16);
    QSPEC_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) fetch(spec, tiles, tile);
  }
  // A tile of the run; one that comes later is copied to its place.
  QSPEC_DEVICE void take(const LinearSpec& spec, const Tiles& tiles, int rank, int warp, int tile, Held& to) {
    wait_async<kTiles - 1>();
    QSPEC_UNROLL
    for (int i = 0; i < Held::kLoads; ++i) to.high[i] = shared_load_16(place + (tile % kTiles * kDenseTileBytes + i * kWarp * 16));
    const int later = (tile + kTiles) % kRunTiles;
    if (later == 0) next.advance(spec, tiles, rank, warp);
    fetch(spec, tiles, later);
  }

 private:
  // Behind the last tile of k, zeros.
  QSPEC_DEVICE void fetch(const LinearSpec& spec, const Tiles& tiles, int tile) const {
    const bool is_there = next.at.run * kRunTiles + tile < spec.weight.k_tiles;
    QSPEC_UNROLL
    for (int i = 0; i < Held::kLoads; ++i)
      if (!next.at.is_done(tiles)) copy_async_or_zero<16>(place + (tile % kTiles * kDenseTileBytes + i * kWarp * 16), next.place.high + tile * kDenseTileBytes + i * kWarp * 16, is_there);
    commit_async();
  }
};

// ---- The product --------------------------------------------------------------------------------------------------------------------------

template <GemmMode mode, int n8, int groups, bool is_shared>
struct ClusterGemm {
  using Tile = GemmTile<mode, n8, groups>;
  using Tiles = GemmTiles<groups, is_shared>;
  static constexpr bool kIsDense = mode == GemmMode::kDense, kTakesTurns = groups == kGemmGroups;
  static constexpr int kTogether = 4;    // row blocks whose sums are loaded together
  using Fragments = uint32_t[2][2][4];   // of a tile
  using Ring = GemmRing<kIsDense ? GemmMode::kHi : mode, n8, groups, is_shared>;
  using Dense = DenseRing<Tile, groups, is_shared>;

  const ClusterGemmParams& params;
  const LinearSpec& spec;
  const Tiles& tiles;
  int rank, warp, thread;
  GemmCursor<groups, is_shared> now;
  GemmStage<Tile> stage;
  int parity = 0;        // of the tile: which rows' scales
  Accumulator<n8> sums;  // of the run
  Accumulator<Tile::kHasSlices ? n8 : 1> slice;
  Ring ring;
  typename Ring::Unit weights;             // the unit that is multiplied next
  Dense dense;
  typename Dense::Held dense_tiles[2];  // the one that is multiplied, and the next

  QSPEC_DEVICE ClusterGemm(const ClusterGemmParams& of, const Tiles& all) : params(of), spec(of.phase.linear), tiles(all), rank(is_shared ? 0 : gemm_cluster_rank()), warp(shuffle_from(thread_index() / kWarp, 0)), thread(thread_index()) {}

  QSPEC_DEVICE NestedRadix radix() const { return NestedRadix(spec.weight.radix); }

  // ---- Stages ----

#if defined(QSPEC_HAS_WGMMA)
  QSPEC_DEVICE void wait_for_stage(int) const { wait_for_counter(stage.full_at(), stage.parity); }
  QSPEC_DEVICE void release(const GemmStage<Tile>& of) const {
    sync_warp();
    if (lane_index() < Tiles::kNeighbours) arrive_at_block(of.empty_at(), lane_index());
  }
#else
  QSPEC_DEVICE void wait_for_stage(int unit) const {
    const GemmInput<Tile> input(params);
    named_barrier(kBlockBarrier, Tile::kMultipliers);
    for (int i = thread * 16; i < Tile::kStageBytes; i += Tile::kMultipliers * 16)
      copy_async<16>(stage.place() + i, input.source(tiles.pass(now.tile), now.run, unit, i / Tile::kTileBytes) + i % Tile::kTileBytes);
    commit_async(), wait_async<0>();
    named_barrier(kBlockBarrier, Tile::kMultipliers);
  }
  QSPEC_DEVICE void release(const GemmStage<Tile>&) const {}
#endif

  // ---- Turns: a warpgroup's products of a unit go before the other's, or both would end together, and nothing be multiplied while both add and unpack ----

  static constexpr int kTurnBarrier = kTeamBarrier + 2 * groups;  // + group
  QSPEC_DEVICE void begin_turns() const {
    if (kTakesTurns && warp / kGroupWarps == 1) pass_turn();
  }
  QSPEC_DEVICE void wait_for_turn() const {
#if defined(QSPEC_HAS_WGMMA)
    if (kTakesTurns) group_barrier(kTurnBarrier + warp / kGroupWarps, Tile::kMultipliers);
#endif
  }
  QSPEC_DEVICE void pass_turn() const {
#if defined(QSPEC_HAS_WGMMA)
    if (kTakesTurns) asm volatile("bar.arrive %0, %1;" ::"r"(kTurnBarrier + 1 - warp / kGroupWarps), "r"(Tile::kMultipliers) : "memory");
#endif
  }

  // ---- Codes: units are groups ----

  // Of tile `i` of the unit that was read.
  QSPEC_DEVICE void unpack(Fragments& a, int i) const {
    QSPEC_UNROLL
    for (int half = 0; half < 2; ++half) weights.unpack(a[half], 2 * i + half, radix());
  }
  template <bool is_first>
  QSPEC_DEVICE static void multiply(Accumulator<n8>& d, const Fragments& a, const WideInput& x, int i) {
    begin_wide();
    multiply_wide<is_first>(d.value, a[0], x, wide_half_at<n8>(2 * i));
    multiply_wide<false>(d.value, a[1], x, wide_half_at<n8>(2 * i + 1));
    end_wide();
  }
  // Reads a unit of the run, and asks for one that comes later.
  QSPEC_DEVICE void read(int unit) {
    weights = ring.read(unit);
    ring.replace(spec, tiles, rank, warp, unit);
  }
  // What lies behind the last tile of k is multiplied as well, and added to nothing.
  QSPEC_DEVICE void multiply_run() {
    const int left = spec.weight.k_tiles - now.run * kRunTiles;
    QSPEC_UNROLL
    for (int unit = 0; unit < kGemmUnits; ++unit) {
      if constexpr (!kTakesTurns) read(unit);
      const uint32_t scale = weights.scales[0];
      Accumulator<n8> group;
      if constexpr (kTakesTurns) multiply_in_turn(group, unit);
      else multiply_by_halves(group, unit);
      release(stage);
      stage.advance();
      if (unit == 0 || unit * kGemmUnitTiles < left) add_group(sums, group, scale);
    }
  }
  QSPEC_DEVICE void multiply_in_turn(Accumulator<n8>& group, int unit) {
    wait_for_stage(unit);
    const WideInput x = WideInput(stage.place()).uniform();
    Fragments a[kGemmUnitTiles];
    unpack(a[0], 0);
    wait_for_turn();
    multiply<true>(group, a[0], x, 0);
    unpack(a[1], 1);
    multiply<false>(group, a[1], x, 1);
    pass_turn();
    read((unit + 1) % kGemmUnits);
    wait_wide_sums(group.value);
  }
  // Four warpgroups cover each other, and have half of the registers each.
  QSPEC_DEVICE void multiply_by_halves(Accumulator<n8>& group, int unit) {
    constexpr int kHalves = 2 * kGemmUnitTiles;
    uint32_t a[2][2][4];
    weights.unpack(a[0], 0, radix());
    wait_for_stage(unit);
    const WideInput x = WideInput(stage.place()).uniform();
    QSPEC_UNROLL
    for (int half = 0; half < kHalves; ++half) {
      begin_wide();
      if (half == 0) multiply_wide<true>(group.value, a[0], x, wide_half_at<n8>(half));
      else multiply_wide<false>(group.value, a[half % 2], x, wide_half_at<n8>(half));
      end_wide();
      if (half + 1 == kHalves) break;
      if (half > 0) wait_wide<1>();
      weights.unpack(a[(half + 1) % 2], half + 1, radix());
    }
    wait_wide_sums(group.value);
  }
  QSPEC_DEVICE void begin_codes() {
    begin_turns();
    ring.begin(spec, tiles, rank, warp);
    if (kTakesTurns) read(0);
  }

  // ---- Dense weights, fragments already: a tile is read while the one before it is multiplied ----

  QSPEC_DEVICE void take_dense(int tile) { dense.take(spec, tiles, rank, warp, tile, dense_tiles[tile % 2]); }
  QSPEC_DEVICE void multiply_dense_run() {
    GemmStage<Tile> before;
    QSPEC_UNROLL
    for (int tile = 0; tile < kRunTiles; ++tile) {
      const int unit = tile / kGemmUnitTiles, within = tile % kGemmUnitTiles;
      Fragments a;
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) dense_tiles[tile % 2].unpack(a[i], i, radix());
      if (within == 0) wait_for_stage(unit);
      multiply<false>(sums, a, WideInput(stage.place()).uniform(), within);
      wait_wide<1>();
      take_dense((tile + 1) % kRunTiles);
      if (within == 0 && unit > 0) release(before);
      if (within == kGemmUnitTiles - 1) before = stage, stage.advance();
    }
    wait_wide_sums(sums.value);
    release(before);
  }
  QSPEC_DEVICE void begin_dense() {
    dense.begin(spec, tiles, rank, warp);
    take_dense(0);
  }

  // ---- Sums ----

  QSPEC_DEVICE SharedPlace slice_at(int c) const { return shared_place(Tile::kSumsAt + (c * Tile::kMultipliers + thread) * 16); }
  QSPEC_DEVICE float4* total_at(int c) const { return reinterpret_cast<float4*>(params.totals + static_cast<int64_t>(is_shared ? now.tile : block_index()) * Tile::kTotalBytes) + c * Tile::kMultipliers + thread; }
  // sums = what was there + sums.
  template <typename Load>
  QSPEC_DEVICE void add_behind(const Load& load) {
    QSPEC_UNROLL
    for (int first = 0; first < n8; first += kTogether) {
      float4 v[kTogether];
      QSPEC_UNROLL
      for (int c = 0; c < kTogether; ++c) v[c] = load(first + c);
      QSPEC_UNROLL
      for (int c = 0; c < kTogether; ++c) {
        float(&s)[4] = sums.value[first + c];
        s[0] = v[c].x + s[0], s[1] = v[c].y + s[1], s[2] = v[c].z + s[2], s[3] = v[c].w + s[3];
      }
    }
  }
  QSPEC_DEVICE void store_sums(SharedPlace to, int c) const {
    const float(&v)[4] = sums.value[c];
    shared_store_16(to, uint4{bits_of_float(v[0]), bits_of_float(v[1]), bits_of_float(v[2]), bits_of_float(v[3])});
  }
  QSPEC_DEVICE float4 load_sums(SharedPlace at) const {
    const uint4 w = shared_load_16(at);
    return {float_of_bits(w.x), float_of_bits(w.y), float_of_bits(w.z), float_of_bits(w.w)};
  }
  QSPEC_DEVICE void add_to_slice() {
    const bool is_first = now.run % kSliceRuns == 0;
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) slice.value[c][i] = is_first ? sums.value[c][i] : slice.value[c][i] + sums.value[c][i];
  }
  // The run's sums are there: on to the slice's, the tile's, and where they go.
  QSPEC_DEVICE void end_run() {
    const bool is_last = now.run == tiles.runs - 1, ends_slice = is_last || now.run % kSliceRuns == kSliceRuns - 1;
    if constexpr (Tile::kHasSlices) {
      add_to_slice();
      if (!ends_slice) return;
      sums = slice;
    } else {
      if (now.run % kSliceRuns > 0) add_behind([&](int c) { return load_sums(slice_at(c)); });
      if (!ends_slice) {
        QSPEC_UNROLL
        for (int c = 0; c < n8; ++c) store_sums(slice_at(c), c);
        return;
      }
    }
    if (now.run >= kSliceRuns) {
      wait_for_slices();
      add_behind([&](int c) { return load_l2(total_at(c)); });
    }
    if (is_last) return store_tile();
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c) store_l2(total_at(c), float4{sums.value[c][0], sums.value[c][1], sums.value[c][2], sums.value[c][3]});
    leave_slice();
  }
  // Blocks that share a tile add slices in order, each warp behind those that have the same outputs.
  QSPEC_DEVICE unsigned long long* turn() const { return params.turns + now.tile * Tile::kWarps + warp; }
  QSPEC_DEVICE void wait_for_slices() const {
    if constexpr (is_shared) {
      while (load_acquire(turn()) != static_cast<unsigned long long>(now.run / kSliceRuns)) pause();
      sync_warp();
      if (now.run == tiles.runs - 1 && lane_index() == 0) *turn() = 0;  // for the next launch
    }
  }
  QSPEC_DEVICE void leave_slice() const {
    if constexpr (is_shared) {
      sync_warp();
      if (lane_index() == 0) add_release(turn(), 1);
    }
  }

  // ---- What becomes of a tile ----

  // Four neighbouring outputs of a row, whose sums times `scale` and plus `bias` are the product.
  QSPEC_DEVICE static void finish(float (&v)[4], float scale, const float4& bias) {
    v[0] = v[0] * scale + bias.x, v[1] = v[1] * scale + bias.y, v[2] = v[2] * scale + bias.z, v[3] = v[3] * scale + bias.w;
  }
  // Of four outputs from `column` on; where there is none, what is added without a trace.
  QSPEC_DEVICE float4 bias_of(int column) const {
    float v[4];
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e) v[e] = spec.bias && column + e < spec.weight.n ? load_constant(spec.bias + column + e) : -0.0f;
    return {v[0], v[1], v[2], v[3]};
  }
  // A warpgroup, behind a barrier with those that found what its rows are multiplied with.
  QSPEC_DEVICE void store_tile() {
    if (tiles.is_pair) leave_half();
    group_barrier(kScalesBarrier + warp / kGroupWarps, kScalesThreads);
    const int first = tiles.pass(now.tile) * Tile::kRows, rows = load_constant(&params.batch->rows) - first, item = tiles.item(now.tile, rank, warp);
    const FourOfLane place = four_of_lane();  // of a row block
    const SharedPlace row_scales = shared_place(Tile::kScalesAt + (parity * Tile::kRows + place.row) * 4);
    parity ^= 1;
    if (tiles.is_pair) store_pairs(item, first, rows, place.row, item * kTileN + place.within, row_scales);
    else if (item < spec.num_items && has_few_rows(n8) && spec.next_norm) store_normed(first, rows, place, item * kTileN, row_scales);
    else if (item < spec.num_items) store_outputs(first, rows, place.row, item * kTileN + place.within, row_scales);
  }
  // Rows `row` of every row block; `rows`: from the tile's first on.
  QSPEC_DEVICE void store_outputs(int first, int rows, int row, int column, SharedPlace row_scales) {
    const int64_t stride = spec.output_stride;
    float* const place = spec.output + (first + row) * stride + spec.output_column + column;  // of the first row block
    const float4 bias = bias_of(column);
    const bool adds = spec.epilogue == Epilogue::kAdd, is_whole = spec.weight.n - column >= 4 && reinterpret_cast<uintptr_t>(place) % sizeof(float4) == 0 && stride % 4 == 0;
    QSPEC_UNROLL
    for (int block = 0; block < n8; block += kTogether) {
      float4 before[kTogether];  // all loads wait together
      QSPEC_UNROLL
      for (int i = 0; i < kTogether; ++i)
        if (adds && is_whole && 8 * (block + i) + row < rows) before[i] = load_l2(reinterpret_cast<const float4*>(place + 8 * (block + i) * stride));
      QSPEC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int in_tile = 8 * (block + i);
        float(&v)[4] = sums.value[block + i];
        transpose_fours(v);
        if (in_tile + row >= rows) continue;
        finish(v, shared_load_float(row_scales + in_tile * 4), bias);
        float* const to = place + in_tile * stride;
        const float4& b = before[i];
        if (!is_whole) store_some(to, column, adds, v);
        else if (adds) *reinterpret_cast<float4*>(to) = {add_flushed(b.x, v[0]), add_flushed(b.y, v[1]), add_flushed(b.z, v[2]), add_flushed(b.w, v[3])};
        else *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]};
      }
    }
  }
  // What adds to the residual, and what the norm behind it reads: the sum times its weights, and sums of squares, for its factor. As store_residual().
  QSPEC_DEVICE void store_normed(int first, int rows, const FourOfLane& of, int first_column, SharedPlace row_scales) {
    const int column = first_column + of.within, each = row_squares(spec.weight.n);
    float* const place = spec.output + (first + of.row) * spec.output_stride + column;
    uint8_t* const x = spec.out_x + x_offset(params.blocks, first + of.row, column);
    float* const squares = spec.next_squares + static_cast<int64_t>(first + of.row) * each + first_column / kTileN;
    const float4 bias = bias_of(column), weights = load_constant(reinterpret_cast<const float4*>(spec.next_norm + column));
    QSPEC_UNROLL
    for (int block = 0; block < n8; block += kTogether) {
      float4 before[kTogether];  // all loads wait together
      QSPEC_UNROLL
      for (int i = 0; i < kTogether; ++i)
        before[i] = 8 * (block + i) + of.row < rows ? load_l2(reinterpret_cast<const float4*>(place + 8 * (block + i) * spec.output_stride)) : float4{0, 0, 0, 0};
      QSPEC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int in_tile = 8 * (block + i);
        float(&v)[4] = sums.value[block + i];
        transpose_fours(v);
        finish(v, shared_load_float(row_scales + in_tile * 4), bias);
        const float4& b = before[i];
        const float sum[4] = {add_flushed(b.x, v[0]), add_flushed(b.y, v[1]), add_flushed(b.z, v[2]), add_flushed(b.w, v[3])};
        const float of_tile = tile_squares(four_squares(sum), 16, 8);  // see four_of_lane()
        if (in_tile + of.row >= rows) continue;
        *reinterpret_cast<float4*>(place + in_tile * spec.output_stride) = {sum[0], sum[1], sum[2], sum[3]};
        uint8_t* const to = x + (block + i) * kWideBlockBytes;
        *reinterpret_cast<uint32_t*>(to) = pack_bf16(sum[0] * weights.x, sum[1] * weights.y);
        *reinterpret_cast<uint32_t*>(to + kWideWordBytes) = pack_bf16(sum[2] * weights.z, sum[3] * weights.w);
        if (of.within == 0) squares[in_tile * each] = of_tile;
      }
    }
  }
  QSPEC_DEVICE void store_some(float* to, int column, bool adds, const float (&v)[4]) const {
    QSPEC_UNROLL
    for (int e = 0; e < 4; ++e)
      if (column + e < spec.weight.n) to[e] = adds ? add_flushed(to[e], v[e]) : v[e];
  }
  // A gate's warp and its up's have the same places: each gives the other half of its row blocks, and stores silu(gate) · up of the rest.
  static constexpr int kHalf = n8 / 2;
  QSPEC_DEVICE void leave_half() {
    const bool is_up = tiles.is_up(warp);
    QSPEC_UNROLL
    for (int c = 0; c < n8; ++c)
      if ((c < kHalf) == is_up) store_sums(slice_at(c % kHalf), c);
  }
  QSPEC_DEVICE void store_pairs(int item, int first, int rows, int row, int column, SharedPlace row_scales) {
    const bool is_up = tiles.is_up(warp);
    const int other = (is_up ? -kUpWarp : kUpWarp) * kWarp * 16, first_block = is_up ? kHalf : 0, width = spec.weight.n / 2;
    const float4 biases[2] = {bias_of(column), bias_of(width + column)};
    uint8_t* const x = spec.out_x + x_offset(params.blocks, first + 8 * first_block + row, column);
    float* const values = spec.output + static_cast<int64_t>(first + 8 * first_block + row) * width + column;
    const int left = item < spec.num_items ? rows - 8 * first_block - row : 0;
    QSPEC_UNROLL
    for (int c = 0; c < kHalf; ++c) {
      const float4 theirs = load_sums(slice_at(c) + static_cast<uint32_t>(other));
      const float of_other[4] = {theirs.x, theirs.y, theirs.z, theirs.w};
      float gate[4], up[4];
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float own = is_up ? sums.value[c + kHalf][i] : sums.value[c][i];
        gate[i] = is_up ? of_other[i] : own, up[i] = is_up ? own : of_other[i];
      }
      transpose_fours(gate), transpose_fours(up);
      if (8 * c >= left) continue;
      const float scale = shared_load_float(row_scales + 8 * (first_block + c) * 4);
      finish(gate, scale, biases[0]), finish(up, scale, biases[1]);
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) gate[e] = silu(gate[e]) * up[e];
      if (spec.out_x == nullptr) {
        *reinterpret_cast<float4*>(values + static_cast<int64_t>(8 * c) * width) = {gate[0], gate[1], gate[2], gate[3]};
        continue;
      }
      uint8_t* const to = x + c * kWideBlockBytes;
      *reinterpret_cast<uint32_t*>(to) = pack_bf16(gate[0], gate[1]);
      *reinterpret_cast<uint32_t*>(to + kWideWordBytes) = pack_bf16(gate[2], gate[3]);
    }
    group_barrier(kTeamBarrier + warp / kGroupWarps, kGroupWarps * kWarp);  // before slices come to their place
  }

  QSPEC_DEVICE void run() {
    now = GemmCursor<groups, is_shared>::first(tiles);
    if (now.is_done(tiles)) return;
    if constexpr (kIsDense) begin_dense();
    else begin_codes();
    wait_for_previous_kernel();  // weights don't
    QSPEC_NO_UNROLL
    for (; !now.is_done(tiles); now.advance(tiles)) {
      sums.clear();
      if constexpr (kIsDense) multiply_dense_run();
      else multiply_run();
      end_run();
    }
  }
  static constexpr int kScalesBarrier = kTeamBarrier + groups;  // + group
  static constexpr int kScalesThreads = (kGroupWarps + Tile::kScaleWarps) * kWarp;
};

// ---- What sums of a tile's rows are multiplied with, by three warps, for each tile of the block: 1 / rms of rows whose norm another phase left to divide by, and what
// codes are multiples of (as finish_sums()) -----------------------------------------------------------------------------------------------------------

template <GemmMode mode>
QSPEC_DEVICE float scale_of(const LinearSpec& spec, float factor) {
  return (mode == GemmMode::kHiLo ? factor / static_cast<float>(spec.weight.radix) : factor) * (mode == GemmMode::kDense ? 1.0f : kCodesAUnit);
}
template <typename Gemm, int groups>
QSPEC_DEVICE void give_scales() {
  QSPEC_UNROLL
  for (int group = 0; group < groups; ++group) group_barrier(Gemm::kScalesBarrier + group, Gemm::kScalesThreads);
}

// From squares of runs.
template <GemmMode mode, int n8, int groups, bool is_shared>
QSPEC_DEVICE void find_scales(const ClusterGemmParams& params, const GemmTiles<groups, is_shared>& tiles, int warp) {
  using Gemm = ClusterGemm<mode, n8, groups, is_shared>;
  if (!tiles.has_last_slice()) return;
  constexpr int kAtOnce = groups == kGemmGroups ? 8 : 4, kRows = Gemm::Tile::kRows, warps = Gemm::Tile::kScaleWarps;
  const int lane = lane_index(), runs = num_row_runs(params.phase.source), rows = load_constant(&params.batch->rows);
  const float* squares = params.phase.x.squares;
  int parity = 0;
  for (int tile = tiles.first(); tile < tiles.tiles; tile += tiles.step(), parity ^= 1) {
    const int first_row = tiles.pass(tile) * kRows;
    QSPEC_NO_UNROLL
    for (int first = warp; first < kRows; first += kAtOnce * warps) {
      float sums[kAtOnce] = {};  // of the lane's first run; few rows have more than 32
      QSPEC_UNROLL
      for (int r = 0; r < kAtOnce; ++r) {
        const int row = first + r * warps;
        if (squares && row < kRows && first_row + row < rows && lane < runs) sums[r] = load_l2(squares + (first_row + row) * runs + lane);
      }
      QSPEC_UNROLL
      for (int r = 0; r < kAtOnce; ++r) {
        const int row = first + r * warps;
        if (row >= kRows) break;
        float sum = sums[r];
        for (int run = lane + kWarp; squares && first_row + row < rows && run < runs; run += kWarp) sum += load_l2(squares + (first_row + row) * runs + run);
        const float scale = scale_of<mode>(params.phase.linear, squares ? factor_of(params.phase.source, sum) : 1.0f);
        if (lane == 0) shared_store_float(Gemm::Tile::kScalesAt + (parity * kRows + row) * 4, scale);
      }
    }
    give_scales<Gemm, groups>();
  }
}

// From squares of tiles, of a launch of up to 32 rows: copied to shared memory first, eight lanes a row.
template <GemmMode mode, int n8, int groups, bool is_shared>
QSPEC_DEVICE void find_scales_of_few(const ClusterGemmParams& params, const GemmTiles<groups, is_shared>& tiles, int warp) {
  using Gemm = ClusterGemm<mode, n8, groups, is_shared>;
  if (!tiles.has_last_slice()) return;
  constexpr int kRowLanes = 8, warps = Gemm::Tile::kScaleWarps;
  const RowsSpec& source = params.phase.source;
  const int lane = lane_index(), rows = load_constant(&params.batch->rows), each = row_squares(source.width), stride = each * 4 + kRowSquaresPad, at_once = kRowSquaresBytes / stride;
  const SharedPlace own = shared_place(Gemm::Tile::kSquaresAt + warp * kRowSquaresBytes);
  const float* squares = params.phase.x.squares;
  int parity = 0;
  for (int tile = tiles.first(); tile < tiles.tiles; tile += tiles.step(), parity ^= 1) {
    QSPEC_NO_UNROLL
    for (int first = warp; first < rows; first += at_once * warps) {
      QSPEC_NO_UNROLL
      for (int r = 0, row = first; squares && r < at_once && row < rows; ++r, row += warps)
        for (int i = lane * 4; i < each; i += kWarp * 4) copy_async<16>(own + (r * stride + i * 4), squares + row * each + i);
      commit_async(), wait_async<0>();
      sync_warp();
      QSPEC_NO_UNROLL
      for (int begin = 0; begin < at_once && first + begin * warps < rows; begin += kWarp / kRowLanes) {
        const int r = begin + lane / kRowLanes, row = first + r * warps;
        const float scale = scale_of<mode>(params.phase.linear, squares ? factor_of_tiles(source, own + (r < at_once ? r : at_once - 1) * stride) : 1.0f);
        if (r < at_once && row < rows && lane % kRowLanes == 0) shared_store_float(Gemm::Tile::kScalesAt + (parity * Gemm::Tile::kRows + row) * 4, scale);
      }
      sync_warp();  // the next rows' come to their place
    }
    give_scales<Gemm, groups>();
  }
}
template <GemmMode mode, int n8, int groups, bool is_shared>
QSPEC_DEVICE void find_any_scales(const ClusterGemmParams& params, const GemmTiles<groups, is_shared>& tiles, int warp) {
  if constexpr (has_few_rows(n8))
    if (has_tile_squares(params.blocks)) return find_scales_of_few<mode, n8>(params, tiles, warp);
  find_scales<mode, n8>(params, tiles, warp);
}

// Of chips that have no such launches (session/step_plan.cpp), nothing.
template <GemmMode mode, int n8, int groups, bool is_shared>
QSPEC_KERNEL((GemmTile<mode, n8, groups>::kThreads), 1) cluster_gemm_kernel(const QSPEC_GRID_CONSTANT ClusterGemmParams params) {
  using Tile = GemmTile<mode, n8, groups>;
  using Tiles = GemmTiles<groups, is_shared>;
  using Gemm = ClusterGemm<mode, n8, groups, is_shared>;
#if defined(QSPEC_HAS_WGMMA)
  if (thread_index() == 0) {
    for (GemmStage<Tile> stage; stage.parity == 0; stage.advance()) begin_counter(stage.full_at(), 1), begin_counter(stage.empty_at(), Tile::kWarps * Tiles::kNeighbours);
    publish_counters();
  }
  cluster_barrier();
  let_next_kernel_begin();
  const Tiles tiles(params.phase.linear, load_constant(&params.batch->rows), Tile::kRows, params.parts);
  if (thread_index() < Tile::kMultipliers) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Tile::kRegisters));
    Gemm(params, tiles).run();
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Tile::kCopyRegisters));
    wait_for_previous_kernel();
    const int warp = thread_index() / kWarp - Tile::kWarps;
    if (warp > 0) find_any_scales<mode, n8>(params, tiles, warp - 1);
    else if (lane_index() == 0) bring_activations<Tile, groups, is_shared>(params, tiles);
  }
  cluster_barrier();  // others of the cluster may still copy to, or arrive at, a block that is done
#elif !defined(__CUDACC__)
  const Tiles tiles(params.phase.linear, load_constant(&params.batch->rows), Tile::kRows, params.parts);
  const int warp = thread_index() / kWarp - Tile::kWarps;
  if (warp < 0) Gemm(params, tiles).run();
  else if (warp > 0) find_any_scales<mode, n8>(params, tiles, warp - 1);
#endif
}

}  // namespace qspec::cuda
