// What the step kernel is told: a forward pass as a list of phases, and the rows it runs over. Plain data in device memory.
//
// A phase is done by all blocks together; between phases lies a barrier over the grid. Phases carry the fusions that the host chose
// (session/lowering.h): a linear may compute its own input from float32 rows (norm, rotation, quantisation: the prologue) and finish its
// output (bias, residual add, SiLU·mul: the epilogue); attention rotates q and k and writes the cache.
#pragma once
#include <algorithm>

#include "common/layout.h"
#include "qspec/params.h"

namespace qspec::cuda {

constexpr int kMaxParts = 16;        // shares of k that different blocks take
constexpr int kSplitPositions = 64;  // attention is summed over splits of this many positions: splits of a chunk in order,
constexpr int kChunkSplits = 4;      // chunks of a segment in order,
constexpr int kSegmentSplits = 16;   // segments in order; however many of them one item takes
constexpr int kResultTail = 4;       // floats behind a result's outputs: maximum, weight, two unused
constexpr int kTilePositions = 16, kSplitTiles = kSplitPositions / kTilePositions;
constexpr int kWarpColumns = 8;      // query columns, (row, head) pairs, of a warp
constexpr int kMaxTeamWarps = 4;     // that take items of attention together
constexpr int kQueryColumns = kMaxTeamWarps * kWarpColumns;
constexpr int kStateWords = 4 + 4 * (128 / 16);  // a lane's share of a warp's columns' maxima, weights and outputs
constexpr int kMaxStepRows = 256;  // of a launch; without trees
constexpr int kMaxLongRows = 2048;  // of one whose linears are kernels of their own (gemm/cluster_gemm.cuh)
constexpr int kMaxTreeRows = 32;   // of a launch whose rows see each other's slots
constexpr int kMaxLogitRows = 64;
constexpr int kPassRows = 32;      // with more, a linear of integer activations takes so many at a time
constexpr int kStepWarps = 12;       // of a block: 168 registers a thread
constexpr int kStepThreads = 32 * kStepWarps;
// A block takes as much of k as fits so many bytes of activations (where words are waited for, so many more), at least one slice: beyond it the sums are exchanged
// through memory.
constexpr int kShareBytes = 128 << 10, kPostedShareBytes = 144 << 10;
constexpr int kMaxShareRuns = kPostedShareBytes / (8 * kRunK * 2);  // of bfloat16, from six rows on (a block of eight), and some more
constexpr int kUpWarp = 2, kGroupWarps = 2 * kUpWarp;  // of pairs, a warpgroup's warps have two gates and then their two ups
QSPEC_HOST_DEVICE constexpr int group_items(bool is_pair) { return is_pair ? kUpWarp : kGroupWarps; }
// In place of a number of row blocks: kernels of launches whose words are posted (common/primitives.cuh), of one row, of two to kMostFewRows, of kPostedRows.
constexpr int kFewRows = 0, kOneRow = -1, kFiveRows = -2;
constexpr int kMostFewRows = 4, kPostedRows = 5;
// How a kernel's activations lie in shared memory: of up to 32 rows, and so in memory, too.
QSPEC_HOST_DEVICE constexpr RowBlocks kernel_blocks(int n8) {
  return n8 == kOneRow ? RowBlocks{1, 1} : n8 == kFewRows ? RowBlocks{1, kMostFewRows} : n8 == kFiveRows ? RowBlocks{1, kPostedRows} : RowBlocks{n8, 8};
}
constexpr int kPrologueRows = 1;     // up to so many rows every block makes its linears' inputs for itself
constexpr int kMaxHeadDim = 128;
constexpr int kMaxStreamShapes = 24; // linears of different shapes in one program
constexpr int kStampSteps = 8;       // of a phase: its own; kStampSteps - 3: this warp is done, - 2: the block is done, - 1: everybody is done
constexpr int stamps_stride(int num_phases) { return 1 + num_phases * kStampSteps; }
constexpr int kMaxRowRuns = 64;      // runs of 512 in the widest row that has a norm or one quantisation scale

enum class PhaseKind : uint8_t { kEmbedding, kRopeTable, kRows, kGather, kLinear, kReduce, kAttention };
enum class GemmMode : uint8_t { kDense, kHi, kHiLo, kHiInt };
enum class Epilogue : uint8_t { kStore, kAdd, kSilu };
enum class RowSource : uint8_t { kPlain, kNorm, kSilu };
enum class Rows : uint8_t { kTokens, kLogits, kTokensOfLogits };  // kTokensOfLogits: logit rows that read the token row they belong to

constexpr bool is_integer(GemmMode m) { return m == GemmMode::kHiInt; }

// A wide linear (64 rows and more) takes 64 rows at a time; its warps go through k in units of half a piece. In shared memory: stages of activations, a
// unit each; every thread's sums of a slice, so many bytes eight rows (some more than they take, against bank conflicts); and, unless they are
// dense, each warp's next units of weights.
constexpr int kWideUnitTiles = kPieceTiles / 2, kWideRunUnits = kRunTiles / kWideUnitTiles;
constexpr int kWideStages = kWideRunUnits;  // a unit's stage is its place in the run
constexpr int kWideRows = 8 * kWideRowBlocks;
constexpr int kWideStageBytes = kWideUnitTiles * kWideRowBlocks * kWideBlockBytes;
constexpr int kWideSumsStride = kStepThreads * 16 + 64;
constexpr int kWideRingAt = kWideStages * kWideStageBytes + kWideRowBlocks * kWideSumsStride;
// Row-tiles, or pairs of them, of a tile of the product; and tiles.
QSPEC_HOST_DEVICE constexpr int wide_group_items(bool is_pair) { return is_pair ? kStepWarps / 2 : kStepWarps; }
QSPEC_HOST_DEVICE constexpr int wide_tiles(int num_items, bool is_pair, int passes) { return (num_items + wide_group_items(is_pair) - 1) / wide_group_items(is_pair) * passes; }
// Of the tiles that don't go round, how many blocks share: none where that takes as long as a tile each. What is left and added takes about two runs' time.
QSPEC_HOST_DEVICE constexpr int wide_tiles_left(int tiles, int runs, int blocks) { return tiles % blocks * runs + 2 * blocks < runs * blocks ? tiles % blocks : 0; }
// How many units of weights, and what each takes of a lane: its words of the codes and (of up to four groups) the scales of its rows.
constexpr int wide_units(GemmMode mode) { return mode == GemmMode::kDense ? 0 : 2; }
constexpr int wide_unit_scales(bool has_wide_groups) { return has_wide_groups ? 1 : 4; }
constexpr int wide_unit_bytes(GemmMode mode, bool has_wide_groups) {
  return 32 * (kWideUnitTiles * (mode == GemmMode::kHiLo ? 32 : 16) + 4 * wide_unit_scales(has_wide_groups));
}
constexpr int wide_bytes(GemmMode mode, bool has_wide_groups) { return kWideRingAt + kStepWarps * wide_units(mode) * wide_unit_bytes(mode, has_wide_groups); }

// Of StepWorkspace::block_scratch, a block's.
constexpr int kBlockScratchFloats = std::max(kStepWarps * 2 * kStateWords * 32, kWideRowBlocks * kStepThreads * 4);

// Float32 rows and what is done to each before it is stored: norm or SiLU·mul, rotation, rounding or quantisation.
struct RowsSpec {
  RowSource source;
  uint8_t hadamard_shift;   // log2 of the block; 0 = none. At most 9 (512)
  bool awaits;              // input is posted word by word (common/primitives.cuh)
  int width;
  float* input;             // [rows, width]; kSilu: [rows, 2·width], gate | up
  const float* delta;       // added to input in place first (kRows phases only), or nullptr
  const float* norm_weight; // [width]
  float eps;
};

// Activations as a linear reads them, in global or shared memory.
struct XForm {
  uint8_t bits;         // 16: bf16; 4, 8: integer codes
  uint8_t group_shift;  // log2 of the quantisation group
  bool per_token;
  bool awaits;          // data and squares are posted; bf16 only
  uint8_t* data;        // bf16 or codes
  float* scales;        // [groups][columns], integer only
  int32_t* sums;
  float* squares;       // [rows][row_squares()] sums of squares, whose norm products over x are still to be divided by, or nullptr. Up to 32 rows of 16
                        // elements each, with more of a run (512) each, as many a row as there are runs
};
QSPEC_HOST_DEVICE constexpr bool has_tile_squares(const RowBlocks& blocks) { return blocks.columns() <= kPassRows; }
// Sums of squares of 16 elements that a row has room for: whole runs of them (those past the width are not read).
QSPEC_HOST_DEVICE constexpr int row_squares(int width) { return (width + kRunK - 1) / kRunK * (kRunK / kTileN); }


struct LinearSpec {
  DeviceWeight weight;
  GemmMode mode;
  Epilogue epilogue;
  bool has_prologue;     // the input is made from RowsSpec; else XForm is copied
  bool posts;            // the output, out_x and next_squares
  bool awaits_before;    // `before` is posted
  uint8_t half_shift;    // log2 of half tiles (32 k) a group
  bool last_adds;        // wide: of blocks that share a tile the last adds their sums, not a phase behind it
  int num_items;         // row-tiles, or pairs of them (kSilu: gate tile i, up tile i)
  int job_runs;          // wide: runs of a job, 1 or 4
  int num_parts;
  int16_t part_slice[kMaxParts + 1];  // first slice of each part
  int16_t part_block[kMaxParts + 1];  // first block of each part
  const float* bias;     // [n] or nullptr
  float* output;         // float32; nullptr when the epilogue writes out_x
  int64_t output_stride, output_column;
  const float* before;   // kAdd that makes a norm or posts: what it adds to; as `output`, which may be the same
  uint8_t* out_x;        // bf16 x-form of kSilu, or of kAdd's norm, or nullptr
  // kAdd with out_x: the result times these is the x-form of the norm behind it, its factor left out; and the result's sums of squares (see XForm).
  const float* next_norm;
  float* next_squares;
};

// One layer of the cache on the device: [pages, num_kv_heads, page_size, head_dim], so that neighbouring positions of a head are neighbours in memory.
struct DeviceKvLayer {
  KvFormat format;  // kBf16, kInt8 or kInt8Nested
  uint8_t *k, *v;   // bf16, int8, or the plane of high nibbles (head_dim / 2 bytes)
  uint8_t *k_low, *v_low;        // the plane of low nibbles
  float *k_scales, *v_scales;    // [pages, num_kv_heads, page_size]
};
// Which of the vectors of head_dim a slot's is.
QSPEC_HOST_DEVICE constexpr int32_t cache_place(int32_t slot, int kv_head, int num_kv_heads, int page_shift) {
  return ((slot >> page_shift) * num_kv_heads + kv_head) << page_shift | (slot & ((1 << page_shift) - 1));
}

struct AttentionSpec {
  DeviceKvLayer cache;
  float* qkv;            // [rows, (num_heads + 2·num_kv_heads) · head_dim]
  int num_heads, num_kv_heads, head_dim, page_size, sliding_window;
  float scale, eps;
  bool high_plane_only;  // a draft over int8-nested
  bool awaits, posts;    // qkv is posted; output or out_x are
  const float2* rope;    // [rows, head_dim / 2] cos, sin
  const float* q_norm;   // [head_dim] or nullptr
  const float* k_norm;
  float* output;         // [rows, num_heads · head_dim] float32, or nullptr:
  uint8_t* out_x;        // bf16 x-form
};

struct EmbeddingSpec {
  DeviceWeight table;
  float* output;  // [rows, k]
};

struct RopeTableSpec {
  const float* inverse_frequencies;  // [half]
  float attention_factor;
  int half;
  float2* table;  // [rows, half]
};

constexpr int kPhaseBytes = 512;
struct alignas(kPhaseBytes) Phase {
  PhaseKind kind;
  Rows rows;
  bool barrier_after;
  // What is reused from layer to layer (attention's results) needs everybody's word that the last layer is done with it, early enough that nobody waits: a barrier
  // whose arrival is behind this phase, and whose wait before a later one.
  bool arrives_after, waits_before;
  int16_t shape_index;   // kLinear: which of StepParams::shape_linears is cut and streamed alike
  int16_t linear_index;  // kLinear: which of StepParams::linears it is
  RowsSpec source;
  XForm x;
  LinearSpec linear;
  union {
    AttentionSpec attention;
    EmbeddingSpec embedding;
    RopeTableSpec rope_table;
  };
};
static_assert(sizeof(Phase) == kPhaseBytes, "a warp loads one, 16 bytes a lane");

// A share of attention: rows [row_begin, row_begin + num_rows) of one sequence over splits [split_begin, split_end), for every KV head: part of a segment, or some
// whole segments (the last may be shorter).
struct alignas(16) AttentionItem {
  int32_t row_begin, num_rows, split_begin, split_end;
  int32_t fold;                          // which segment's results this belongs to
  int32_t is_tail;                       // tree: one row, whose slots its ancestors name
  int32_t sequence_begin;                // first row of the sequence in this launch
  int32_t page_begin;                    // of the sequence in page_ids
  int32_t last_position;                 // that any row of the item sees
  int32_t first_new;                     // position of the sequence's first row in this launch; INT32_MAX with writes_first
  int32_t result;                        // slot of its result, of the row's
  int32_t by_segments;                   // several whole segments: hands in each
};
// Results of one segment of a block of rows, waited for by its last item; or what an item of whole segments belongs to, which hands in a result of each.
struct alignas(16) AttentionFold {
  int32_t row_begin, num_rows;
  int32_t first_result, num_results;  // slots
  int32_t num_chunks;                 // the first so many results are of whole chunks, the others of splits
  int32_t num_items;                  // that must come in
  int32_t segment;
  int32_t group, num_segments;        // which block of rows, and over how many segments
  int32_t num_folds;                  // of the block of rows
  int32_t rest;                       // of a block of rows' first fold in a long launch: where the others are
  int32_t reserved;
};

// What a kernel behind attention has to fold: so many blocks of rows, of at most so many rows each; none where items are all there is to their columns.
struct FoldShape {
  int32_t groups, rows;
};

// What a team's warps share out among themselves: query columns (eight a warp, one ring of tiles), an item's splits (four warps, up to eight columns, a ring
// each; or up to sixteen columns), or a single split's tiles and then its dims (four warps, up to eight columns, all tiles there at once). Or the whole
// block is a team, whose three groups of four warps take chunks in turn, sixteen columns a warp; or each of these groups is one (long launches).
enum class TeamWay : int32_t { kColumns, kSplits, kTiles, kWideSplits, kGroups, kWarpgroups };
QSPEC_HOST_DEVICE constexpr bool is_by_splits(TeamWay way) { return way == TeamWay::kSplits || way == TeamWay::kWideSplits; }
// Blocks of eight query columns that each warp has; and the tiles of a turn, which are copied, waited for and used together. Two blocks leave registers for one;
// where warps meet for each turn, they are all of a split's K, or V.
QSPEC_HOST_DEVICE constexpr int column_blocks(TeamWay way) { return way == TeamWay::kWideSplits ? 2 : 1; }
QSPEC_HOST_DEVICE constexpr int tiles_at_once(TeamWay way) { return way == TeamWay::kWideSplits ? 1 : way == TeamWay::kColumns ? 4 : 2; }
QSPEC_HOST_DEVICE constexpr int split_turns(TeamWay way) { return 2 * kSplitTiles / tiles_at_once(way); }  // K's, then V's
// A block that takes an item together (step/attention_groups.cuh): its warps, in groups of four that take chunks in turn; and query columns of an item.
constexpr int kGroupTeamWarps = kStepWarps, kSplitWarps = 4, kSplitGroups = kGroupTeamWarps / kSplitWarps, kGroupColumns = 64;
QSPEC_HOST_DEVICE constexpr int most_team_warps(TeamWay way) { return way == TeamWay::kGroups ? kGroupTeamWarps : kMaxTeamWarps; }  // all of them, unless kColumns
// Of shared memory, from a multiple of 1024 bytes on: queries; of each group a tile of K and one of V (of a warpgroup three for both), or over codes one of both and the codes of each; scales, K's and
// V's of two splits a group; whose turn it is.
QSPEC_HOST_DEVICE constexpr int group_tile_bytes(int head_dim) { return kSplitPositions * head_dim * 2; }
constexpr int kGroupScaleBytes = 2 * 2 * kSplitPositions * 4;
QSPEC_HOST_DEVICE constexpr int group_tiles(TeamWay way, bool has_codes) { return way == TeamWay::kWarpgroups && !has_codes ? 3 : 2; }
QSPEC_HOST_DEVICE constexpr int group_team_bytes(int head_dim) {
  return (1 + 2 * kSplitGroups) * group_tile_bytes(head_dim) + kSplitGroups * kGroupScaleBytes + kSplitWarps * 4 + 1024;
}
QSPEC_HOST_DEVICE constexpr int warpgroup_team_bytes(int head_dim, bool has_codes) {
  return (1 + group_tiles(TeamWay::kWarpgroups, has_codes)) * group_tile_bytes(head_dim) + kGroupScaleBytes + 1024;
}
constexpr int kWarpgroupScratchFloats = 2 * (1 + kMaxHeadDim / 8) * kSplitWarps * 32 * 4;  // saved sums
// How a block's warps take part in attention: in teams of so many. Of a ring's turns one is being used, the others are on their way.
struct TeamShare {
  TeamWay way;
  int32_t team_warps, num_teams;
  int32_t ring_turns;  // of tiles_at_once() each: one of kRingTurns, or (kTiles) all of a split
  int32_t team_bytes;  // of shared memory
};
constexpr int kRingTurns[] = {5, 3, 2};
// A tile's rows are 16 bytes longer than what they hold, so that the same 16 bytes of eight rows lie in different banks; behind them lie their scales (codes).
QSPEC_HOST_DEVICE constexpr int tile_row_bytes(int head_dim, bool has_codes) { return head_dim * (has_codes ? 1 : 2) + 16; }
QSPEC_HOST_DEVICE constexpr int tile_bytes(int head_dim, bool has_codes) { return kTilePositions * (tile_row_bytes(head_dim, has_codes) + (has_codes ? 4 : 0)); }
QSPEC_HOST_DEVICE constexpr int query_row_bytes(int head_dim) { return head_dim * 2 + 16; }
QSPEC_HOST_DEVICE constexpr int team_columns(TeamWay way, int team_warps) {
  return way == TeamWay::kGroups || way == TeamWay::kWarpgroups ? kGroupColumns : (way == TeamWay::kColumns ? team_warps : column_blocks(way)) * kWarpColumns;
}
// Teams whose warps have sixteen columns: in launches of more than kPostedRows rows, of head sizes with code of their own.
QSPEC_HOST_DEVICE constexpr bool has_wide_teams(int head_dim, KvFormat format) { return head_dim == kMaxHeadDim || (head_dim == 64 && format == KvFormat::kBf16); }
// Blocks that take items: in launches of more than kPassRows rows, where all K and V are written first.
QSPEC_HOST_DEVICE constexpr bool has_group_teams(int head_dim, KvFormat format) { return has_wide_teams(head_dim, format); }
// Teams that take tiles: in launches of up to kPostedRows rows, of this head_dim and not over nibble planes.
constexpr int kTileTeamDim = 128;
QSPEC_HOST_DEVICE constexpr bool has_tile_teams(int head_dim, KvFormat format) { return head_dim == kTileTeamDim && format != KvFormat::kInt8Nested; }
constexpr int kTileScoreBytes = 32 * 16;                                                    // of a tile: a lane's scores
constexpr int kFoldFactorBytes = (kSegmentSplits + kSegmentSplits / kChunkSplits) * 16;  // of a column
// Of a team's rings; or of a split's tiles, where a segment's results are folded, too, four outputs a thread, with their factors.
QSPEC_HOST_DEVICE constexpr int ring_bytes(int head_dim, bool has_codes, TeamWay way, int team_warps, int ring_turns) {
  const int rings = (is_by_splits(way) ? team_warps : 1) * ring_turns * tiles_at_once(way) * tile_bytes(head_dim, has_codes);
  const int results = way == TeamWay::kTiles ? kSegmentSplits * team_warps * 32 * 16 + team_warps * kFoldFactorBytes : 0;
  return rings > results ? rings : results;
}
// Of a warp's sixteen columns, over a chunk: maxima and weights, then outputs.
QSPEC_HOST_DEVICE constexpr int wide_sums_bytes(int head_dim) { return column_blocks(TeamWay::kWideSplits) * (1 + head_dim / 16) * 32 * 16; }
// Of shared memory: rings, bfloat16 queries of two items, and a word a warp, its tile's scores or its sums of a chunk.
QSPEC_HOST_DEVICE constexpr int team_bytes(int head_dim, bool has_codes, TeamWay way, int team_warps, int ring_turns) {
  if (way == TeamWay::kGroups) return group_team_bytes(head_dim);
  if (way == TeamWay::kWarpgroups) return warpgroup_team_bytes(head_dim, has_codes);
  return ring_bytes(head_dim, has_codes, way, team_warps, ring_turns) + 2 * team_columns(way, team_warps) * query_row_bytes(head_dim) +
         (way == TeamWay::kTiles ? team_warps * kTileScoreBytes : way == TeamWay::kWideSplits ? team_warps * wide_sums_bytes(head_dim) : 16);
}
// A team that takes splits takes a chunk's, or, of a longer item, a segment's chunks. A warp's first split, which may lie past the item's end:
QSPEC_HOST_DEVICE constexpr bool is_long_item(int begin, int end) { return end - begin > kChunkSplits; }
QSPEC_HOST_DEVICE constexpr int first_member_split(int begin, int end, int member) { return begin + member * (is_long_item(begin, end) ? kChunkSplits : 1); }

// The rows of one launch; arrays lie in device memory. See BatchRows in qspec/params.h.
struct alignas(8) StepBatch {
  int32_t rows, logit_rows;
  int32_t num_items;        // of attention, for one KV head
  int32_t reserved;
  int32_t writes_first;     // every row's K and V go to the cache before anybody attends: trees, and many rows of one sequence
  int32_t num_kv_heads, page_shift;  // log2 of the slots a page
  int32_t max_ancestors;
  int32_t result_stride;    // slots of results a row, see StepWorkspace
  int32_t segment_stride;
  const int32_t* tokens;       // pool of tokens; row r is tokens[token_index[r]]
  const int32_t* token_index;
  const int32_t* positions;
  const int32_t* slots;
  const int32_t* page_ids;
  const int32_t* ancestor_starts;
  const int32_t* ancestor_slots;
  const int32_t* logit_row_index;  // [logit_rows] token row of each
  const AttentionItem* items;
  const AttentionFold* folds;
};

// Scratch that launches of one stream share; counters are zero before the first and after every launch.
struct StepWorkspace {
  unsigned long long* barrier;  // arrivals so far, never reset
  float* partials;              // [slice][row][padded n] of linears whose k is shared out; from 17 rows on see slice_sums() and WideShares
  int32_t* counters;            // [items of the widest linear], [tiles of a wide one that are shared]
  float* item_results;          // [row · result_stride + slot][head][head_dim + kResultTail]
  float* segment_results;       // [row · segment_stride + segment][head][head_dim + kResultTail]
  float* block_scratch;         // attention: saved states [block][warp][2][kStateWords][lane]; wide linears: totals [block][row block][thread][4]
  int32_t* fold_counters;       // [folds · num_kv_heads], then [groups · num_kv_heads]
  int32_t max_folds;
};

struct StepParams {
  const Phase* phases;
  const StepBatch* batch;
  StepWorkspace workspace;
  const Phase* linears;         // the linear ones again, in order
  int shape_linears[kMaxStreamShapes];  // linears that stand for all of their shape
  int num_shapes;
  int num_phases;
  int num_linears;
  RowBlocks blocks;             // how x-forms in memory are laid out
  int region_at, region_end;    // in shared memory: what a phase works on: activations, and behind them slabs as long as there is room
  TeamShare attention;
  unsigned long long* stamps;   // [blocks][stamps_stride] a block's clock: at the start, then [phase][kStampSteps]; or nullptr
  int stamps_stride;
};

}  // namespace qspec::cuda
