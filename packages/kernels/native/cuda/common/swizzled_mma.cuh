// Products of four warps over tiles in shared memory: 64 rows of A, 16 a warp, by a tile's 64 rows, or by 64 of its elements.
//
// A swizzled tile is 64 rows of 64 or 128 bfloat16: [64 elements][row] 128 B, within which the 16 bytes c lie at c ^ row % 8, so that eight rows' same
// elements lie in different banks. (It is the order that Hopper's wgmma calls 128-byte swizzle.)
#pragma once
#include "common/primitives.cuh"

namespace qspec::cuda {

constexpr int kSwizzledRows = 64, kSwizzledElements = 64;              // rows of a tile, elements that lie together
constexpr int kSwizzledRowBytes = kSwizzledElements * 2;
constexpr int kSwizzledPartBytes = kSwizzledRows * kSwizzledRowBytes;  // of 64 elements of all rows
constexpr int kSwizzledAlignment = kSwizzledRowBytes * 8;              // of a tile: places are found by bits of the address
QSPEC_HOST_DEVICE constexpr int swizzled_tile_bytes(int elements) { return elements / kSwizzledElements * kSwizzledPartBytes; }

// Where 16 bytes of a row lie: elements 8 · chunk and on.
QSPEC_HOST_DEVICE constexpr uint32_t swizzled_place(int row, int chunk) {
  return static_cast<uint32_t>(chunk / 8 * kSwizzledPartBytes + row * kSwizzledRowBytes + ((chunk ^ row) & 7) * 16);
}
// From the place of a row's chunk to that of chunk ^ `chunks`, up to 7.
QSPEC_DEVICE SharedPlace swizzled_other(SharedPlace place, int chunks) { return {place.address ^ static_cast<uint32_t>(chunks * 16)}; }

// d += A · Bᵀ over `steps` steps of 16 elements; A's and B's rows are those of tiles. d: [rows of B / 8][as mma_bf16()]. `member`: of the four warps.
template <int steps>
QSPEC_DEVICE void multiply_rows(float (&d)[8][4], SharedPlace a, SharedPlace b, int member, int lane) {
  const SharedPlace of_a = a + swizzled_place(member * 16 + lane % 16, lane / 16), of_b = b + swizzled_place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  QSPEC_UNROLL
  for (int i = 0; i < steps; ++i) {
    const uint32_t part = i / 4 * kSwizzledPartBytes;
    uint32_t rows[4], columns[4][4];
    load_matrix_x4(rows, swizzled_other(of_a, i % 4 * 2) + part);
    QSPEC_UNROLL
    for (int c = 0; c < 4; ++c) load_matrix_x4(columns[c], swizzled_other(of_b, i % 4 * 2) + (part + c * 16 * kSwizzledRowBytes));
    QSPEC_UNROLL
    for (int c = 0; c < 8; ++c) mma_bf16(d[c], rows, columns[c / 2][c % 2 * 2], columns[c / 2][c % 2 * 2 + 1]);
  }
}
// d += A · B: A is in registers, four steps of 16; B's 64 rows are a tile's, its columns the tile's elements from 64 · part on. d: [elements / 8][as mma_bf16()].
QSPEC_DEVICE void multiply_elements(float (&d)[8][4], const uint32_t (&a)[4][4], SharedPlace b, int part, int lane) {
  const SharedPlace of_b = b + swizzled_place(lane % 16, lane / 16);
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i) {
    uint32_t columns[4][4];
    QSPEC_UNROLL
    for (int c = 0; c < 4; ++c) load_matrix_x4_transposed(columns[c], swizzled_other(of_b, c * 2) + (part * kSwizzledPartBytes + i * 16 * kSwizzledRowBytes));
    QSPEC_UNROLL
    for (int c = 0; c < 8; ++c) mma_bf16(d[c], a[i], columns[c / 2][c % 2 * 2], columns[c / 2][c % 2 * 2 + 1]);
  }
}

}  // namespace qspec::cuda
