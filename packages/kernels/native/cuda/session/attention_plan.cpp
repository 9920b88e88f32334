#include "session/attention_plan.h"

#include <algorithm>
#include <limits>

namespace qspec::cuda {

namespace {

// Microseconds, fitted to one layer of an 8B shape on an H200: 1 to 32 sequences of 1, 4 and 5 rows over 1k to 32k positions, shared out in all ways; what is of many columns
// to 1 to 16 sequences of 4, 5 and 8 rows.
struct FormatTimes {
  double split;  // of a split in one warp,
  double wide;   // so much more with sixteen columns,
  double byte;   // and at least, of each byte that a multiprocessor reads
};
constexpr FormatTimes kDenseTimes = {3.1, 3.9, 1.0 / 37000}, kCodesTimes = {3.2, 2.3, 1.0 / 32700}, kNibblesTimes = {4.1, 2.7, 1.0 / 27200};
constexpr double kOfEachWarp = 0.24;  // The more warps a multiprocessor has at work, the longer each takes:
// so much more where several use the same tiles, or so much for each that works.
constexpr double kColumnsTime = 1.8, kTilesItemTime = 1;  // of tiles: what a split's bytes take comes to that
// Of an item's queries and of handing in its results, and in the step kernel of folding them; with sixteen columns a warp, and by columns; so much more for each warp at work.
struct ItemTimes {
  double splits, wide_splits, columns, of_each_warp, of_each_columns_warp, unit;  // a further segment of it
};
constexpr ItemTimes kItemTimes = {6.1, 10, 12.5, 0.44, 0.26, 1};
// Where a block takes an item; of a split, and so much more for each that it has under way.
struct GroupTimes {
  double item, split, of_each;
};
constexpr GroupTimes kGroupTimes = {17, 2.2, 1.35};
// Kernels of their own, in long launches: 48 shapes, 17 rows to a prompt of 768, over two caches, in all ways. What all ways take is left out.
constexpr ItemTimes kLongItemTimes = {2.4, 1.3, 2.7, 0.05, 0.25, 0.6};
constexpr GroupTimes kLongGroupTimes = {2.8, 1.53, 0.75}, kLongGroupCodesTimes = {2.8, 1.85, 0.99};
constexpr double kWarpgroupItemTime = 1, kWarpgroupColumnTime = 0.08;  // where a warpgroup takes an item; by columns
constexpr double kOfEachWarpgroup = 1.44, kOfEachCodesWarpgroup = 1.76;  // of a split, for each that works on one; or of a prompt, which is in L2:
constexpr double kPromptSplitTime = 0.5, kOfEachPromptWarpgroup = 0.65;
constexpr double kFoldsTime = 0.8, kFoldsByteTime = 0.46e-6;  // of the kernel that folds; in the step kernel a team
constexpr double kFoldTime = 0.8;      // does,
constexpr double kFoldTurnTime = 1.1;  // for up to eight results of each thread's outputs
constexpr double kLastStepTime = 10;   // of a kernel that takes the last step of shared memory, among others that don't
constexpr int kMostTurns = 8;          // of splits or chunks that are worth a try
constexpr size_t kMostTeamBytes = 160 << 10, kMostRingBytes = 96 << 10;  // of shared memory, with up to eight columns and the shortest rings, and with longer ones: the rest is L1

// So many teams with rings as long as there is room for; none where there isn't.
TeamShare share_of(const AttentionGeometry& geometry, TeamWay way, int team_warps, int num_teams) {
  const auto share = [&](int turns, size_t most) -> TeamShare {
    const int bytes = team_bytes(geometry.head_dim, geometry.has_codes(), way, team_warps, turns);
    if (static_cast<size_t>(num_teams) * bytes > std::min(geometry.room, most)) return {way, team_warps, 0, 0, 0};
    return {way, team_warps, num_teams, turns, bytes};
  };
  if (way == TeamWay::kTiles) return share(split_turns(way), kMostTeamBytes);
  if (way == TeamWay::kWideSplits) return share(kRingTurns[1], geometry.room);
  if (way == TeamWay::kGroups || way == TeamWay::kWarpgroups) return share(1, geometry.room);
  for (const int turns : {kRingTurns[0], kRingTurns[1]}) {
    if (turns > split_turns(way) + 1) continue;  // a split, and the turn that is being used
    if (const TeamShare longer = share(turns, kMostRingBytes); longer.num_teams > 0) return longer;
  }
  return share(kRingTurns[2], way == TeamWay::kColumns ? geometry.room : kMostTeamBytes);
}

int num_splits_of(const SequenceRows& s, const std::vector<int32_t>& positions) { return positions[s.end - 1] / kSplitPositions + 1; }
// A tree whose rows have splits of their own.
bool has_tail(const SequenceRows& s, const std::vector<int32_t>& positions) { return s.start / kSplitPositions < num_splits_of(s, positions); }

// What an item takes at most: of kSegments a number of them. Splits that a tree's rows don't share are items of their own, row by row.
enum class Share { kSplit, kChunk, kSegments, kRows };

class Planner {
 public:
  Planner(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, bool writes_first, bool is_long,
          Share share, int item_segments, int block_rows)
      : sequences_(sequences), positions_(positions), geometry_(geometry), writes_first_(writes_first), is_long_(is_long), share_(share), item_segments_(item_segments), block_rows_(block_rows) {}

  bool run(AttentionPlan* out) {
    out_ = out;
    *out_ = {};
    bool is_tree = false;
    int64_t positions = 0;
    for (const SequenceRows& s : sequences_) is_tree |= has_tail(s, positions_), num_splits_ = std::max(num_splits_, num_splits_of(s, positions_)), positions += positions_[s.end - 1] + 1;
    is_prompt_ = positions_.size() > kMaxStepRows || positions <= 2 * static_cast<int64_t>(positions_.size());
    if (is_tree && share_ == Share::kRows) return false;
    segment_results_ = share_ == Share::kChunk && !is_tree ? kSegmentSplits / kChunkSplits : kSegmentSplits;
    out_->segment_stride = (num_splits_ + kSegmentSplits - 1) / kSegmentSplits;
    out_->result_stride = out_->segment_stride * segment_results_;
    // Only the tail's results of a segment share: two segments' slots are enough, if it lies in one segment or two.
    if (share_ == Share::kSegments) out_->result_stride = is_tree ? std::min(out_->result_stride, 2 * kSegmentSplits) : 1;  // or none
    int num_groups = 0, num_rows = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      num_rows = std::max(num_rows, sequences_[s].end);
      for (int row = sequences_[s].begin; row < sequences_[s].end; row += block_rows_)
        add_rows(static_cast<int>(s), row, std::min(row + block_rows_, sequences_[s].end), num_groups++);
    }
    bool is_folded = false;
    int most_rows = 0;
    for (const AttentionFold& fold : out_->folds) is_folded |= fold.num_items > 1 || fold.num_segments > 1, most_rows = std::max(most_rows, fold.num_rows);
    if (is_folded) out_->fold_shape = {num_groups, most_rows};
    const bool needs_results = share_ != Share::kRows;
    return is_possible_ && (!needs_results || (static_cast<int64_t>(num_rows) * out_->result_stride <= geometry_.result_slots &&
                                               static_cast<int64_t>(num_rows) * out_->segment_stride <= geometry_.segment_slots &&
                                               static_cast<int>(out_->folds.size()) <= geometry_.max_folds));
  }

  // Microseconds, of the team that has most to do, with the number of teams that is best.
  double cost(TeamWay way, int team_warps) {
    const int64_t items = static_cast<int64_t>(out_->items.size()) * geometry_.num_kv_heads;
    const int64_t most = std::min<int64_t>(kStepWarps / team_warps, (items + geometry_.num_blocks - 1) / geometry_.num_blocks);
    double least = std::numeric_limits<double>::infinity();
    for (int num_teams = 1; num_teams <= std::max<int64_t>(most, 1); ++num_teams) {
      const TeamShare share = share_of(geometry_, way, team_warps, num_teams);
      if (share.num_teams == 0) break;
      const double time = cost(share, items) + last_step_cost(share);
      if (time < least) least = time, out_->share = share;
    }
    return least;
  }

 private:
  double cost(const TeamShare& share, int64_t items) const {
    const int64_t teams = int64_t{geometry_.num_blocks} * share.num_teams, turns = (items + teams - 1) / teams;
    int longest = 1;
    for (const AttentionItem& item : out_->items) longest = std::max(longest, item.split_end - item.split_begin);
    const int segments = (longest + kSegmentSplits - 1) / kSegmentSplits;
    const bool by_splits = is_by_splits(share.way), by_columns = share.way == TeamWay::kColumns, by_tiles = share.way == TeamWay::kTiles, is_wide = share.way == TeamWay::kWideSplits;
    const ItemTimes& item_times = is_long_ ? kLongItemTimes : kItemTimes;
    if (by_tiles && turns > 1) return std::numeric_limits<double>::infinity();  // whole chunks take less
    if (share.way == TeamWay::kGroups) {
      const int chunks = (longest + kChunkSplits - 1) / kChunkSplits, of_group = std::min((chunks + kSplitGroups - 1) / kSplitGroups * kChunkSplits, longest);
      const GroupTimes& group = !is_long_ ? kGroupTimes : geometry_.has_codes() ? kLongGroupCodesTimes : kLongGroupTimes;
      const double split = group.split + group.of_each * std::min(chunks, kSplitGroups);
      return static_cast<double>(turns) * (group.item + of_group * split + (segments - 1) * item_times.unit) + fold_cost(share);
    }
    if (share.way == TeamWay::kWarpgroups) {
      const double at_once = static_cast<double>(std::min<int64_t>((items + geometry_.num_blocks - 1) / geometry_.num_blocks, share.num_teams));  // where there are most
      const double split = is_prompt_ ? kPromptSplitTime + kOfEachPromptWarpgroup * at_once : (geometry_.has_codes() ? kOfEachCodesWarpgroup : kOfEachWarpgroup) * at_once;
      return static_cast<double>(turns) * (kWarpgroupItemTime + kWarpgroupColumnTime * columns() + longest * split + (segments - 1) * item_times.unit) + fold_cost(share);
    }
    const int of_warp = !by_splits ? longest : is_long_item(0, longest) ? segments * kChunkSplits : 1;  // splits of an item
    const double at_once = std::clamp<double>(static_cast<double>(items) / geometry_.num_blocks, 1, share.num_teams);  // teams of a multiprocessor
    const double readers = at_once * (by_splits ? std::min(longest, kMaxTeamWarps) : 1), warps = at_once * share.team_warps;
    const double split_bytes = 2.0 * kSplitPositions * geometry_.head_dim * (geometry_.has_codes() ? 1 : 2);
    const FormatTimes& times = geometry_.format == KvFormat::kBf16 ? kDenseTimes : geometry_.format == KvFormat::kInt8 ? kCodesTimes : kNibblesTimes;
    const double together = std::max(kColumnsTime, item_times.of_each_columns_warp * warps);
    const double split = std::max((by_tiles ? 0 : times.split) + (is_wide ? times.wide : 0) + (by_columns ? together : kOfEachWarp * warps), readers * split_bytes * times.byte);
    const double item = (by_columns ? item_times.columns : by_tiles ? kTilesItemTime : is_wide ? item_times.wide_splits : item_times.splits) + item_times.of_each_warp * warps;
    return static_cast<double>(turns) * (item + of_warp * split + (segments - 1) * item_times.unit) + fold_cost(share);
  }
  // A layer of few rows takes a tenth longer where attention takes the last step of shared memory, whatever the weights (measured; not explained).
  double last_step_cost(const TeamShare& share) const {
    const bool is_last = static_cast<size_t>(share.num_teams) * share.team_bytes > kMostTeamBytes;
    return is_long_ && positions_.size() <= kMaxStepRows && is_last ? kLastStepTime : 0;
  }
  int columns() const { return block_rows_ * geometry_.num_heads / geometry_.num_kv_heads; }
  double fold_cost(const TeamShare& share) const {
    if (share_ == Share::kRows || (is_long_ && out_->fold_shape.groups == 0)) return 0;
    if (is_long_) {
      const int of_result = share_ == Share::kSplit ? 1 : share_ == Share::kChunk ? kChunkSplits : kSegmentSplits;  // splits
      const double results = static_cast<double>(positions_.size()) * geometry_.num_heads * ((num_splits_ + of_result - 1) / of_result);
      return kFoldsTime + results * (geometry_.head_dim + kResultTail) * sizeof(float) * kFoldsByteTime;
    }
    const int threads = share.team_warps * 32, outputs = columns() * geometry_.head_dim / 4;
    const int of_segment = std::min(num_splits_, kSegmentSplits), segments = (num_splits_ + kSegmentSplits - 1) / kSegmentSplits;
    const auto fold = [&](int results) { return kFoldTurnTime * ((outputs + threads - 1) / threads) * ((results + 7) / 8); };
    if (share_ == Share::kSegments) return kFoldTime + fold(segments);
    return kFoldTime + fold(share_ == Share::kSplit ? of_segment : (of_segment + kChunkSplits - 1) / kChunkSplits) + (segments > 1 ? fold(segments) : 0);
  }

  // Rows of a sequence that are items together.
  struct Block {
    int sequence, begin, end, group;
    int splits, tail;  // from `tail` on splits are each row's own
    int segments() const { return (splits + kSegmentSplits - 1) / kSegmentSplits; }
  };

  void add_rows(int sequence, int begin, int end, int group) {
    const int splits = positions_[end - 1] / kSplitPositions + 1;
    const Block block{sequence, begin, end, group, splits, std::min(sequences_[sequence].start / kSplitPositions, splits)};
    if (share_ == Share::kSegments && splits - block.tail > kSegmentSplits) is_possible_ = false;
    if (share_ == Share::kRows) {
      add_item(block, begin, end, 0, splits, 0, false);
      out_->folds.push_back({begin, end - begin, 0, 1, 0, 1, 0, group, 1, 1, 0, 0});
      return;
    }
    const size_t first_fold = out_->folds.size();
    for (int segment = 0; segment < block.segments();) {
      const int whole = whole_segments(block, segment);
      if (whole > 0) add_segments(block, segment, whole);
      else add_parts(block, segment);
      segment += std::max(whole, 1);
    }
    for (size_t i = first_fold; i < out_->folds.size(); ++i) out_->folds[i].num_folds = static_cast<int>(out_->folds.size() - first_fold);
  }
  int slot_of(int segment) const { return segment * segment_results_ % out_->result_stride; }
  static int end_of(const Block& block, int segment) { return std::min((segment + 1) * kSegmentSplits, block.splits); }

  // Of the segments from `segment` on, how many one item takes: only what lies before the tail.
  int whole_segments(const Block& block, int segment) const {
    int count = 0;
    while (share_ == Share::kSegments && count < item_segments_ && segment + count < block.segments() && end_of(block, segment + count) <= block.tail) ++count;
    return count;
  }
  void add_segments(const Block& block, int segment, int count) {
    add_item(block, block.begin, block.end, segment * kSegmentSplits, end_of(block, segment + count - 1), slot_of(segment), false);
    out_->items.back().by_segments = count > 1;
    add_fold(block, segment, 1, 0, 1);
  }
  // A segment's chunks, or its splits; the tail's row by row.
  void add_parts(const Block& block, int segment) {
    const int last = end_of(block, segment), slot = slot_of(segment);
    const size_t before = out_->items.size();
    int split = segment * kSegmentSplits, results = 0, chunks = 0;
    for (; share_ == Share::kChunk && split < last && std::min(split + kChunkSplits, last) <= block.tail; split = std::min(split + kChunkSplits, last), ++chunks)
      add_item(block, block.begin, block.end, split, std::min(split + kChunkSplits, last), slot + results++, false);
    for (; split < last; ++split, ++results) {
      if (split < block.tail) add_item(block, block.begin, block.end, split, split + 1, slot + results, false);
      for (int row = block.begin; split >= block.tail && row < block.end; ++row) add_item(block, row, row + 1, split, split + 1, slot + results, true);
    }
    add_fold(block, segment, results, chunks, static_cast<int>(out_->items.size() - before));
  }

  // Behind its items.
  void add_fold(const Block& block, int segment, int results, int chunks, int items) {
    out_->folds.push_back({block.begin, block.end - block.begin, slot_of(segment), results, chunks, items, segment, block.group, block.segments(), 0, 0, 0});
  }

  void add_item(const Block& block, int begin, int end, int split_begin, int split_end, int result, bool is_tail) {
    const SequenceRows& rows = sequences_[block.sequence];
    AttentionItem item{};
    item.row_begin = begin, item.num_rows = end - begin, item.split_begin = split_begin, item.split_end = split_end;
    item.fold = static_cast<int>(out_->folds.size()), item.is_tail = is_tail;
    item.sequence_begin = rows.begin, item.page_begin = rows.page_begin;
    item.last_position = positions_[end - 1];
    item.first_new = writes_first_ ? std::numeric_limits<int>::max() : positions_[rows.begin];
    item.result = result;
    out_->items.push_back(item);
  }

  const std::vector<SequenceRows>& sequences_;
  const std::vector<int32_t>& positions_;
  const AttentionGeometry& geometry_;
  const bool writes_first_, is_long_;
  const Share share_;
  const int item_segments_;  // kSegments: most of an item
  const int block_rows_;  // of a sequence, that one item takes
  int segment_results_ = kSegmentSplits;  // slots of a segment
  AttentionPlan* out_ = nullptr;
  int num_splits_ = 1;
  bool is_possible_ = true;
  bool is_prompt_ = false;  // most of what is read is this launch's own, or read by very many rows
};

// What all rows, so many of a sequence at once, are if an item takes so many splits.
int64_t count_items(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, int rows, int splits) {
  int64_t total = 0;
  for (const SequenceRows& s : sequences) total += int64_t{(num_splits_of(s, positions) + splits - 1) / splits} * ((s.end - s.begin + rows - 1) / rows) * geometry.num_kv_heads;
  return total;
}
// Numbers of segments an item that are worth a try: one, or so many that each team of the grid has one item, with one to all teams a multiprocessor can have.
std::vector<int> segments_to_try(int64_t total, int longest, int num_blocks, int most_teams) {
  std::vector<int> result{1};
  for (int teams = most_teams; teams > 0; --teams) {
    const int64_t at_once = int64_t{num_blocks} * teams, each = (total + at_once - 1) / at_once;
    if (each > result.back() && each < longest) result.push_back(static_cast<int>(each));
  }
  return result;
}

// Rows an item that are worth a try: of a warpgroup's half as many, too, where multiprocessors would have no item.
std::vector<int> rows_to_try(TeamWay way, int most) {
  if (way != TeamWay::kWarpgroups || most == 1) return {most};
  return {most, (most + 1) / 2};
}

// For a kernel that folds (step/folds_kernel.h): the first fold of each block of rows where the block's number says, the others behind all of these.
void order_folds(AttentionPlan* plan) {
  std::vector<AttentionFold> ordered;
  std::vector<int32_t> place(plan->folds.size());
  for (const bool is_first : {true, false}) {
    for (size_t i = 0; i < plan->folds.size(); ++i) {
      const AttentionFold& fold = plan->folds[i];
      if ((i == 0 || plan->folds[i - 1].group != fold.group) != is_first) continue;
      place[i] = static_cast<int32_t>(ordered.size());
      ordered.push_back(fold);
    }
  }
  for (size_t i = 0; i < plan->folds.size(); ++i) {
    AttentionFold& first = ordered[plan->folds[i].group];
    if (place[i] == first.group && first.num_folds > 1) first.rest = place[i + 1];
  }
  for (AttentionItem& item : plan->items) item.fold = place[item.fold];
  plan->folds = std::move(ordered);
}

}  // namespace

bool plan_attention(const std::vector<SequenceRows>& sequences, const std::vector<int32_t>& positions, const AttentionGeometry& geometry, bool writes_first,
                    bool is_long, AttentionPlan* out) {
  int longest = 1, most_splits = 1;
  bool is_tree = false;
  for (const SequenceRows& s : sequences) longest = std::max(longest, s.end - s.begin), most_splits = std::max(most_splits, num_splits_of(s, positions)), is_tree |= has_tail(s, positions);
  const int most_segments = (most_splits + kSegmentSplits - 1) / kSegmentSplits;
  const int heads = geometry.num_heads / geometry.num_kv_heads;
  double least = std::numeric_limits<double>::infinity();
  // Few rows an item, whose splits a team's warps share, or each split's tiles; or many, which they share and read the cache once for.
  for (const TeamWay way : {TeamWay::kTiles, TeamWay::kSplits, TeamWay::kWideSplits, TeamWay::kGroups, TeamWay::kColumns, TeamWay::kWarpgroups}) {
    const bool by_columns = way == TeamWay::kColumns, by_tiles = way == TeamWay::kTiles;
    if (way == TeamWay::kWarpgroups ? !is_long : positions.size() > kMaxStepRows) continue;  // most of the others keep all rows in shared memory
    if (is_tree && (way == TeamWay::kGroups || way == TeamWay::kWarpgroups)) continue;       // they look up pages only
    if (by_tiles && (!has_tile_teams(geometry.head_dim, geometry.format) || positions.size() > kPostedRows)) continue;
    if (way == TeamWay::kWideSplits && (!has_wide_teams(geometry.head_dim, geometry.format) || positions.size() <= kPostedRows || longest * heads <= kWarpColumns)) continue;
    if (way == TeamWay::kGroups && (!has_group_teams(geometry.head_dim, geometry.format) || (!is_long && positions.size() <= kPassRows) || longest * heads <= 2 * kWarpColumns)) continue;
    const int most = (by_columns ? kQueryColumns : team_columns(way, kMaxTeamWarps)) / heads, all = std::min(most, longest);
    if (most == 0) continue;
    const int team_warps = by_columns ? (all * heads + kWarpColumns - 1) / kWarpColumns : most_team_warps(way);
    const auto consider = [&](int rows, Share share, int item_segments) {
      AttentionPlan plan;
      Planner planner(sequences, positions, geometry, writes_first, is_long, share, item_segments, rows);
      if (!planner.run(&plan)) return;
      const double cost = planner.cost(way, team_warps);
      if (cost < least) least = cost, *out = std::move(plan);
    };
    // Short items in many turns always lose, and a plan of ten thousand of them takes the host a millisecond.
    const int most_teams = kStepWarps / team_warps;
    for (const int rows : rows_to_try(way, all)) {
      const auto count = [&](int splits) { return count_items(sequences, positions, geometry, rows, splits); };
      const auto is_short = [&](int splits) { return is_tree || count(splits) <= int64_t{kMostTurns} * geometry.num_blocks * most_teams; };
      if (is_short(1)) consider(rows, Share::kSplit, 0);
      if (by_tiles) continue;
      if (is_short(kChunkSplits)) consider(rows, Share::kChunk, 0);
      for (const int item_segments : segments_to_try(count(kSegmentSplits), most_segments, geometry.num_blocks, most_teams)) consider(rows, Share::kSegments, item_segments);
      consider(rows, Share::kRows, 0);
    }
  }
  if (is_long) order_folds(out);
  // Of a prefill the later rows see more: blocks take what is long first, so that what is left at the end is short.
  if (is_long || out->share.way == TeamWay::kGroups)
    std::stable_sort(out->items.begin(), out->items.end(), [](const AttentionItem& a, const AttentionItem& b) { return a.split_end - a.split_begin > b.split_end - b.split_begin; });
  return !out->items.empty() || sequences.empty();
}

}  // namespace qspec::cuda
