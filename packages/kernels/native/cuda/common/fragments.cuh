// Register-level pieces that every GEMM shares: nibbles to bf16 pairs, and the tensor-core instructions.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace qspec::cuda {

__device__ __forceinline__ uint32_t lop3_and_or(uint32_t a, uint32_t mask, uint32_t bits) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));  // (a & mask) | bits
  return d;
}

__device__ __forceinline__ uint32_t bf16x2_sub(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ __forceinline__ uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

constexpr uint32_t kNibbleMask = 0x000f000fu;
constexpr uint32_t kBf16Magic = 0x43004300u;   // 128.0 twice: a nibble in the low mantissa bits makes 128 + nibble, exactly
constexpr uint32_t kBf16Offset = 0x43084308u;  // 136.0 twice: takes away the 128 and the stored + 8

// One word of a 4-bit plane -> the four A registers of mma.m16n8k16 (codes in [-8, 7], exact).
__device__ __forceinline__ void unpack_nibbles(uint32_t word, uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = bf16x2_sub(lop3_and_or(word >> (4 * i), kNibbleMask, kBf16Magic), kBf16Offset);
}

// hi and lo words -> radix · hi + lo (an 8-bit integer, exact in bf16). `radix2` is the radix as a bf16 pair.
__device__ __forceinline__ void unpack_nested(uint32_t hi, uint32_t lo, uint32_t radix2, uint32_t (&a)[4]) {
  uint32_t low[4];
  unpack_nibbles(hi, a);
  unpack_nibbles(lo, low);
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = bf16x2_fma(a[i], radix2, low[i]);
}

// d += A (16x16, row) · B (16x8, col), float accumulators.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += A (16x32 unsigned) · B (32x8 signed), int accumulators.
__device__ __forceinline__ void mma_u8s8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Weights are read once a step: past L1.
__device__ __forceinline__ uint4 load_streaming(const uint4* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address));
  return v;
}

// Past L1, which may be stale beside a kernel that still runs.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}

// Programmatic dependent launch: what comes before in this kernel may overlap the previous kernel in the stream.
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void allow_next_kernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace qspec::cuda
