// Resident weight layout of the CPU backends: one copy that W4A16, W4A8, W4A4, W8A16 and W8A8 all read.
//
// The matrix is [N, K] (output features, input features). Rows are grouped into tiles of kTileRows = 16 (the last tile is
// padded with zero weights); a vector lane is a row, so a dot product runs along K inside a lane, in order of k, and never
// has to be reduced across lanes. That is what makes every target-mode GEMM row-invariant by construction.
//
// 4-bit plane (hi, and lo of nested weights): one 64-byte line a tile and octet of K. Lane j (32 bits) holds row 16t + j:
//
//   bits   0-3  4-7  8-11 12-15 16-19 20-23 24-27 28-31
//   k =     0    4    1     5     2     6     3     7      (+ 8 · octet), stored as code + 8 (0 … 15)
//
// `word & 0x0f0f0f0f` is then four unsigned bytes of k = 0..3 and `(word >> 4) & 0x0f0f0f0f` of k = 4..7: the operand of an
// 8-bit dot product. `(word >> s) & 15` with s = 0, 8, 16, 24, 4, 12, 20, 28 walks k = 0..7.
//
// Scales: bfloat16, [tile][group][16].  Dense bf16: [tile][K/2 (rounded up)][16 lanes][2 consecutive k].  Dense f32: [tile][K][16].
#pragma once
#include <cstddef>
#include <cstdint>

namespace qspec {

constexpr int kTileRows = 16;

enum class WeightKind : int { kDenseF32 = 0, kDenseBf16 = 1, kInt4 = 2, kNested8 = 3 };
enum class Plane : int { kFull = 0, kHi = 1 };

// Non-owning view; lines are 64-byte aligned.
struct PackedWeight {
  WeightKind kind;
  int64_t n;              // output features (without padding)
  int64_t k;              // input features
  int group_size;         // 32, 64 or 128; 0 for dense
  int radix;              // 8..15 for nested8; else 1
  int hadamard_block;     // of the input; 0 = none
  const uint32_t* hi;     // [tiles][k/8][16]
  const uint32_t* lo;     // the same, nested8 only
  const uint16_t* scales; // [tiles][k/group_size][16] bfloat16
  const void* dense;      // f32: [tiles][k][16] float; bf16: [tiles][(k+1)/2][16][2] uint16_t

  int64_t num_tiles() const { return (n + kTileRows - 1) / kTileRows; }
};

// Bit offset of k mod 8 inside a lane's word.
constexpr int nibble_shift(int k_mod_8) { return (k_mod_8 & 3) * 8 + (k_mod_8 >> 2) * 4; }
static_assert(nibble_shift(0) == 0 && nibble_shift(3) == 24 && nibble_shift(4) == 4 && nibble_shift(7) == 28, "see the drawing above");

}  // namespace qspec
