// Products of a warpgroup (four warps): 64 rows of A in registers, 16 a warp; B in shared memory, where the tensor cores read it for themselves.
//
// On sm_90a this is wgmma, elsewhere (and in the emulator) each warp's own mma.sync over the same bytes. Both add the same products to the same
// sums in the same order, and Hopper rounds both alike: a row has the same bits whichever made it (the native tests compare them).
//
// B: [row block of 8][half tile][w 0..3][row g][t] 4 B: w = 2·step + 0, 1 are k 2t, 2t+1 and 2t+8, 2t+9 of a k16 step; see common/layout.h.
#pragma once
#include "common/layout.h"
#include "common/primitives.cuh"

#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QSPEC_HAS_WGMMA 1
#endif

namespace qspec::cuda {

// Products of a warpgroup run by themselves: begin_wide(), when all registers are ready, products, end_wide(); then wait_wide<n>() until at most n
// such batches are still running. Until then neither their sums nor their A may be touched. No branches between begin_wide() and end_wide(),
// and none of these in functions of their own, or the compiler makes every product wait for the one before.
QSPEC_DEVICE void begin_wide() {
#if defined(QSPEC_HAS_WGMMA)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
QSPEC_DEVICE void end_wide() {
#if defined(QSPEC_HAS_WGMMA)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// What the calling thread wrote to shared memory, or copied there and has waited for, can be read as B behind the block's next barrier.
QSPEC_DEVICE void publish_wide_input() {
#if defined(QSPEC_HAS_WGMMA)
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}
// The same of shared memory alone: what is on its way from memory isn't waited for.
QSPEC_DEVICE void publish_shared_input() {
#if defined(QSPEC_HAS_WGMMA)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
template <int running>
QSPEC_DEVICE void wait_wide() {
#if defined(QSPEC_HAS_WGMMA)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(running) : "memory");
#endif
}
// For all products, whose sums are read behind it, for the compiler doesn't know what is waited for.
template <int n8>
QSPEC_DEVICE void wait_wide_sums(float (&d)[n8][4]) {
  wait_wide<0>();
#if defined(QSPEC_HAS_WGMMA)
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c) asm volatile("" : "+f"(d[c][0]), "+f"(d[c][1]), "+f"(d[c][2]), "+f"(d[c][3])::"memory");
#endif
}

// B in shared memory from some place on.
struct WideInput {
#if defined(QSPEC_HAS_WGMMA)
  // Low word of its descriptor: the address, and how far the next 8x8 matrix (128 B) lies along k; the high one: along rows. No swizzle.
  uint32_t low;
  QSPEC_DEVICE explicit WideInput(uint32_t at) : low((shared_address(at) & 0x3ffff) >> 4 | kWideWordBytes >> 4 << 16) {}
  // The same; the compiler knows that it is in all lanes, so descriptors are made in uniform registers, where products need them. All lanes.
  QSPEC_DEVICE WideInput uniform() const {
    WideInput same(*this);
    same.low = static_cast<uint32_t>(shuffle_from(static_cast<int>(low), 0));
    return same;
  }
#else
  uint32_t at;
  QSPEC_DEVICE explicit WideInput(uint32_t from) : at(from) {}
  QSPEC_DEVICE WideInput uniform() const { return *this; }
#endif
};

#if defined(QSPEC_HAS_WGMMA)
// d (+)= A · B of a k16 step, of 32, 64 or 128 rows of B.
#define QSPEC_WIDE_STEP(rows, sums, a0, a1, a2, a3, low, is_new, at, high)                                                                                   \
  "{\n.reg .pred p;\n.reg .b32 l;\n.reg .b64 b;\nsetp.eq.b32 p, %" is_new ", 0;\nadd.u32 l, %" low ", %" at ";\nmov.b64 b, {l, %" high "};\n"                     \
  "wgmma.mma_async.sync.aligned.m64n" rows "k16.f32.bf16.bf16 {" sums "}, {%" a0 ",%" a1 ",%" a2 ",%" a3 "}, b, p, 1, 1, 0;\n}"
#define QSPEC_WIDE_SUMS(c) "+f"(d[c][0]), "+f"(d[c][1]), "+f"(d[c][2]), "+f"(d[c][3])
#define QSPEC_WIDE_INPUT "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(x.low), "n"(is_first ? 1 : 0), "r"(offset >> 4), "n"(kWideBlockBytes >> 4)
template <bool is_first>
QSPEC_DEVICE void wide_step(float (&d)[4][4], const uint32_t (&a)[4], const WideInput& x, uint32_t offset) {
  asm volatile(QSPEC_WIDE_STEP("32", "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15", "16", "17", "18", "19", "20", "21", "22", "23")
               : QSPEC_WIDE_SUMS(0), QSPEC_WIDE_SUMS(1), QSPEC_WIDE_SUMS(2), QSPEC_WIDE_SUMS(3)
               : QSPEC_WIDE_INPUT);
}
template <bool is_first>
QSPEC_DEVICE void wide_step(float (&d)[8][4], const uint32_t (&a)[4], const WideInput& x, uint32_t offset) {
  asm volatile(QSPEC_WIDE_STEP("64",
                               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31", "32", "33",
                               "34", "35", "36", "37", "38", "39")
               : QSPEC_WIDE_SUMS(0), QSPEC_WIDE_SUMS(1), QSPEC_WIDE_SUMS(2), QSPEC_WIDE_SUMS(3), QSPEC_WIDE_SUMS(4), QSPEC_WIDE_SUMS(5), QSPEC_WIDE_SUMS(6),
                 QSPEC_WIDE_SUMS(7)
               : QSPEC_WIDE_INPUT);
}
template <bool is_first>
QSPEC_DEVICE void wide_step(float (&d)[16][4], const uint32_t (&a)[4], const WideInput& x, uint32_t offset) {
  asm volatile(QSPEC_WIDE_STEP("128",
                               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,"
                               "%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63",
                               "64", "65", "66", "67", "68", "69", "70", "71")
               : QSPEC_WIDE_SUMS(0), QSPEC_WIDE_SUMS(1), QSPEC_WIDE_SUMS(2), QSPEC_WIDE_SUMS(3), QSPEC_WIDE_SUMS(4), QSPEC_WIDE_SUMS(5), QSPEC_WIDE_SUMS(6),
                 QSPEC_WIDE_SUMS(7), QSPEC_WIDE_SUMS(8), QSPEC_WIDE_SUMS(9), QSPEC_WIDE_SUMS(10), QSPEC_WIDE_SUMS(11), QSPEC_WIDE_SUMS(12), QSPEC_WIDE_SUMS(13),
                 QSPEC_WIDE_SUMS(14), QSPEC_WIDE_SUMS(15)
               : QSPEC_WIDE_INPUT);
}
#undef QSPEC_WIDE_STEP
#undef QSPEC_WIDE_SUMS
#undef QSPEC_WIDE_INPUT
#endif

// Where half tile `half` of n8 row blocks lies, from the first on.
template <int n8>
QSPEC_DEVICE constexpr uint32_t wide_half_at(int half) {
  return half / 2 * n8 * kWideBlockBytes + half % 2 * kWideHalfBytes;
}
// d += half a tile's product (32 k: two k16 steps), or d = it when it is the first. `offset`: of the half tile. All four warps.
template <bool is_first, int n8>
QSPEC_DEVICE void multiply_wide(float (&d)[n8][4], const uint32_t (&a)[2][4], const WideInput& x, uint32_t offset) {
#if defined(QSPEC_HAS_WGMMA)
  wide_step<is_first>(d, a[0], x, offset);
  wide_step<false>(d, a[1], x, offset + kWideStepBytes);
#else
  const int lane = lane_index();
  QSPEC_UNROLL
  for (int c = 0; c < n8; ++c) {
    uint32_t b[4];
    load_matrix_x4(b, x.at + offset + c * kWideBlockBytes + lane / 8 * kWideWordBytes + lane % 8 * 16);
    if (is_first) mma_bf16_new(d[c], a[0], b[0], b[1]);
    else mma_bf16(d[c], a[0], b[0], b[1]);
    mma_bf16(d[c], a[1], b[2], b[3]);
  }
#endif
}

}  // namespace qspec::cuda
