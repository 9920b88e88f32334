// Resident weight layout on CUDA: one copy, in the order of tensor-core fragments, that every mode's kernel reads.
//
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
//   A lane's k are 8 consecutive ones in each half tile, so its activations are 16-byte (bf16) or 8-byte (int8) loads,
//   and a group of 32, 64 or 128 always consists of whole steps.
//
// Tiles of one row-tile are consecutive along k: [n/16][k/64][512 B]. Scales: [n/16][k/group][16] bfloat16.
// Dense bf16: tile 16 x 16 = 512 bytes, lane's 16 bytes are a0..a3 with the same k order: step s of tile-of-64 is sub-tile s.
// n is padded to 16 with zero weights, k to 64 with zero weights (activations there are never read past k: see kPadK).
#pragma once
#include <cstdint>

#include "qspec/formats.h"

namespace qspec::cuda {

constexpr int kTileN = 16;
constexpr int kTileK = 64;
constexpr int kTileBytes = 512;  // of one 4-bit plane

// Non-owning view of a resident weight; device pointers, 16-byte aligned.
struct DeviceWeight {
  WeightKind kind;  // kDenseBf16, kInt4 or kNested8
  int n, k;         // logical
  int n_tiles;      // ceil(n / 16)
  int k_tiles;      // ceil(k / 64)
  int group_size, radix, hadamard_block;
  const uint4* hi;         // [n_tiles][k_tiles][32]
  const uint4* lo;         // the same, nested8 only
  const uint16_t* scales;  // [n_tiles][k / group_size][16]
  const uint4* dense;      // [n_tiles][k_tiles][4][32]
};

// k within its tile of nibble j in word s of lane t.
constexpr int tile_k(int s, int t, int j) { return 32 * (s / 2) + 8 * t + 4 * (s % 2) + j; }
// Bit offset of (row half h = 0: g, 1: g+8; j) in a word.
constexpr int nibble_bit(int h, int j) { return 4 * h + (j & 1) * 16 + (j >> 1) * 8; }
static_assert(nibble_bit(0, 1) == 16 && nibble_bit(1, 2) == 12 && nibble_bit(1, 3) == 28, "see the drawing above");

// The order along k in which every target-mode GEMM sums, whatever the number of rows: k is cut into `k_splits` runs of whole
// groups; each run is accumulated on its own, then runs are added in order. A function of the weight's shape alone.
struct KSplit {
  int count;           // runs
  int tiles_each;      // tiles of 64 k a run (the last may have fewer)
};

// Runs are 8 tiles (512 k) long, or longer when that would make more than 16 of them.
constexpr KSplit k_split(int k_tiles) {
  const int tiles = k_tiles <= 128 ? 8 : 2 * ((k_tiles + 31) / 32);  // even: a group of 128 is two tiles
  return KSplit{(k_tiles + tiles - 1) / tiles, tiles};
}

}  // namespace qspec::cuda
