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
//   and a group of 32, 64 or 128 always consists of whole half tiles.
//
// Tiles of one row-tile are consecutive along k: [n/16][k/64][512 B].
// Scales: [n/16][k/group][8][2] bfloat16: the word of g holds the scales of rows g (low half) and g+8 (high half).
// Dense bf16: tile 16 x 16 = 512 bytes, lane's 16 bytes are a0..a3 with the same k order: step s of tile-of-64 is sub-tile s.
// n is padded to 16 and k to 64 with zero weights; activations past k are taken as zero.
#pragma once
#include <vector_types.h>

#include <cstdint>

#include "qspec/formats.h"

#if defined(__CUDACC__)
#define QSPEC_HOST_DEVICE __host__ __device__
#else
#define QSPEC_HOST_DEVICE
#endif

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
  const uint32_t* scales;  // [n_tiles][k / group_size][8]
  const uint4* dense;      // [n_tiles][k_tiles][4][32]
};

// k within its tile of nibble j in word s of lane t.
QSPEC_HOST_DEVICE constexpr int tile_k(int s, int t, int j) { return 32 * (s / 2) + 8 * t + 4 * (s % 2) + j; }
// Bit offset of (row half h = 0: g, 1: g+8; j) in a word.
QSPEC_HOST_DEVICE constexpr int nibble_bit(int h, int j) { return 4 * h + (j & 1) * 16 + (j >> 1) * 8; }
static_assert(nibble_bit(0, 1) == 16 && nibble_bit(1, 2) == 12 && nibble_bit(1, 3) == 28, "see the drawing above");
// Place of code k in a row of quantised activations: the middle two of every four are swapped.
QSPEC_HOST_DEVICE constexpr int64_t code_place(int64_t k) { return (k & 3) == 1 ? k + 1 : (k & 3) == 2 ? k - 1 : k; }

// The order along k in which every GEMM sums, a function of the weight's shape alone, never of the number of rows:
//   run    = 8 tiles (512 k), summed group by group by one warp
//   slice  = up to 8 runs, added in order
//   result = slices, added in order
constexpr int kRunTiles = 8;
constexpr int kMaxRuns = 8;
struct KPlan {
  int runs;        // over all of k
  int slices;
  int slice_runs;  // runs a slice (the last may have fewer)
};
QSPEC_HOST_DEVICE constexpr KPlan k_plan(int k_tiles) {
  const int runs = (k_tiles + kRunTiles - 1) / kRunTiles;
  const int slices = (runs + kMaxRuns - 1) / kMaxRuns;
  const int each = (runs + slices - 1) / slices;
  return KPlan{runs, (runs + each - 1) / each, each};
}

}  // namespace qspec::cuda
