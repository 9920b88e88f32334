#include "session/launch_list.h"

#include <algorithm>
#include <limits>

#include "gemm/cluster_gemm.h"
#include "session/step_plan.h"

namespace qspec::cuda {

namespace {

// Is all K and V in the cache before anybody attends?
bool writes_first(const PassRows& pass, int count, bool is_long) { return pass.has_ancestors || is_long || count > kPassRows; }

}  // namespace

// Of a launch of the pass. Where sequences have few rows teams of warps attend, which keep all rows of a launch in shared memory.
int LaunchList::most_rows(bool is_draft, const PassRows& pass) const {
  constexpr int64_t kManyRows = 8;
  const LaunchRows& max_rows = max_rows_[is_draft];
  if (pass.has_ancestors) return std::min(kMaxTreeRows, max_rows.rows);
  if (max_rows.long_rows == 0) return max_rows.rows;
  int64_t sequences = 0;
  for (size_t i = 0; i < pass.sequences.size(); ++i) sequences += i == 0 || pass.sequences[i] != pass.sequences[i - 1];
  return pass.rows() >= kManyRows * sequences ? max_rows.long_rows : std::min(max_rows.long_rows, kMaxStepRows);
}

Status LaunchList::add(bool is_draft, const PassRows& pass) {
  const int rows = static_cast<int>(pass.rows()), most = most_rows(is_draft, pass);
  const LaunchRows& max_rows = max_rows_[is_draft];
  for (int first = 0; first < rows;) {
    const int rest = rows - first, launches = (rest + most - 1) / most;
    int count = (rest + launches - 1) / launches;  // all alike
    if (count > kMaxStepRows) count = std::min(rest, (count + kGemmRows - 1) / kGemmRows * kGemmRows);  // whole tiles
    const bool is_long = max_rows.long_rows > 0 && count >= max_rows.least_long;
    const auto begin = std::lower_bound(pass.logit_rows.begin(), pass.logit_rows.end(), first);
    if (!is_long && pass.logit_rows.end() - begin > kMaxLogitRows && begin[kMaxLogitRows] < first + count) count = begin[kMaxLogitRows] - first;
    QSPEC_RETURN_IF_ERROR(add_launch(is_draft, pass, first, count, is_long));
    first += count;
  }
  return {};
}

Status LaunchList::add_launch(bool is_draft, const PassRows& pass, int first, int count, bool is_long) {
  const auto slice = [&](const std::vector<int32_t>& all) { return std::vector<int32_t>(all.begin() + first, all.begin() + first + count); };
  const std::vector<int32_t> positions = slice(pass.positions);
  std::vector<SequenceRows> sequences;
  for (int i = 0; i < count; ++i) {
    const int32_t sequence = pass.sequences[first + i];
    if (i == 0 || sequence != pass.sequences[first + i - 1]) {
      sequences.push_back({i, i, std::numeric_limits<int32_t>::max(), (*page_offsets_)[sequence]});
    }
    sequences.back().end = i + 1;
    if (pass.has_ancestors) sequences.back().start = std::min(sequences.back().start, pass.ancestor_starts[first + i]);
  }
  AttentionPlan attention;
  const bool writes = writes_first(pass, count, is_long);
  if (geometry_.num_heads > 0 && !plan_attention(sequences, positions, geometry_, writes, is_long, &attention))
    return {StatusCode::kUnsupported, "Expected attention's partial results to fit the workspace: a tree spans more than 1024 positions, or the context is longer than the cache."};

  Launch launch;
  launch.is_draft = is_draft;
  launch.rows = count, launch.row_class = row_class_of(count, is_long);
  launch.attention = attention.share;
  if (is_long) launch.folds = attention.fold_shape;

  StepBatch b{};
  b.rows = count, b.writes_first = writes;
  b.num_items = static_cast<int>(attention.items.size());
  b.result_stride = std::max(attention.result_stride, 1), b.segment_stride = std::max(attention.segment_stride, 1);
  b.tokens = arrays_.tokens, b.page_ids = arrays_.page_ids;
  b.token_index = arena_.put(slice(pass.token_index));
  b.positions = arena_.put(positions);
  b.slots = arena_.put(slice(pass.slots));
  b.num_kv_heads = geometry_.num_kv_heads, b.page_shift = page_shift_;
  b.items = arena_.put(attention.items);
  b.folds = arena_.put(attention.folds);
  if (pass.has_ancestors) {
    b.max_ancestors = pass.max_ancestors;
    b.ancestor_starts = arena_.put(slice(pass.ancestor_starts));
    b.ancestor_slots = arena_.put(pass.ancestor_slots.data() + static_cast<int64_t>(first) * pass.max_ancestors, static_cast<size_t>(count) * pass.max_ancestors);
  }
  return add_logits(pass, first, count, launch, b);
}

// The launch, and more of them where its rows [first, first + count) want many logits.
Status LaunchList::add_logits(const PassRows& pass, int first, int count, Launch launch, StepBatch batch) {
  auto begin = std::lower_bound(pass.logit_rows.begin(), pass.logit_rows.end(), first);
  const auto end = std::lower_bound(begin, pass.logit_rows.end(), first + count);
  do {
    if (static_cast<int>(launches_.size()) == max_launches_)
      return {StatusCode::kInternal, "Expected at most " + std::to_string(max_launches_) + " launches in one call."};
    const auto last = begin + std::min<std::ptrdiff_t>(end - begin, kMaxLogitRows);
    std::vector<int32_t> rows(begin, last);
    for (int32_t& row : rows) row -= first;
    launch.slot = static_cast<int>(launches_.size());
    launch.first_logit_row = static_cast<int>(begin - pass.logit_rows.begin()), launch.num_logit_rows = static_cast<int>(rows.size());
    batch.logit_rows = launch.num_logit_rows, batch.logit_row_index = arena_.put(rows);
    arena_.put_fixed(step_struct_offset(launch.slot), batch);
    launch.is_sampled = !pass.samples.empty() && launch.num_logit_rows > 0, launch.has_general = false;
    for (int i = 0; launch.is_sampled && i < launch.num_logit_rows; ++i) launch.has_general |= pass.samples[launch.first_logit_row + i].is_general != 0;
    if (launch.is_sampled) add_samples(pass, launch);
    launches_.push_back(launch);
    launch.only_logits = true, begin = last;
  } while (begin != end);
  return {};
}

void LaunchList::add_samples(const PassRows& pass, const Launch& launch) {
  const std::vector<SampleRow> rows(pass.samples.begin() + launch.first_logit_row, pass.samples.begin() + launch.first_logit_row + launch.num_logit_rows);
  std::vector<int32_t> general;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].is_general) general.push_back(static_cast<int32_t>(i));
  SampleBatch s{};
  s.num_rows = launch.num_logit_rows, s.num_general = static_cast<int32_t>(general.size());
  s.rows = arena_.put(rows);
  s.general_rows = arena_.put(general);
  s.samplers = arrays_.samplers, s.bias_ids = arrays_.bias_ids, s.bias_values = arrays_.bias_values, s.history = arrays_.history;
  s.tokens = arrays_.tokens;
  arena_.put_fixed(sample_struct_offset(launch.slot), s);
}

}  // namespace qspec::cuda
