// Shared memory of the step kernel.
//
//   [phases][batch][params][small arrays][stream shapes and sources] [region]
//
// The region holds what one phase works on: a linear's activations and slabs, or attention's tiles. All places before it are constants, so
// that nobody has to carry them in registers.
#pragma once
#include "common/primitives.cuh"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr int kMaxWaveUnits = 64;
constexpr int kWideStateBytes = 96;
constexpr int kBlockBarrier = 0, kTeamBarrier = 1;  // kTeamBarrier + team

template <int n8>
constexpr int step_warps() {
  return kStepWarps;
}
template <int n8>
constexpr int step_threads() {
  return step_warps<n8>() * kWarp;
}

// In launches of few rows who needs a result waits for its words, not for everybody at a barrier.
template <int n8>
constexpr bool may_post() {
  return n8 <= kFewRows;
}
// Every block makes its linears' inputs for itself where that saves a phase.
template <int n8>
constexpr bool may_make_input() {
  return n8 == kOneRow;
}
// Teams of attention may take a split's tiles (TeamWay::kTiles).
template <int n8>
constexpr bool may_take_tiles() {
  return n8 == kFewRows || n8 == kOneRow || n8 == kFiveRows;
}
// Warps of attention may have sixteen query columns (TeamWay::kWideSplits). Where words are waited for that slows down all else: 1 to 2 % of a step.
template <int n8>
constexpr bool may_be_wide() {
  return !may_post<n8>();
}
// A job is a warpgroup's, each warp with a row-tile of its own.
template <int n8>
constexpr bool is_by_groups(GemmMode mode) {
  return n8 >= kGroupRowBlocks && n8 < kWideRowBlocks && !is_integer(mode);
}
template <int n8>
constexpr int row_blocks() {
  return kernel_blocks(n8).blocks;
}
static_assert(kPrologueRows == 1, "only that kernel makes inputs");

// What attention needs of the batch in every layer: each team's first item, its fold, the slots of its first split; and the rows.
constexpr int32_t kAbsent = -1;       // slot of a position beyond the item's last
constexpr int32_t kWrittenHere = -2;  // of a position that this launch adds and that isn't in the cache yet
struct AttentionStart {
  AttentionItem items[kStepWarps];
  AttentionFold folds[kStepWarps];
  int32_t slots[kStepWarps][kSplitPositions];  // of each warp's first split
  int32_t positions[kMaxStepRows];
  int32_t slots_of_rows[kMaxStepRows];
};

// A block's share of linears of one shape, and how their weights lie. Many linears have the same: layers repeat. Offsets count from the
// share's first tile.
struct StreamShape {
  GemmMode mode;
  bool is_pair;             // items are (gate, up) pairs
  int item_begin, item_end;
  int run_begin, num_runs;
  int units, num_waves;     // how many of both; 0: the block has no share. Of warpgroups a unit is items for a row-tile each warp
  int members;              // warps that multiply a job together: kGroupWarps from 25 rows on, unless activations are integers; else 1
  uint32_t slabs_at;        // in shared memory
  int unit_runs;            // runs of a unit: what becomes one row-tile of output, or a (gate, up) pair
  int num_rest, rest_begin;  // from 17 rows on: slices that are left over when each warp has had as many as all can have; their first run
  int second_tile;          // row-tiles from a pair's first to its second
  int tiles;                // of k, to the share's end
  int k;                    // the same in elements
  uint32_t run_bytes, low_run_bytes;    // of a run: dense, or codes with scales; of the low plane, 0 where it isn't read
  uint32_t tile_bytes, low_tile_bytes;  // from row-tile to row-tile
  // From a row-tile's last run to the first of the one that a warp takes next, in tiles and units of 16 bytes. Of a pair: from its first to its second, to
  // the next pair's first.
  int tile_steps[2], jumps[2], low_jumps[2];
};
// A warp's first run of the linears of a shape.
struct alignas(16) WarpStart {
  uint32_t high, low;   // from the source's first bytes, in units of 16
  int32_t run, tile, left, number;  // as in RunWalk
  int32_t step;         // which of the steps from row-tile to row-tile is next; of a warpgroup, its group of row-tiles
  int32_t reserved;
};
// Where the share of one linear begins, by plane.
struct StreamSource {
  const uint8_t* first;
  const uint8_t* low;
  int64_t shape;  // index of its StreamShape
};

// ---- Places, [bytes] -----------------------------------------------------------------------------------------------------------------------

QSPEC_HOST_DEVICE constexpr uint32_t after(uint32_t at, size_t bytes) { return at + (static_cast<uint32_t>(bytes) + 15) / 16 * 16; }
constexpr uint32_t kPhasesAt = 0;                                                // Phase [2] the current one and the next
constexpr uint32_t kBatchAt = after(kPhasesAt, 2 * sizeof(Phase));               // StepBatch
constexpr uint32_t kParamsAt = after(kBatchAt, sizeof(StepBatch));              // StepParams, for functions of their own
constexpr uint32_t kBarrierAt = after(kParamsAt, sizeof(StepParams));            // GridBarrier
constexpr uint32_t kStartAt = after(kBarrierAt, 16);              // AttentionStart
constexpr uint32_t kCompleteAt = after(kStartAt, sizeof(AttentionStart));        // int [kMaxWaveUnits]: all parts of k of a unit are there
constexpr uint32_t kFlagAt = after(kCompleteAt, kMaxWaveUnits * 4);           // int [teams]: attention's answer to all threads of a team
constexpr uint32_t kTeamItemsAt = after(kFlagAt, kStepWarps * 4);              // AttentionItem [teams][2] the present one and the next
constexpr uint32_t kFactorsAt = after(kTeamItemsAt, kStepWarps * 2 * sizeof(AttentionItem));                            // float [rows] 1 / rms of a copied input's rows
constexpr uint32_t kOwnFactorsAt = after(kFactorsAt, kMaxStepRows * 4);          // float [warps][rows] the same of rows that this block makes
constexpr uint32_t kSquaresAt = after(kOwnFactorsAt, kStepWarps * kPrologueRows * 4);  // float [rows][runs] of rows that this block makes
constexpr uint32_t kLargestAt = after(kSquaresAt, kPrologueRows * kMaxRowRuns * 4);  // the same
constexpr uint32_t kWideAt = after(kLargestAt, kPrologueRows * kMaxRowRuns * 4);  // WideState
constexpr uint32_t kWideCountersAt = after(kWideAt, kWideStateBytes);             // of stages: two counters each
constexpr uint32_t kRunCountersAt = after(kWideCountersAt, kWideStages * 16);      // of a share's runs (InputRuns)
constexpr uint32_t kRunParityAt = after(kRunCountersAt, kMaxShareRuns * 8);       // what their present round ends with
constexpr uint32_t kShapesAt = after(kRunParityAt, 4);
constexpr uint32_t kSourcesAt = after(kShapesAt, kMaxStreamShapes * sizeof(StreamShape));
// Behind the sources of `num_linears`: WarpStart [shapes][warps]; behind these the region.
QSPEC_HOST_DEVICE constexpr uint32_t starts_at(int num_linears) { return after(kSourcesAt, num_linears * sizeof(StreamSource)); }
QSPEC_HOST_DEVICE constexpr uint32_t step_fixed(int num_linears, int num_shapes) {
  return (after(starts_at(num_linears), num_shapes * kStepWarps * sizeof(WarpStart)) + 127) / 128 * 128;
}

QSPEC_DEVICE Phase& phase_at(int index) { return shared_at<Phase>(kPhasesAt + (index & 1) * sizeof(Phase)); }
QSPEC_DEVICE const StepBatch& step_batch() { return shared_at<StepBatch>(kBatchAt); }
// Of a phase in this launch.
QSPEC_DEVICE int rows_of(const Phase& phase) { return phase.rows == Rows::kTokens ? step_batch().rows : step_batch().logit_rows; }
QSPEC_DEVICE const StepParams& step_params() { return shared_at<StepParams>(kParamsAt); }
QSPEC_DEVICE AttentionStart& attention_start() { return shared_at<AttentionStart>(kStartAt); }
QSPEC_DEVICE StreamShape& stream_shape(int index) { return shared_at<StreamShape>(kShapesAt + index * sizeof(StreamShape)); }
QSPEC_DEVICE WarpStart& warp_start(const StepParams& params, int shape) {
  return shared_at<WarpStart>(starts_at(params.num_linears) + (shape * kStepWarps + thread_index() / kWarp) * sizeof(WarpStart));
}
QSPEC_DEVICE StreamSource& stream_source(int linear) { return shared_at<StreamSource>(kSourcesAt + linear * sizeof(StreamSource)); }

// Profiling: the block's clock at `step` (0 … kStampSteps - 1) of a phase, and (phase -1) at the launch's start.
QSPEC_DEVICE void stamp_clock(const StepParams& params, int phase, int step) {
  if (params.stamps == nullptr || thread_index() != 0) return;
  params.stamps[static_cast<int64_t>(block_index()) * params.stamps_stride + (phase < 0 ? 0 : 1 + phase * kStampSteps + step)] = device_clock();
}

// ---- Small structs from global memory ----------------------------------------------------------------------------------------------------------

template <typename T>
QSPEC_DEVICE T load_struct(const T* from) {
  static_assert(sizeof(T) % 16 == 0 && alignof(T) == 16, "whole words of 16 bytes");
  T value;
  QSPEC_UNROLL
  for (int i = 0; i < static_cast<int>(sizeof(T) / 16); ++i) reinterpret_cast<uint4*>(&value)[i] = load_constant(reinterpret_cast<const uint4*>(from) + i);
  return value;
}

// Slot of a position that an item attends to, or kAbsent.
QSPEC_DEVICE int32_t slot_of_position(const StepBatch& batch, const AttentionItem& item, int position) {
  if (position > item.last_position) return kAbsent;
  if (item.is_tail) {
    const int start = load_constant(batch.ancestor_starts + item.row_begin);
    if (position >= start) return load_constant(batch.ancestor_slots + static_cast<int64_t>(item.row_begin) * batch.max_ancestors + position - start);
  }
  const int page = position >> batch.page_shift;
  return load_constant(batch.page_ids + item.page_begin + page) << batch.page_shift | (position - (page << batch.page_shift));
}

// Teams take items in turn: first the first teams of all blocks.
QSPEC_DEVICE int first_item(int team) { return team * grid_blocks() + block_index(); }

// At the launch's beginning, all threads, after the batch: the same for every layer. `has_rows`: of up to kMaxStepRows rows, by other teams than groups,
// which need no more than their first item.
template <bool has_rows>
QSPEC_DEVICE void start_attention(const StepBatch& batch, const TeamShare& share, int thread, int num_threads) {
  AttentionStart& start = attention_start();
  for (int i = thread; has_rows && i < batch.rows; i += num_threads) {
    start.positions[i] = load_constant(batch.positions + i);
    start.slots_of_rows[i] = load_constant(batch.slots + i);
  }
  if constexpr (!has_rows) {
    for (int team = thread; team < share.num_teams; team += num_threads)
      if (first_item(team) < batch.num_items * batch.num_kv_heads) start.items[team] = load_struct(batch.items + first_item(team) / batch.num_kv_heads);
  } else {
    QSPEC_NO_UNROLL
    for (int warp = thread / kSplitPositions; warp < share.num_teams * share.team_warps; warp += num_threads / kSplitPositions) {
      const int team = warp / share.team_warps, member = warp - team * share.team_warps, first = first_item(team), i = thread % kSplitPositions;
      if (first >= batch.num_items * batch.num_kv_heads) continue;
      const AttentionItem item = load_struct(batch.items + first / batch.num_kv_heads);
      if (i == 0 && member == 0) start.items[team] = item, start.folds[team] = load_struct(batch.folds + item.fold);
      const int split = is_by_splits(share.way) ? first_member_split(item.split_begin, item.split_end, member) : item.split_begin, position = split * kSplitPositions + i;
      start.slots[warp][i] = slot_of_position(batch, item, position);
    }
  }
}

}  // namespace qspec::cuda
