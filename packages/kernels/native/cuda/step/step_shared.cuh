// Shared memory of the step kernel.
//
//   [barriers][phases][stream][start][small arrays][row scratch] [region] [ring]
//
// The region holds what one phase works on: a linear's activations and slabs, or attention's tiles. The ring holds weights: every warp has
// stages of its own, which it fills and empties itself (step/weight_stream.cuh).
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr int kMaxStages = 96;  // of all warps
constexpr int kUnitCounters = 64;
constexpr int kConsumerBarrier = 1;
constexpr int kStreamWindow = 8;  // linear phases whose weights the warps may ask for ahead

// Sixteen warps have 128 registers each; with 17 rows and more a warp needs up to 255.
template <int n8>
constexpr int step_warps() {
  return n8 <= 2 ? 16 : 8;
}
template <int n8>
constexpr int step_threads() {
  return step_warps<n8>() * kWarp;
}
// Row-tiles of a job: with many rows an activation fragment read from shared memory serves two.
template <int n8>
constexpr int job_tiles() {
  return n8 >= 3 ? 2 : 1;
}

// What attention needs of the batch in every layer: this block's first item and the slots of its first split, and the rows.
constexpr int32_t kAbsent = -1;       // slot of a position beyond the item's last
constexpr int32_t kWrittenHere = -2;  // of a position that this launch adds: not to be copied from the cache
struct AttentionStart {
  AttentionItem item;
  int32_t slots[kSplitPositions];
  int32_t positions[kMaxStepRows];
  int32_t slots_of_rows[kMaxStepRows];
};

// A block's share of a linear.
struct LinearShare {
  int part;
  int item_begin, item_end;
  int run_begin, num_runs;
  int num_units;  // row-tiles, pairs of neighbours, or (gate, up) pairs
  int unit_jobs;  // jobs a unit
  int num_jobs;
};
// A linear phase as this block's warps stream it.
struct StreamEntry {
  DeviceWeight weight;
  LinearShare share;
  GemmMode mode;
  bool is_pair;
};

// Partial results of rows, shared by a block.
struct RowScratch {
  float* squares;  // [rows · runs]
  float* largest;
};

struct StepShared {
  uint64_t* full;    // [stages] a stage's bytes have arrived
  Phase* phases;     // [2] the current one and the next
  StreamEntry* stream;  // [kStreamWindow]
  AttentionStart* start;
  int* units;        // [kUnitCounters] jobs of a unit that are done
  int* reduced;      // [kUnitCounters] stamp of the unit that was stored last
  int* flag;         // attention's answer to all threads
  RowScratch rows;
  uint8_t* region;
  uint8_t* ring;
};

constexpr size_t kStepFixedBytes = (kMaxStages * 8 + 2 * sizeof(Phase) + kStreamWindow * sizeof(StreamEntry) + sizeof(AttentionStart) + 2 * kUnitCounters * 4 + 64 +
                                    2 * 4 * 8 * kMaxRowRuns + 1023) / 1024 * 1024;

QSPEC_DEVICE StepShared carve_shared(const StepParams& params) {
  uint8_t* p = shared_memory();
  const auto take = [&p](size_t bytes) {
    uint8_t* at = p;
    p += bytes;
    return at;
  };
  StepShared s;
  s.phases = reinterpret_cast<Phase*>(take(2 * sizeof(Phase)));
  s.full = reinterpret_cast<uint64_t*>(take(kMaxStages * 8));
  s.stream = reinterpret_cast<StreamEntry*>(take(kStreamWindow * sizeof(StreamEntry)));
  s.start = reinterpret_cast<AttentionStart*>(take(sizeof(AttentionStart)));
  s.units = reinterpret_cast<int*>(take(kUnitCounters * 4));
  s.reduced = reinterpret_cast<int*>(take(kUnitCounters * 4));
  s.flag = reinterpret_cast<int*>(take(64));
  s.rows.squares = reinterpret_cast<float*>(take(4 * 8 * kMaxRowRuns));
  s.rows.largest = reinterpret_cast<float*>(take(4 * 8 * kMaxRowRuns));
  s.region = shared_memory() + kStepFixedBytes;
  s.ring = s.region + params.region_bytes;
  return s;
}

QSPEC_DEVICE Phase* phase_slot(const StepShared& s, int index) { return s.phases + (index & 1); }

QSPEC_DEVICE AttentionItem load_item(const StepBatch& batch, int index) {
  AttentionItem item;
  auto* words = reinterpret_cast<uint4*>(&item);
  const auto* from = reinterpret_cast<const uint4*>(batch.items + index);
  QSPEC_UNROLL
  for (int i = 0; i < static_cast<int>(sizeof(AttentionItem) / 16); ++i) words[i] = load_constant(from + i);
  return item;
}

// Slot of a position that an item attends to, kAbsent or kWrittenHere.
QSPEC_DEVICE int64_t slot_of_position(const StepBatch& batch, const AttentionItem& item, int page_size, int position) {
  if (position > item.last_position) return kAbsent;
  if (position >= item.first_new) return kWrittenHere;
  if (item.is_tail) {
    const int start = load_constant(batch.ancestor_starts + item.row_begin);
    if (position >= start) return load_constant(batch.ancestor_slots + static_cast<int64_t>(item.row_begin) * batch.max_ancestors + position - start);
  }
  return static_cast<int64_t>(load_constant(batch.page_ids + item.page_begin + position / page_size)) * page_size + position % page_size;
}

// At the launch's beginning, all threads: the same for every layer.
QSPEC_DEVICE void start_attention(const StepBatch& batch, AttentionStart* start, int thread, int num_threads) {
  if (thread < batch.rows) {
    start->positions[thread] = load_constant(batch.positions + thread);
    start->slots_of_rows[thread] = load_constant(batch.slots + thread);
  }
  if (block_index() >= batch.num_items * batch.num_kv_heads) return;
  const AttentionItem item = load_item(batch, block_index() / batch.num_kv_heads);
  if (thread == 0) start->item = item;
  for (int i = thread; i < kSplitPositions; i += num_threads)
    start->slots[i] = static_cast<int32_t>(slot_of_position(batch, item, batch.page_size, item.split_begin * kSplitPositions + i));
}

}  // namespace qspec::cuda
