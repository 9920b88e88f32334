// What lets one source be compiled by nvcc, and by a C++ compiler for the emulator (emulator/emulator.h).
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define QSPEC_DEVICE __device__ __forceinline__
#define QSPEC_DEVICE_CALL inline __device__ __noinline__
#define QSPEC_HOST_DEVICE __host__ __device__
#define QSPEC_KERNEL(max_threads, min_blocks) __global__ void __launch_bounds__(max_threads, min_blocks)
#define QSPEC_GRID_CONSTANT __grid_constant__
#define QSPEC_UNROLL _Pragma("unroll")
#define QSPEC_NO_UNROLL _Pragma("unroll 1")
#else
#define QSPEC_DEVICE inline
#define QSPEC_DEVICE_CALL inline
#define QSPEC_HOST_DEVICE
#define QSPEC_KERNEL(max_threads, min_blocks) void
#define QSPEC_GRID_CONSTANT
#define QSPEC_UNROLL
#define QSPEC_NO_UNROLL
#if !defined(QSPEC_CUDA_EMULATED)
#include <vector_types.h>
#else
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) int2 {
  int32_t x, y;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
#endif
#endif
