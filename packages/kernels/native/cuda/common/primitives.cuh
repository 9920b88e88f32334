// The device's instructions by name: where a thread is, waiting, copying, tensor cores, bfloat16. Everything above this file is plain C++.
// Each has two bodies: PTX, and what the emulator does instead.
#pragma once
#include <cmath>
#include <cstring>

#include "common/portable.h"

#if !defined(__CUDACC__)
#include "emulator/emulator.h"
#endif

namespace qspec::cuda {

constexpr int kWarp = 32;

// ---- Where a thread is -------------------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)
QSPEC_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
QSPEC_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
QSPEC_DEVICE int grid_blocks() { return static_cast<int>(gridDim.x); }
QSPEC_DEVICE uint8_t* shared_memory() {
  extern __shared__ __align__(1024) uint8_t memory[];
  return memory;
}
#else
inline int thread_index() { return emulator::place().thread; }
inline int block_index() { return emulator::place().block; }
inline int grid_blocks() { return emulator::place().num_blocks; }
inline uint8_t* shared_memory() { return emulator::shared_base(); }
#endif
QSPEC_DEVICE int lane_index() { return thread_index() % kWarp; }

QSPEC_DEVICE unsigned long long device_clock() {
#if defined(__CUDACC__)
  unsigned long long clock;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(clock)::"memory");
  return clock;
#else
  static unsigned long long ticks = 0;
  return ++ticks;
#endif
}

// ---- Bits --------------------------------------------------------------------------------------------------------------------------

QSPEC_DEVICE float float_of_bits(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}
QSPEC_DEVICE uint32_t bits_of_float(float value) {
#if defined(__CUDACC__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
#endif
}
// bfloat16 halves of a word.
QSPEC_DEVICE float bf16_low(uint32_t pair) { return float_of_bits(pair << 16); }
QSPEC_DEVICE float bf16_high(uint32_t pair) { return float_of_bits(pair & 0xffff0000u); }

#if !defined(__CUDACC__)
inline uint32_t emulated_bf16(float value) {
  uint32_t word = bits_of_float(value);
  if ((word & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (word + 0x7fff + ((word >> 16) & 1)) >> 16;
}
#endif

// Two floats rounded to nearest even: `low` in the low half.
QSPEC_DEVICE uint32_t pack_bf16(float low, float high) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
#else
  return emulated_bf16(low) | emulated_bf16(high) << 16;
#endif
}

constexpr uint32_t kByteMask = 0x0f0f0f0fu;  // the low nibble of every byte
// Bytes 1 and 3 of a word, each in the low byte of a half.
QSPEC_DEVICE uint32_t odd_bytes(uint32_t word) {
#if defined(__CUDACC__)
  return __byte_perm(word, 0, 0x4341);
#else
  return word >> 8 & 0x00ff00ffu;
#endif
}
// The same value, of which the compiler knows nothing: what is made of it is made where it is used.
QSPEC_DEVICE uint32_t not_hoisted(uint32_t value) {
#if defined(__CUDACC__)
  uint32_t same;
  asm volatile("mov.u32 %0, %1;" : "=r"(same) : "r"(value));
  return same;
#else
  return value;
#endif
}
QSPEC_DEVICE int not_hoisted(int value) { return static_cast<int>(not_hoisted(static_cast<uint32_t>(value))); }
// The lane, for one phase: what follows from it is found there, and not kept in registers, or in local memory, through all the others.
QSPEC_DEVICE int own_lane() { return not_hoisted(lane_index()); }
// a · b + c of bfloat16 pairs, rounded once.
QSPEC_DEVICE uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#else
  return pack_bf16(bf16_low(a) * bf16_low(b) + bf16_low(c), bf16_high(a) * bf16_high(b) + bf16_high(c));
#endif
}

// ---- Small integers as bfloat16 ------------------------------------------------------------------------------------------------------
//
// Up to the smallest exponent bfloat16 is linear in its bits: a half word that holds an integer of 0 to 255 and nothing above it is integer · 2^-133. A
// multiplication by kCodeFactor brings it to where sums are made: integer · kCodeUnit.

constexpr int kLeastBf16Log2 = -133, kCodeUnitLog2 = -10;
constexpr float kCodeUnit = 1.0f / 1024, kCodesAUnit = 1024.0f;
constexpr uint32_t kBf16Signs = 0x80008000u;
QSPEC_HOST_DEVICE constexpr uint32_t bf16_pair_of_power(int log2) { return static_cast<uint32_t>(127 + log2) << 7 | static_cast<uint32_t>(127 + log2) << 23; }
constexpr uint32_t kCodeFactor = bf16_pair_of_power(kCodeUnitLog2 - kLeastBf16Log2);
constexpr uint32_t kCodeFactor16 = bf16_pair_of_power(kCodeUnitLog2 - kLeastBf16Log2 - 4);  // for integers four bits further up
static_assert(kCodeUnitLog2 - kLeastBf16Log2 <= 127, "a bfloat16");

// ---- Arithmetic that must round the same wherever it is inlined (the build also switches contraction off) ---------------------------

QSPEC_DEVICE float exp2_fast(float x) {
#if defined(__CUDACC__)
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
#else
  return std::exp2(x);
#endif
}
QSPEC_DEVICE float reciprocal_fast(float x) {
#if defined(__CUDACC__)
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
#else
  return 1.0f / x;
#endif
}
QSPEC_DEVICE float rsqrt_fast(float x) {
#if defined(__CUDACC__)
  float d;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
#else
  return 1.0f / std::sqrt(x);
#endif
}
QSPEC_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32); }
// n / d by the reciprocal of d, exact while n · d < 2^31.
inline uint32_t reciprocal_of(int d) { return static_cast<uint32_t>(((int64_t{1} << 31) + d - 1) / d); }
QSPEC_DEVICE int quotient(int n, uint32_t reciprocal) { return static_cast<int>(static_cast<uint64_t>(n) * reciprocal >> 31); }
QSPEC_DEVICE bool is_finite(float x) { return (bits_of_float(x) & 0x7f800000u) != 0x7f800000u; }
QSPEC_DEVICE bool is_nan(float x) { return (bits_of_float(x) & 0x7fffffffu) > 0x7f800000u; }

// ---- Warps -------------------------------------------------------------------------------------------------------------------------

#if defined(__CUDACC__)
QSPEC_DEVICE void sync_warp() { __syncwarp(); }
QSPEC_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
QSPEC_DEVICE int shuffle_xor(int v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
QSPEC_DEVICE int shuffle_from(int v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
QSPEC_DEVICE uint32_t ballot(bool v) { return __ballot_sync(0xffffffffu, v); }
QSPEC_DEVICE float shuffle_from(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
QSPEC_DEVICE double shuffle_xor(double v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
#else
struct ShuffleLane {
  uint32_t value;
  int from;
  uint32_t result;
};
inline void combine_shuffle(void* const lanes[32]) {
  for (int i = 0; i < kWarp; ++i) {
    auto* lane = static_cast<ShuffleLane*>(lanes[i]);
    lane->result = static_cast<ShuffleLane*>(lanes[lane->from])->value;
  }
}
inline void combine_nothing(void* const*) {}
inline void sync_warp() { emulator::collective(nullptr, combine_nothing, "sync_warp"); }
inline uint32_t emulated_shuffle(uint32_t value, int from) {
  ShuffleLane lane{value, from, 0};
  emulator::collective(&lane, combine_shuffle, "shuffle");
  return lane.result;
}
inline float shuffle_xor(float v, int mask) { return float_of_bits(emulated_shuffle(bits_of_float(v), lane_index() ^ mask)); }
inline int shuffle_xor(int v, int mask) { return static_cast<int>(emulated_shuffle(static_cast<uint32_t>(v), lane_index() ^ mask)); }
inline float shuffle_from(float v, int lane) { return float_of_bits(emulated_shuffle(bits_of_float(v), lane)); }
inline double shuffle_xor(double v, int mask) {
  uint32_t words[2];
  std::memcpy(words, &v, 8);
  for (uint32_t& word : words) word = emulated_shuffle(word, lane_index() ^ mask);
  std::memcpy(&v, words, 8);
  return v;
}
inline int shuffle_from(int v, int lane) { return static_cast<int>(emulated_shuffle(static_cast<uint32_t>(v), lane)); }
inline uint32_t ballot(bool v) {
  uint32_t all = static_cast<uint32_t>(v) << lane_index();
  for (int mask = 1; mask < kWarp; mask *= 2) all |= emulated_shuffle(all, lane_index() ^ mask);
  return all;
}
#endif
QSPEC_DEVICE bool vote_all(bool v) { return ballot(v) == 0xffffffffu; }

// ---- Blocks and the grid ---------------------------------------------------------------------------------------------------------------

// All `num_threads` (whole warps) of the block that name this `id` (1 … 15; 0 takes the whole block).
QSPEC_DEVICE void named_barrier(int id, int num_threads) {
#if defined(__CUDACC__)
  if (id == 0) return __syncthreads();
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
#else
  emulator::named_barrier(id, num_threads);
#endif
}
// Among neighbouring warps, by a barrier other than 0: known to be so, for else both kinds are compiled.
QSPEC_DEVICE void group_barrier(int id, int num_threads) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
#else
  emulator::named_barrier(id, num_threads);
#endif
}
QSPEC_DEVICE void pause() {
#if !defined(__CUDACC__)
  emulator::spin();
#endif
}
// Global; counts up and returns the value before. Who sees the new value so sees what this thread had seen, and what others had who met it at a
// barrier; and this thread what those before it had. One fence where two around a relaxed addition would be.
QSPEC_DEVICE int count_up(int* address) {
#if defined(__CUDACC__)
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(address) : "memory");
  return before;
#else
  emulator::progress();
  return (*address)++;
#endif
}
// Sums of integers come out the same in any order.
QSPEC_DEVICE void atomic_add(int* address, int value) {
#if defined(__CUDACC__)
  atomicAdd(address, value);
#else
  *address += value;
#endif
}
QSPEC_DEVICE void atomic_add(unsigned long long* address, unsigned long long value) {
#if defined(__CUDACC__)
  atomicAdd(address, value);
#else
  *address += value;
#endif
}
// *address += value where nobody else adds meanwhile; nothing waits for it.
QSPEC_DEVICE void add_to(float* address, float value) {
#if defined(__CUDACC__)
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(address), "f"(value) : "memory");
#else
  *address += value;
#endif
}
// The sum as add_to() rounds it.
QSPEC_DEVICE float add_flushed(float a, float b) {
#if defined(__CUDACC__)
  float sum;
  asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(sum) : "f"(a), "f"(b));
  return sum;
#else
  return a + b;
#endif
}
QSPEC_DEVICE int atomic_exchange(int* address, int value) {
#if defined(__CUDACC__)
  return atomicExch(address, value);
#else
  const int before = *address;
  *address = value;
  return before;
#endif
}
QSPEC_DEVICE void atomic_or(int* address, int value) {
#if defined(__CUDACC__)
  atomicOr(address, value);
#else
  *address |= value;
#endif
}
// A thread that sees the new value by load_acquire() sees what this one had seen.
QSPEC_DEVICE void add_release(unsigned long long* address, unsigned long long value) {
#if defined(__CUDACC__)
  asm volatile("red.release.gpu.global.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
#else
  *address += value;
  emulator::progress();
#endif
}
QSPEC_DEVICE unsigned long long load_acquire(const unsigned long long* address) {
#if defined(__CUDACC__)
  unsigned long long v;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(address) : "memory");
  return v;
#else
  return *address;
#endif
}

// ---- Memory ------------------------------------------------------------------------------------------------------------------------

// Past L1, which isn't coherent: for everything that another block may have written in this kernel.
template <typename T>
QSPEC_DEVICE T load_l2(const T* address) {
#if defined(__CUDACC__)
  return __ldcg(address);
#else
  return *address;
#endif
}
template <typename T>
QSPEC_DEVICE void store_l2(T* address, T value) {
#if defined(__CUDACC__)
  __stcg(address, value);
#else
  *address = value;
#endif
}
// Never written while a kernel runs.
template <typename T>
QSPEC_DEVICE T load_constant(const T* address) {
#if defined(__CUDACC__)
  return __ldg(address);
#else
  return *address;
#endif
}

// Read once, by one warp: past L1, and the first that L2 gives up. Never written while a kernel runs.
constexpr unsigned long long kEvictFirst = 0x12f0000000000000ull;  // createpolicy.fractional.L2::evict_first of all lines, as sm_90 has it; others were not tried
QSPEC_DEVICE uint4 load_stream_16(const uint8_t* address) {
  uint4 v;
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address), "l"(kEvictFirst));
#elif defined(__CUDACC__)
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address));
#else
  std::memcpy(&v, address, sizeof v);
#endif
  return v;
}
QSPEC_DEVICE uint32_t load_stream_4(const uint8_t* address) {
  uint32_t v;
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;" : "=r"(v) : "l"(address), "l"(kEvictFirst));
#elif defined(__CUDACC__)
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(address));
#else
  std::memcpy(&v, address, sizeof v);
#endif
  return v;
}
// Asks for `bytes` (a multiple of 16, as is the address) to come to L2; nothing waits for them. All lanes of a warp.
QSPEC_DEVICE void prefetch_l2(const uint8_t* address, uint32_t bytes, int lane) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  if (lane == 0) asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes) : "memory");
#elif defined(__CUDACC__)
  for (uint32_t at = lane * 128; at < bytes; at += kWarp * 128) asm volatile("prefetch.global.L2 [%0];" ::"l"(address + at) : "memory");
#endif
}

// ---- Words that somebody waits for ---------------------------------------------------------------------------------------------------------
//
// Memory that is all kNotThere when a launch begins and of which every word is written once. Who wants a word reads it until it is there: it is its own flag, so
// there is no barrier and no fence between the one who writes and those who read.

constexpr uint32_t kNotThere = 0xffffffffu;  // a NaN that no arithmetic makes, and no pair that pack_bf16() makes
QSPEC_DEVICE uint32_t posted(uint32_t word) { return word == kNotThere ? 0x7fffffffu : word; }
QSPEC_DEVICE void post(void* address, uint32_t v) {
#if defined(__CUDACC__)
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(posted(v)) : "memory");
#else
  v = posted(v);
  std::memcpy(address, &v, sizeof v);
  emulator::progress();
#endif
}
QSPEC_DEVICE void post(void* address, uint2 v) {
#if defined(__CUDACC__)
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(address), "r"(posted(v.x)), "r"(posted(v.y)) : "memory");
#else
  auto* to = static_cast<uint32_t*>(address);
  post(to, v.x), post(to + 1, v.y);
#endif
}
QSPEC_DEVICE void post(float* address, const float (&v)[4]) {
#if defined(__CUDACC__)
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(address), "r"(posted(bits_of_float(v[0]))), "r"(posted(bits_of_float(v[1]))), "r"(posted(bits_of_float(v[2]))), "r"(posted(bits_of_float(v[3]))) : "memory");
#else
  for (int i = 0; i < 4; ++i) post(address + i, bits_of_float(v[i]));
#endif
}
// What is there now.
#if defined(__CUDACC__)
QSPEC_DEVICE void peek(uint4* v, const void* address) {
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v->x), "=r"(v->y), "=r"(v->z), "=r"(v->w) : "l"(address) : "memory");
}
QSPEC_DEVICE void peek(uint2* v, const void* address) { asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(v->x), "=r"(v->y) : "l"(address) : "memory"); }
QSPEC_DEVICE void peek(uint32_t* v, const void* address) { asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(*v) : "l"(address) : "memory"); }
#else
template <typename Words>
void peek(Words* v, const void* address) {
  std::memcpy(v, address, sizeof *v);
}
#endif
QSPEC_DEVICE bool is_there(uint32_t v) { return v != kNotThere; }
QSPEC_DEVICE bool is_there(const uint2& v) { return is_there(v.x) && is_there(v.y); }
QSPEC_DEVICE bool is_there(const uint4& v) { return is_there(v.x) && is_there(v.y) && is_there(v.z) && is_there(v.w); }
// Waits for the words of which `v` is what was there.
template <typename Words>
QSPEC_DEVICE void await(Words* v, const void* address) {
  while (!is_there(*v)) {
    pause();
    peek(v, address);
  }
}

QSPEC_DEVICE uint32_t word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// ---- Shared memory by byte offset from its beginning: where a pointer would have lost which memory it points into -----------------------

// A place in shared memory as instructions take it. Finding it from an offset takes a few of them, one of which is slow: in inner loops a place is found once
// and added to.
struct SharedPlace {
  uint32_t address;
  QSPEC_DEVICE SharedPlace operator+(uint32_t bytes) const { return {address + bytes}; }
};
#if defined(__CUDACC__)
QSPEC_DEVICE uint32_t shared_address(uint32_t offset) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared_memory())) + offset; }
QSPEC_DEVICE SharedPlace shared_place(uint32_t offset) { return {shared_address(offset)}; }
QSPEC_DEVICE uint4 shared_load_16(SharedPlace at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at.address));
  return v;
}
QSPEC_DEVICE uint2 shared_load_8(SharedPlace at) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at.address));
  return v;
}
QSPEC_DEVICE uint32_t shared_load_4(SharedPlace at) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at.address));
  return v;
}
QSPEC_DEVICE void shared_store_16(SharedPlace at, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at.address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
QSPEC_DEVICE void shared_store_4(SharedPlace at, uint32_t v) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(at.address), "r"(v) : "memory"); }
QSPEC_DEVICE void shared_store_2(SharedPlace at, uint16_t v) { asm volatile("st.shared.u16 [%0], %1;" ::"r"(at.address), "h"(v) : "memory"); }
QSPEC_DEVICE void shared_store_1(SharedPlace at, uint8_t v) {
  asm volatile("st.shared.u8 [%0], %1;" ::"r"(at.address), "r"(static_cast<uint32_t>(v)) : "memory");
}
#else
inline SharedPlace shared_place(uint32_t offset) { return {offset}; }
template <typename T>
T emulated_shared_load(SharedPlace at) {
  T v;
  std::memcpy(&v, shared_memory() + at.address, sizeof v);
  return v;
}
inline uint4 shared_load_16(SharedPlace at) { return emulated_shared_load<uint4>(at); }
inline uint2 shared_load_8(SharedPlace at) { return emulated_shared_load<uint2>(at); }
inline uint32_t shared_load_4(SharedPlace at) { return emulated_shared_load<uint32_t>(at); }
inline void shared_store_16(SharedPlace at, uint4 v) { std::memcpy(shared_memory() + at.address, &v, sizeof v); }
inline void shared_store_2(SharedPlace at, uint16_t v) { std::memcpy(shared_memory() + at.address, &v, sizeof v); }
inline void shared_store_1(SharedPlace at, uint8_t v) { shared_memory()[at.address] = v; }
inline void shared_store_4(SharedPlace at, uint32_t v) {
  std::memcpy(shared_memory() + at.address, &v, sizeof v);
  emulator::progress();
}
#endif
// What a thread wrote, or met in its warp, before such a store, those see who load its value so.
QSPEC_DEVICE void shared_store_release(SharedPlace at, uint32_t v) {
#if defined(__CUDACC__)
  asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(at.address), "r"(v) : "memory");
#else
  shared_store_4(at, v);
#endif
}
QSPEC_DEVICE uint32_t shared_load_acquire(SharedPlace at) {
#if defined(__CUDACC__)
  uint32_t v;
  asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(v) : "r"(at.address) : "memory");
  return v;
#else
  return shared_load_4(at);
#endif
}
QSPEC_DEVICE uint4 shared_load_16(uint32_t offset) { return shared_load_16(shared_place(offset)); }
QSPEC_DEVICE uint2 shared_load_8(uint32_t offset) { return shared_load_8(shared_place(offset)); }
QSPEC_DEVICE uint32_t shared_load_4(uint32_t offset) { return shared_load_4(shared_place(offset)); }
QSPEC_DEVICE void shared_store_16(uint32_t offset, uint4 v) { shared_store_16(shared_place(offset), v); }
QSPEC_DEVICE void shared_store_4(uint32_t offset, uint32_t v) { shared_store_4(shared_place(offset), v); }
QSPEC_DEVICE void shared_store_2(uint32_t offset, uint16_t v) { shared_store_2(shared_place(offset), v); }
QSPEC_DEVICE void shared_store_1(uint32_t offset, uint8_t v) { shared_store_1(shared_place(offset), v); }
template <typename T>
QSPEC_DEVICE T& shared_at(uint32_t offset) {
  return *reinterpret_cast<T*>(shared_memory() + offset);
}
template <typename Place>
QSPEC_DEVICE float shared_load_float(Place at) {
  return float_of_bits(shared_load_4(at));
}
template <typename Place>
QSPEC_DEVICE void shared_store_float(Place at, float v) {
  shared_store_4(at, bits_of_float(v));
}

// 16 bytes (past L1) or 4, global to shared, asynchronous in groups (sm_80).
template <int bytes>
QSPEC_DEVICE void copy_async(SharedPlace shared, const void* global) {
  static_assert(bytes == 16 || bytes == 4, "what the instruction copies");
#if defined(__CUDACC__)
  if constexpr (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared.address), "l"(global) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared.address), "l"(global) : "memory");
#else
  emulator::copy_async(shared_memory() + shared.address, global, bytes);
#endif
}
template <int bytes>
QSPEC_DEVICE void copy_async(uint32_t shared, const void* global) {
  copy_async<bytes>(shared_place(shared), global);
}
// 16 bytes that are read once: the first that L2 gives up.
QSPEC_DEVICE void copy_stream_async(SharedPlace shared, const void* global) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared.address), "l"(global), "l"(kEvictFirst) : "memory");
#else
  copy_async<16>(shared, global);
#endif
}
// As copy_async(); zeros, and nothing is read, where it isn't there.
template <int bytes>
QSPEC_DEVICE void copy_async_or_zero(SharedPlace shared, const void* global, bool is_there) {
  static_assert(bytes == 16 || bytes == 4, "what the instruction copies");
#if defined(__CUDACC__)
  const int size = is_there ? bytes : 0;
  if constexpr (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared.address), "l"(global), "r"(size) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared.address), "l"(global), "r"(size) : "memory");
#else
  static const uint8_t zeros[16] = {};
  emulator::copy_async(shared_memory() + shared.address, is_there ? global : zeros, bytes);
#endif
}
QSPEC_DEVICE void commit_async() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::commit_async();
#endif
}
template <int in_flight>
QSPEC_DEVICE void wait_async() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(in_flight) : "memory");
#else
  emulator::wait_async(in_flight);
#endif
}

// ---- Tensor cores ------------------------------------------------------------------------------------------------------------------

#if !defined(__CUDACC__)
template <typename Value>
struct MmaLane {
  Value* d;
  const uint32_t* a;
  uint32_t b0, b1;
};
inline float bf16_element(uint32_t word, int i) { return i == 0 ? bf16_low(word) : bf16_high(word); }
inline void combine_mma_bf16(void* const lanes[32]) {
  float a[16][16], b[16][8];
  for (int l = 0; l < kWarp; ++l) {
    const auto& lane = *static_cast<MmaLane<float>*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int e = 0; e < 2; ++e) {
      a[g][2 * t + e] = bf16_element(lane.a[0], e), a[g + 8][2 * t + e] = bf16_element(lane.a[1], e);
      a[g][2 * t + 8 + e] = bf16_element(lane.a[2], e), a[g + 8][2 * t + 8 + e] = bf16_element(lane.a[3], e);
      b[2 * t + e][g] = bf16_element(lane.b0, e), b[2 * t + 8 + e][g] = bf16_element(lane.b1, e);
    }
  }
  for (int l = 0; l < kWarp; ++l) {
    auto& lane = *static_cast<MmaLane<float>*>(lanes[l]);
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
      double sum = lane.d[i];
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      lane.d[i] = static_cast<float>(sum);
    }
  }
}
inline void combine_mma_u8s8(void* const lanes[32]) {
  int a[16][32], b[32][8];
  for (int l = 0; l < kWarp; ++l) {
    const auto& lane = *static_cast<MmaLane<int>*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int e = 0; e < 4; ++e) {
      const auto u8 = [e](uint32_t w) { return static_cast<int>(w >> 8 * e & 255u); };
      const auto s8 = [e](uint32_t w) { return static_cast<int>(static_cast<int8_t>(w >> 8 * e & 255u)); };
      a[g][4 * t + e] = u8(lane.a[0]), a[g + 8][4 * t + e] = u8(lane.a[1]);
      a[g][4 * t + 16 + e] = u8(lane.a[2]), a[g + 8][4 * t + 16 + e] = u8(lane.a[3]);
      b[4 * t + e][g] = s8(lane.b0), b[4 * t + 16 + e][g] = s8(lane.b1);
    }
  }
  for (int l = 0; l < kWarp; ++l) {
    auto& lane = *static_cast<MmaLane<int>*>(lanes[l]);
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 32; ++k) lane.d[i] += a[l / 4 + 8 * (i / 2)][k] * b[k][2 * (l % 4) + i % 2];
  }
}
struct LdmatrixLane {
  const void* row;
  uint32_t* out;
};
template <bool transposed, int count>
void combine_ldmatrix(void* const lanes[32]) {
  uint16_t m[count][8][8];
  for (int i = 0; i < 8 * count; ++i) std::memcpy(m[i / 8][i % 8], static_cast<LdmatrixLane*>(lanes[i])->row, 16);
  for (int l = 0; l < kWarp; ++l) {
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < count; ++i) {
      const uint32_t low = transposed ? m[i][2 * t][g] : m[i][g][2 * t], high = transposed ? m[i][2 * t + 1][g] : m[i][g][2 * t + 1];
      static_cast<LdmatrixLane*>(lanes[l])->out[i] = low | high << 16;
    }
  }
}
#endif

// d += A (16x16, row) · B (16x8, col), float accumulators. Lane 4·g + t: A rows g, g+8; B and d columns g and 2t, 2t+1.
QSPEC_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDACC__)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  MmaLane<float> lane{d, a, b0, b1};
  emulator::collective(&lane, combine_mma_bf16, "mma_bf16");
#endif
}
// d = A · B; the zeros cost nothing, the instruction takes them as they are.
QSPEC_DEVICE void mma_bf16_new(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  d[0] = d[1] = d[2] = d[3] = 0.0f;
  mma_bf16(d, a, b0, b1);
}
// d += A (16x32 unsigned) · B (32x8 signed), int accumulators.
QSPEC_DEVICE void mma_u8s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDACC__)
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  MmaLane<int> lane{d, a, b0, b1};
  emulator::collective(&lane, combine_mma_u8s8, "mma_u8s8");
#endif
}
QSPEC_DEVICE void mma_u8s8_new(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  d[0] = d[1] = d[2] = d[3] = 0;
  mma_u8s8(d, a, b0, b1);
}
// Four 8x8 matrices of 16-bit elements; lane i names row i % 8 of matrix i / 8. Lane (g, t) gets row g, columns 2t, 2t+1 of each.
QSPEC_DEVICE void load_matrix_x4(uint32_t (&r)[4], SharedPlace row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address)
               : "memory");
#else
  LdmatrixLane lane{shared_memory() + row.address, r};
  emulator::collective(&lane, combine_ldmatrix<false, 4>, "load_matrix_x4");
#endif
}
QSPEC_DEVICE void load_matrix_x4(uint32_t (&r)[4], uint32_t row) { load_matrix_x4(r, shared_place(row)); }
// The same, each transposed: lane (g, t) gets rows 2t, 2t+1 of column g.
QSPEC_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], SharedPlace row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address)
               : "memory");
#else
  LdmatrixLane lane{shared_memory() + row.address, r};
  emulator::collective(&lane, combine_ldmatrix<true, 4>, "load_matrix_x4_transposed");
#endif
}
QSPEC_DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], uint32_t row) { load_matrix_x4_transposed(r, shared_place(row)); }

// An 8x8 matrix of 16-bit elements, transposed: lane (g, t) gives row g, columns 2t, 2t+1, and gets rows 2t, 2t+1 of column g.
QSPEC_DEVICE uint32_t transpose_matrix(uint32_t pair) {
#if defined(__CUDACC__)
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
#else
  const int g = lane_index() / 4, t = lane_index() % 4;
  const uint32_t first = emulated_shuffle(pair, 2 * t * 4 + g / 2), second = emulated_shuffle(pair, (2 * t + 1) * 4 + g / 2);
  return g & 1 ? first >> 16 | (second & 0xffff0000u) : (first & 0xffffu) | second << 16;
#endif
}

// ---- Programmatic dependent launch (sm_90) -----------------------------------------------------------------------------------------

// Before this, a kernel may overlap the one before it in the stream.
QSPEC_DEVICE void wait_for_previous_kernel() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Behind this in all blocks, the kernel behind it may begin, as far as there is room, and waits there.
QSPEC_DEVICE void let_next_kernel_begin() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace qspec::cuda
