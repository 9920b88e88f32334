// Shared memory of the step kernel.
//
//   [phases][small arrays][row scratch][stream shapes and sources] [region] [ring]
//
// The region holds what one phase works on: a linear's activations and slabs, or attention's tiles. The ring holds weights: every warp has
// stages of its own, which it fills and empties itself (step/weight_stream.cuh). Small things are reached by pointer, large ones by offset.
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr int kMaxStages = 128;  // of all warps
constexpr int kUnitCounters = 64;
constexpr int kBlockBarrier = 1;

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

// A block's share of linears of one shape, and how their weights lie. Many linears have the same: layers repeat.
struct StreamShape {
  GemmMode mode;
  bool is_pair;             // items are (gate, up) pairs
  int part;
  int item_begin, item_end;
  int run_begin, num_runs;
  int unit_jobs, num_jobs;  // a unit: a row-tile, two neighbours (n8 >= 3), or a (gate, up) pair
  int full_parts;           // pieces of a run (of one plane and row-tile)
  int last_run, last_parts; // the share's run that ends the row-tile, -1: another share has it
  uint32_t piece_bytes, last_piece_bytes, last_low_bytes;
  uint32_t tile_bytes, run_bytes;        // from row-tile to row-tile, run to run: dense or hi with scales
  uint32_t low_tile_bytes;
  int second_tile;          // row-tiles from a pair's first to its second
};
// Where the share of one linear begins, by plane.
struct StreamSource {
  const uint8_t* first;
  const uint8_t* low;
  int64_t shape;  // index of its StreamShape
};

// Partial results of rows, shared by a block.
struct RowScratch {
  float* squares;  // [rows · runs]
  float* largest;
};

struct StepShared {
  Phase* phases;     // [2] the current one and the next
  AttentionStart* start;
  int* flag;         // attention's answer to all threads
  int* units;        // [kUnitCounters] jobs of a unit that are done
  RowScratch rows;
  StreamShape* shapes;     // [num_shapes]
  StreamSource* sources;   // [num_linears]
  uint32_t full;     // mbarriers [stages]: a stage's bytes have arrived
  uint32_t reduced;  // int [kUnitCounters] stamp of the unit that was stored last
  uint32_t region, ring;
};

constexpr size_t kStepFixedBytes =
    2 * sizeof(Phase) + kMaxStages * 8 + sizeof(AttentionStart) + 2 * kUnitCounters * 4 + 64 + 2 * 4 * 8 * kMaxRowRuns + kMaxStreamShapes * sizeof(StreamShape);
QSPEC_HOST_DEVICE constexpr size_t step_fixed(int num_linears) { return (kStepFixedBytes + num_linears * sizeof(StreamSource) + 1023) / 1024 * 1024; }

QSPEC_DEVICE StepShared carve_shared(const StepParams& params) {
  uint8_t* const base = shared_memory();
  uint32_t at = 0;
  const auto take = [&at](size_t bytes) {
    const uint32_t offset = at;
    at += static_cast<uint32_t>(bytes);
    return offset;
  };
  StepShared s;
  s.phases = reinterpret_cast<Phase*>(base + take(2 * sizeof(Phase)));
  s.full = take(kMaxStages * 8);
  s.start = reinterpret_cast<AttentionStart*>(base + take(sizeof(AttentionStart)));
  s.units = reinterpret_cast<int*>(base + take(kUnitCounters * 4));
  s.reduced = take(kUnitCounters * 4);
  s.flag = reinterpret_cast<int*>(base + take(64));
  s.rows.squares = reinterpret_cast<float*>(base + take(4 * 8 * kMaxRowRuns));
  s.rows.largest = reinterpret_cast<float*>(base + take(4 * 8 * kMaxRowRuns));
  s.shapes = reinterpret_cast<StreamShape*>(base + take(kMaxStreamShapes * sizeof(StreamShape)));
  s.sources = reinterpret_cast<StreamSource*>(base + take(params.num_linears * sizeof(StreamSource)));
  s.region = static_cast<uint32_t>(step_fixed(params.num_linears));
  s.ring = s.region + params.region_bytes;
  return s;
}

// Profiling: the block's clock at `step` (0 … kStampSteps - 1) of a phase, and (phase -1, the last step) at the launch's start.
QSPEC_DEVICE void stamp_clock(const StepParams& params, int phase, int step) {
  if (params.stamps == nullptr || thread_index() != 0) return;
  params.stamps[static_cast<int64_t>(block_index()) * params.stamps_stride + (phase < 0 ? 0 : 1 + phase * kStampSteps + step)] = device_clock();
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
QSPEC_DEVICE int32_t slot_of_position(const StepBatch& batch, const AttentionItem& item, int position) {
  if (position > item.last_position) return kAbsent;
  if (position >= item.first_new) return kWrittenHere;
  if (item.is_tail) {
    const int start = load_constant(batch.ancestor_starts + item.row_begin);
    if (position >= start) return load_constant(batch.ancestor_slots + static_cast<int64_t>(item.row_begin) * batch.max_ancestors + position - start);
  }
  const int page = position >> batch.page_shift;
  return load_constant(batch.page_ids + item.page_begin + page) << batch.page_shift | (position - (page << batch.page_shift));
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
  for (int i = thread; i < kSplitPositions; i += num_threads) start->slots[i] = slot_of_position(batch, item, item.split_begin * kSplitPositions + i);
}

}  // namespace qspec::cuda
