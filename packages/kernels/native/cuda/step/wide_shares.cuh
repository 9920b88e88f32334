// How a wide linear is shared out. A block works on tiles of the product: a row-tile a warp times the rows of a pass, over all of k. Tiles lie
// one after another, pass by pass, so that blocks of all passes read the same weights at the same time. Each is several jobs along k, and every
// block takes as many neighbouring jobs: where its share begins or ends within a tile, blocks leave the tile's sums to the reducing phase.
#pragma once
#include "step/step_shared.cuh"

namespace qspec::cuda {

constexpr int kUpWarp = 2;  // of pairs, a warpgroup's warps have two gates and then their two ups

QSPEC_HOST_DEVICE constexpr int num_pieces(int k_tiles) { return (k_tiles + kPieceTiles - 1) / kPieceTiles; }

struct WideShares {
  int32_t is_pair;
  int32_t groups;       // of row-tiles
  int32_t jobs;         // of a tile
  int32_t group_items;  // items (row-tiles or pairs of them) of a tile
  int32_t tiles;        // groups of the first pass, of the second, …

  QSPEC_DEVICE WideShares(const LinearSpec& spec, int rows, int pass_rows)
      : is_pair(spec.epilogue == Epilogue::kSilu),
        jobs((num_runs(spec.weight.k_tiles) + spec.job_runs - 1) / spec.job_runs),
        group_items(is_pair ? kStepWarps / 2 : kStepWarps) {
    groups = (spec.num_items + group_items - 1) / group_items, tiles = groups * ((rows + pass_rows - 1) / pass_rows);
  }

  QSPEC_DEVICE int first_job(int block) const { return tiles * jobs * block / grid_blocks(); }
  QSPEC_DEVICE int block_of(int job) const { return (grid_blocks() * (job + 1) - 1) / (tiles * jobs); }
  // One block has all of it.
  QSPEC_DEVICE bool is_whole(int tile) const { return block_of(tile * jobs) == block_of(tile * jobs + jobs - 1); }
  QSPEC_DEVICE int pass(int tile) const { return tile / groups; }
  QSPEC_DEVICE int first_item(int tile) const { return tile % groups * group_items; }
  // Of a group's item: the warp that has it, or its gate.
  QSPEC_DEVICE int first_warp(int in_group) const { return is_pair ? in_group / kUpWarp * kGroupWarps + in_group % kUpWarp : in_group; }
  // A warp's item in a tile, maybe past the last, and its row-tile.
  QSPEC_DEVICE int item(int tile, int warp) const { return first_item(tile) + (is_pair ? warp / kGroupWarps * kUpWarp + warp % kUpWarp : warp); }
  QSPEC_DEVICE int row_tile(const LinearSpec& spec, int item, int warp) const { return is_pair && warp % kGroupWarps >= kUpWarp ? item + spec.num_items : item; }
};

// Walks the pieces (4 tiles of k) of a block's share.
struct PieceCursor {
  int32_t tile, piece, piece_end;

  // The share's part of a tile.
  QSPEC_DEVICE void begin_tile(const WideShares& shares, const LinearSpec& spec, int of, int job_begin, int job_end) {
    tile = of;
    const int first = tile * shares.jobs, job_pieces = spec.job_runs * (kRunTiles / kPieceTiles), all = num_pieces(spec.weight.k_tiles);
    const int end = (job_end - first) * job_pieces;
    piece = job_begin > first ? (job_begin - first) * job_pieces : 0;
    piece_end = end < all ? end : all;
  }
  // The share's first piece, if it has any.
  QSPEC_DEVICE void begin_share(const WideShares& shares, const LinearSpec& spec, int job_begin, int job_end) {
    tile = piece = piece_end = 0;
    if (job_begin < job_end) begin_tile(shares, spec, job_begin / shares.jobs, job_begin, job_end);
  }
  // On to the next piece, maybe of the next tile. Behind the share's last one, piece == piece_end.
  QSPEC_DEVICE void advance(const WideShares& shares, const LinearSpec& spec, int job_end) {
    if (++piece == piece_end && (tile + 1) * shares.jobs < job_end) begin_tile(shares, spec, tile + 1, 0, job_end);
  }
  QSPEC_DEVICE bool is_done() const { return piece >= piece_end; }
};

// What every thread needs now and then: not in registers, which products need.
struct WideState {
  WideShares shares;
  int32_t job_begin, job_end;
  PieceCursor first, input;  // of the share; to be copied next
  int32_t stage, parity;            // of the ring (WideStages), where the linear begins with it
  int32_t next_stage, next_parity;  // and where it leaves it: others may not have read the former yet

  // One thread, before the block's barrier.
  QSPEC_DEVICE void begin(const LinearSpec& spec, int rows, int pass_rows) {
    shares = WideShares(spec, rows, pass_rows);
    job_begin = shares.first_job(block_index()), job_end = shares.first_job(block_index() + 1);
    first.begin_share(shares, spec, job_begin, job_end);
    input = first;
    stage = next_stage, parity = next_parity;
  }
};
static_assert(sizeof(WideState) <= kWideStateBytes, "its place in shared memory");
QSPEC_DEVICE WideState& wide_state() { return shared_at<WideState>(kWideAt); }

}  // namespace qspec::cuda
