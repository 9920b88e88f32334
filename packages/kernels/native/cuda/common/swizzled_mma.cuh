// Products of four warps over tiles in shared memory: 64 rows of A, 16 a warp, by a tile's 64 rows, or by 64 of its elements. Each warp multiplies for itself, or a
// warpgroup's tensor cores read the tiles (begin_wide() …, as common/wide_mma.cuh; a kernel that has these calls no function between them): the same bits.
//
// A swizzled tile is 64 rows of 64 or 128 bfloat16: [64 elements][row] 128 B, within which the 16 bytes c lie at c ^ row % 8, so that eight rows' same
// elements lie in different banks. (It is the order that Hopper's wgmma calls 128-byte swizzle.)
#pragma once
#include "common/wide_mma.cuh"

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

// ---- By a warpgroup: products begin, see begin_wide() ----

#if defined(QSPEC_HAS_WGMMA)
// A descriptor's high word: 128-byte order, and how far the next eight rows lie. The low one: the address; the other distance isn't used, since no operand has more than
// the 64 elements that lie together. The same in all lanes, which the compiler is told.
constexpr uint32_t kSwizzledHigh = 1u << 30 | 8 * kSwizzledRowBytes >> 4;
QSPEC_DEVICE uint32_t swizzled_low(SharedPlace at) {
  return static_cast<uint32_t>(shuffle_from(static_cast<int>((at.address & 0x3ffff) >> 4 | 8 * kSwizzledRowBytes >> 4 << 16), 0));
}
#define QSPEC_SWIZZLED_SUMS(c) "+f"(d[c][0]), "+f"(d[c][1]), "+f"(d[c][2]), "+f"(d[c][3])
#define QSPEC_SWIZZLED_ALL_SUMS \
  QSPEC_SWIZZLED_SUMS(0), QSPEC_SWIZZLED_SUMS(1), QSPEC_SWIZZLED_SUMS(2), QSPEC_SWIZZLED_SUMS(3), QSPEC_SWIZZLED_SUMS(4), QSPEC_SWIZZLED_SUMS(5), QSPEC_SWIZZLED_SUMS(6), QSPEC_SWIZZLED_SUMS(7)
#define QSPEC_SWIZZLED_NAMES \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#endif
// As multiply_rows().
template <int steps>
QSPEC_DEVICE void begin_rows(float (&d)[8][4], SharedPlace a, SharedPlace b, int member, int lane) {
#if defined(QSPEC_HAS_WGMMA)
  const uint32_t low_a = swizzled_low(a), low_b = swizzled_low(b);
  QSPEC_UNROLL
  for (int i = 0; i < steps; ++i) {
    const uint32_t within = i / 4 * kSwizzledPartBytes + i % 4 * 32;
    asm volatile("{\n.reg .b64 a, b;\nmov.b64 a, {%32, %34};\nmov.b64 b, {%33, %34};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " QSPEC_SWIZZLED_NAMES ", a, b, 1, 1, 1, 0, 0;\n}"
                 : QSPEC_SWIZZLED_ALL_SUMS
                 : "r"(low_a + (within >> 4)), "r"(low_b + (within >> 4)), "n"(kSwizzledHigh));
  }
#else
  multiply_rows<steps>(d, a, b, member, lane);
#endif
}
// As multiply_elements().
QSPEC_DEVICE void begin_elements(float (&d)[8][4], const uint32_t (&a)[4][4], SharedPlace b, int part, int lane) {
#if defined(QSPEC_HAS_WGMMA)
  const uint32_t low = swizzled_low(b + part * kSwizzledPartBytes);
  QSPEC_UNROLL
  for (int i = 0; i < 4; ++i)
    asm volatile("{\n.reg .b64 b;\nmov.b64 b, {%36, %37};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " QSPEC_SWIZZLED_NAMES ", {%32,%33,%34,%35}, b, 1, 1, 1, 1;\n}"
                 : QSPEC_SWIZZLED_ALL_SUMS
                 : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(low + (i * 16 * kSwizzledRowBytes >> 4)), "n"(kSwizzledHigh));
#else
  multiply_elements(d, a, b, part, lane);
#endif
}
#if defined(QSPEC_HAS_WGMMA)
#undef QSPEC_SWIZZLED_SUMS
#undef QSPEC_SWIZZLED_ALL_SUMS
#undef QSPEC_SWIZZLED_NAMES
#endif

}  // namespace qspec::cuda
