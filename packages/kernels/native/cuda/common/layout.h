// Resident layouts on CUDA: weights, activations and the order in which every product is summed.
//
// WEIGHTS. One copy, in the order of tensor-core fragments, that every mode's kernel reads.
// Weights are the A operand (16 output rows x k), activations the B operand (the rows of the batch are its 8 columns) of
// mma.m16n8k16 (bf16) and mma.m16n8k32 (u8·s8). In a warp, lane = 4·g + t: g = 0..7 owns rows g and g+8, t = 0..3 a share of k.
//
// 4-bit plane: a tile is 16 rows x 64 k = 512 bytes; lane l reads bytes 16·l .. 16·l+15 = four words, one per k16 step s:
//
//   k of nibble j (0..3) = 64·tile + 32·(s / 2) + 8·t + 4·(s % 2) + j          codes are stored + 8 (0 … 15)
//
//   bits   0-3    4-7    8-11   12-15  16-19  20-23  24-27  28-31
//   row     g     g+8     g      g+8     g     g+8     g     g+8
//   j       0      0      2       2      1      1      3      3
//
//   bf16:  (w >> 0, 4, 8, 12) & 0x000f000f are the pairs (j = 0,1 of g), (0,1 of g+8), (2,3 of g), (2,3 of g+8): registers a0..a3.
//   int8:  w & 0x0f0f0f0f is row g, (w >> 4) & 0x0f0f0f0f row g+8, bytes in the order j = 0, 2, 1, 3; two words make one k32 step.
//          Quantised activations are stored with the middle two of every four codes swapped, to match.
//
// A piece is what lies together: 4 tiles (256 k) of one row-tile, its codes (2048 B) then its scales, [256 / group][8] words: word g holds
// the bfloat16 scales of rows g (low half) and g+8 (high half). Pieces of a row-tile lie one after another, row-tiles too. The `lo` plane of a
// nested weight has the same tiles without scales. Dense bf16: a tile is 4 sub-tiles of 16 k, one a step, 512 B each: lane's 16 bytes are
// a0..a3; a piece is one tile. n is padded to 16 and k to 64 with zero weights (scale 0).
//
// ACTIVATIONS ("x-form"). The B operand in fragment order, so that a lane's 8 consecutive k are one 16-byte load:
//   bf16: [k tile][row block c][half tile][row g of the block][t] 16 B:  k = 64·tile + 32·half + 8·t + 0..7 of row 8·c + g
//   int8: the same with 8 B, codes in code_place order; scales float32 and sums int32 [group][columns].
// A block of rows holds 8, or fewer (1, 4, 5) when the batch has no more: lanes of missing rows then read others' and are ignored.
// From 25 rows on (four row blocks) a row block's half tile has its words (2 k) transposed, [w 0..3][g][t] 4 B instead of [g][t][w]: the 8x8 matrices that
// tensor cores read from shared memory for themselves (common/wide_mma.cuh).
//
// ORDER OF SUMS, a function of the weight's shape alone, so that a row's result never depends on the batch:
//   run    = 512 k: groups in order, one multiply-add a group (dense: the tensor core's own chain)
//   slice  = up to 4 runs, added in order
//   result = slices, added in order
#pragma once
#include "common/portable.h"
#include "qspec/formats.h"

namespace qspec::cuda {

constexpr int kTileN = 16;
constexpr int kTileK = 64;
constexpr int kTileBytes = 512;  // of one 4-bit plane
constexpr int kDenseTileBytes = 2048;
constexpr int kRunTiles = 8;
constexpr int kRunK = kRunTiles * kTileK;
constexpr int kPieceTiles = 4;
constexpr int kPieceK = kPieceTiles * kTileK;
constexpr int kSliceRuns = 4;
constexpr int kScaleBytes = 32;  // of one group of one row-tile
constexpr int kGroupRowBlocks = 4;  // from so many on warpgroups multiply, unless activations are integers: with fewer there are too few jobs to share out
constexpr int kWideRowBlocks = 8;
constexpr int kWideBlockBytes = 1024, kWideHalfBytes = 512, kWideStepBytes = 256, kWideWordBytes = 128;  // of a row block's tile, half tile …
constexpr int kReadSlack = 16384; // bytes behind a weight that may be read (and are ignored): kernels load without asking what is left

// Non-owning view of a resident weight; device pointers, 16-byte aligned.
struct DeviceWeight {
  WeightKind kind;  // kDenseBf16, kInt4 or kNested8
  int n, k;         // logical
  int n_tiles;      // ceil(n / 16)
  int k_tiles;      // ceil(k / 64)
  int group_size, radix, hadamard_block;
  const uint8_t* hi;     // [n_tiles][hi_row_tile_bytes]
  const uint8_t* lo;     // [n_tiles][k_tiles · 512], nested8 only
  const uint8_t* dense;  // [n_tiles][k_tiles · 2048]
};

QSPEC_HOST_DEVICE constexpr int num_runs(int k_tiles) { return (k_tiles + kRunTiles - 1) / kRunTiles; }
QSPEC_HOST_DEVICE constexpr int num_slices(int k_tiles) { return (num_runs(k_tiles) + kSliceRuns - 1) / kSliceRuns; }
// Tiles of the piece that begins at tile `first`.
QSPEC_HOST_DEVICE constexpr int piece_tiles(int k_tiles, int first) { return k_tiles - first < kPieceTiles ? k_tiles - first : kPieceTiles; }
QSPEC_HOST_DEVICE constexpr int full_piece_bytes(int group_size) { return kPieceTiles * kTileBytes + kPieceK / group_size * kScaleBytes; }
QSPEC_HOST_DEVICE constexpr int64_t hi_row_tile_bytes(int k, int k_tiles, int group_size) {
  return static_cast<int64_t>(k_tiles) * kTileBytes + static_cast<int64_t>(k / group_size) * kScaleBytes;
}

// Where, within a row-tile, the codes of tile `tile` and the scales of group `q` begin.
QSPEC_HOST_DEVICE constexpr int64_t codes_offset(int group_size, int tile) {
  return static_cast<int64_t>(tile / kPieceTiles) * full_piece_bytes(group_size) + tile % kPieceTiles * kTileBytes;
}
QSPEC_HOST_DEVICE constexpr int64_t scales_offset(int k_tiles, int group_size, int q) {
  const int piece = q * group_size / kPieceK;
  return static_cast<int64_t>(piece) * full_piece_bytes(group_size) + piece_tiles(k_tiles, piece * kPieceTiles) * kTileBytes +
         (q - piece * kPieceK / group_size) * kScaleBytes;
}

// k within its tile of nibble j in word s of lane t.
QSPEC_HOST_DEVICE constexpr int tile_k(int s, int t, int j) { return 32 * (s / 2) + 8 * t + 4 * (s % 2) + j; }
// Bit offset of (row half h = 0: g, 1: g+8; j) in a word.
QSPEC_HOST_DEVICE constexpr int nibble_bit(int h, int j) { return 4 * h + (j & 1) * 16 + (j >> 1) * 8; }
static_assert(nibble_bit(0, 1) == 16 && nibble_bit(1, 2) == 12 && nibble_bit(1, 3) == 28, "see the drawing above");
// Place of code k in a row of quantised activations: the middle two of every four are swapped.
QSPEC_HOST_DEVICE constexpr int64_t code_place(int64_t k) { return (k & 3) == 1 ? k + 1 : (k & 3) == 2 ? k - 1 : k; }

// How the rows of a launch are laid out: `blocks` of `rows` (8, or 1, 4, 5 when there is one block).
struct RowBlocks {
  int blocks, rows;
  QSPEC_HOST_DEVICE constexpr int columns() const { return blocks * rows; }
  // Of a block, the one that lane group g (0 … 7) reads.
  QSPEC_HOST_DEVICE constexpr int row_of_group(int g) const { return (rows & (rows - 1)) == 0 ? g & (rows - 1) : g < rows ? g : rows - 1; }
  QSPEC_HOST_DEVICE constexpr bool is_wide() const { return blocks >= kWideRowBlocks; }
  QSPEC_HOST_DEVICE constexpr bool is_for_groups() const { return blocks >= kGroupRowBlocks; }
};
// Where element k (even) of row r lies in its row block's half tile, if words are transposed.
QSPEC_HOST_DEVICE constexpr int wide_word_at(int r, int k) { return k % 8 / 2 * kWideWordBytes + r % 8 * 16 + k % 32 / 8 * 4; }
// Byte offset in bf16 x-form of element k (even) of row r, in a buffer whose first tile is k tile 0. The pair k, k + 1 lies together.
QSPEC_HOST_DEVICE constexpr int64_t x_offset(const RowBlocks& b, int r, int k) {
  const int64_t half = (static_cast<int64_t>(k / 64) * b.blocks + r / 8) * 2 + k % 64 / 32;
  if (b.is_for_groups()) return half * kWideHalfBytes + wide_word_at(r, k);
  return (half * b.rows + r % 8) * 64 + k % 32 * 2;
}
QSPEC_HOST_DEVICE constexpr int x_tile_bytes(const RowBlocks& b) { return b.columns() * 128; }
// The same for the codes of an integer x-form (k is a code place).
QSPEC_HOST_DEVICE constexpr int64_t code_offset(const RowBlocks& b, int r, int k) {
  return (((static_cast<int64_t>(k / 64) * b.blocks + r / 8) * 2 + k % 64 / 32) * b.rows + r % 8) * 32 + k % 32;
}
QSPEC_HOST_DEVICE constexpr int code_tile_bytes(const RowBlocks& b) { return b.columns() * 64; }

}  // namespace qspec::cuda
