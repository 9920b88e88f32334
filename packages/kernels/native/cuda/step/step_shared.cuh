// Shared memory of the step kernel, and who is who in a block.
//
//   consumers   kWarps warps: all arithmetic
//   producer    one warp: streams the weights of all phases, in order, into a ring of stages; it waits for nothing but free stages, so
//               the next phases' weights arrive while the grid is at a barrier or in attention
//
//   [barriers][two phases][counters][row scratch][x][slabs][ring]
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr int kMaxStages = 64;
constexpr int kUnitCounters = 64;
constexpr int kConsumerBarrier = 1;
constexpr int kIsLast = 0, kIssued = 1;  // flags: attention's answer to all threads; pieces that the producer has asked for

// With the producer 20 and 12 warps: five and three on each of a multiprocessor's four partitions, 96 and 168 registers a thread.
template <int n8>
constexpr int consumer_warps() {
  return n8 <= 2 ? 19 : 11;
}

struct StepShared {
  uint64_t* full;    // [stages] bytes have arrived
  uint64_t* empty;   // [stages] may be overwritten
  Phase* phases;     // [2] the current one and the next
  Phase* stream;     // [2] the same of the producer's
  int* units;        // [kUnitCounters] runs of a row-tile (or pair) that came in
  int* flags;        // [4] see below
  RowScratch rows;
  uint8_t* x;
  float* slabs;
  uint8_t* ring;
};

constexpr int kStepFixedBytes = 2 * kMaxStages * 8 + 4 * 512 + kUnitCounters * 4 + 64 + 2 * 4 * 8 * kMaxRowRuns;

QSPEC_DEVICE StepShared carve_shared(const StepParams& params, int slab_bytes) {
  uint8_t* p = shared_memory();
  StepShared s;
  s.full = reinterpret_cast<uint64_t*>(p), s.empty = s.full + kMaxStages;
  p += 2 * kMaxStages * 8;
  s.phases = reinterpret_cast<Phase*>(p);
  p += 2 * 512;
  s.stream = reinterpret_cast<Phase*>(p);
  p += 2 * 512;
  s.units = reinterpret_cast<int*>(p);
  p += kUnitCounters * 4;
  s.flags = reinterpret_cast<int*>(p);
  p += 64;
  s.rows.squares = reinterpret_cast<float*>(p), s.rows.largest = s.rows.squares + 8 * kMaxRowRuns;
  p = shared_memory() + kStepFixedBytes;
  s.x = p;
  p += params.x_bytes;
  s.slabs = reinterpret_cast<float*>(p);
  p += params.slab_jobs * slab_bytes;
  s.ring = p;
  return s;
}

QSPEC_DEVICE Phase* phase_slot(const StepShared& s, int index) { return reinterpret_cast<Phase*>(reinterpret_cast<uint8_t*>(s.phases) + (index & 1) * 512); }

// Sums of one job in its slab: [tile][column][16 outputs]; every second pair of columns has its halves exchanged, against bank conflicts.
QSPEC_HOST_DEVICE constexpr int slab_floats(int tiles, int columns) { return tiles * columns * kTileN; }
QSPEC_DEVICE int slab_place(int column, int out) { return column * kTileN + (out ^ (column << 2 & 8)); }

}  // namespace qspec::cuda
