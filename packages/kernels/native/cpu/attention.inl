// Paged causal attention over the vector wrapper of one instruction set.
//
// Work: a *group* is up to 16 consecutive rows of one sequence, a *query* one (row, head) of it. For each block of
// kBlock = 32 positions and each kv head, K is transposed once to [head_dim][32] float and V widened to rows, and every
// query of the group uses them:
//
//   scores[32] = scale · q · K (a lane is a position, summed along head_dim in order)   -> running maximum, exp,
//   running sum acc[head_dim] = acc · e^(old max - new max) + Σ_j p[j] · V[j] (a lane is a dimension, summed along
//   positions in order)
//
// Row invariance: blocks begin at multiples of 32 *positions*, whatever the pages, slots and neighbours; a query walks
// its own blocks in order and its own positions in order, and every number it sees comes from the same instructions
// however queries are grouped. Positions that a query may not see are never multiplied in (their memory may hold
// anything).
#include "row_sink.inl"

namespace qspec::cpu::QSPEC_ISA {

namespace {

constexpr int kBlock = 32;
constexpr int kGroupRows = 16;
constexpr int kScoreVectors = kBlock / kLanes;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// K and V of one kv head at kBlock positions, as floats (int8: codes; the scales are apart).
struct Block {
  float* keys;    // [head_dim][kBlock]
  float* values;  // [kBlock][padded_dim]; copied even from a float cache, whose rows may all lie in one set of the
                  // first cache
  float key_scales[kBlock];  // int8 only
  float value_scales[kBlock];
  int begin, end;  // positions of the block that hold something
};

// Rows of a group, and what each may see.
struct Group {
  int64_t row, count;
  int64_t first[kGroupRows], own[kGroupRows];  // positions [first, own]
  int64_t lowest_first, highest_own;
};

struct Query {
  const float* q;  // [head_dim]
  float* acc;      // [padded_dim]
  float* sums;     // [kLanes], added up at the end
  float largest;
  int row;  // within the group
};

int64_t slot_of(const BatchRows& batch, int page_size, int64_t row, int64_t position) {
  if (batch.ancestor_starts != nullptr && position >= batch.ancestor_starts[row]) {
    return batch.ancestor_slots[row * batch.max_ancestors + position - batch.ancestor_starts[row]];
  }
  const int32_t page = batch.page_ids[batch.page_offsets[batch.sequences[row]] + position / page_size];
  return int64_t{page} * page_size + position % page_size;
}

// A 32-bit word of a K row holds 1 float, 2 bfloat16 or 4 int8 of consecutive dimensions; keys[d] receives each for
// kLanes positions.
template <KvFormat kFormat>
constexpr int kDimsPerWord = kFormat == KvFormat::kF32    ? 1
                             : kFormat == KvFormat::kBf16 ? 2
                                                          : 4;

template <KvFormat kFormat>
void store_key_word(float* keys, I word) {
  if constexpr (kFormat == KvFormat::kF32) {
    store(keys, as_float(word));
  } else if constexpr (kFormat == KvFormat::kBf16) {
    store(keys, as_float(shift_left<16>(word)));
    store(keys + kBlock, as_float(shift_left<16>(shift_right<16>(word))));
  } else {
    store(keys, to_float(shift_right<24>(shift_left<24>(word))));
    store(keys + kBlock, to_float(shift_right<24>(shift_left<16>(word))));
    store(keys + 2 * kBlock, to_float(shift_right<24>(shift_left<8>(word))));
    store(keys + 3 * kBlock, to_float(shift_right<24>(word)));
  }
}

// `rows[j]`: K of position j in the cache, nullptr where there is none.
template <KvFormat kFormat>
void transpose_keys(const char* const* rows, int head_dim, float* keys) {
  const int num_words = head_dim / kDimsPerWord<kFormat>;
  for (int lanes = 0; lanes < kBlock; lanes += kLanes) {
    bool any = false;
    for (int j = 0; j < kLanes; ++j) any |= rows[lanes + j] != nullptr;
    if (!any) continue;
    for (int base = 0; base < num_words; base += kLanes) {
      const int count = num_words - base < kLanes ? num_words - base : kLanes;
      I words[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        const char* row = rows[lanes + j] + base * 4;
        if (rows[lanes + j] == nullptr) {
          words[j] = splat_i(0);
        } else {
          words[j] = count == kLanes ? load_i(row) : load_i_first(row, count);
        }
      }
      transpose(words);
      for (int w = 0; w < count; ++w)
        store_key_word<kFormat>(keys + (base + w) * kDimsPerWord<kFormat> * kBlock + lanes, words[w]);
    }
  }
}

template <KvFormat kFormat>
void widen_value(const void* data, int head_dim, float* output) {
  int i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    if constexpr (kFormat == KvFormat::kF32) store(output + i, load(static_cast<const float*>(data) + i));
    if constexpr (kFormat == KvFormat::kBf16) store(output + i, load_bf16(static_cast<const uint16_t*>(data) + i));
    if constexpr (kFormat == KvFormat::kInt8) store(output + i, load_int8(static_cast<const int8_t*>(data) + i));
  }
  for (; i < head_dim; ++i) {
    if constexpr (kFormat == KvFormat::kF32) output[i] = static_cast<const float*>(data)[i];
    if constexpr (kFormat == KvFormat::kBf16) {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16;
      __builtin_memcpy(output + i, &bits, 4);
    }
    if constexpr (kFormat == KvFormat::kInt8) output[i] = static_cast<const int8_t*>(data)[i];
  }
}

// Loads positions [position + begin, position + end) as `row` sees them.
template <KvFormat kFormat>
void load_block(const AttentionParams& params, int64_t row, int kv_head, int64_t position, int begin, int end,
                Block& block) {
  const KvLayer& cache = params.cache;
  const int head_dim = cache.head_dim;
  const int64_t element_bytes = 4 / kDimsPerWord<kFormat>, padded_dim = round_up(head_dim, kLanes);
  const char* key_rows[kBlock];
  for (int j = 0; j < kBlock; ++j) key_rows[j] = nullptr;
  for (int j = begin; j < end; ++j) {
    const int64_t vector = slot_of(params.batch, cache.page_size, row, position + j) * cache.num_kv_heads + kv_head;
    key_rows[j] = static_cast<const char*>(cache.k) + vector * head_dim * element_bytes;
    const char* value_row = static_cast<const char*>(cache.v) + vector * head_dim * element_bytes;
    widen_value<kFormat>(value_row, head_dim, block.values + j * padded_dim);
    if constexpr (kFormat == KvFormat::kInt8) {
      block.key_scales[j] = cache.k_scales[vector];
      block.value_scales[j] = cache.v_scales[vector];
    }
  }
  transpose_keys<kFormat>(key_rows, head_dim, block.keys);
  block.begin = begin;
  block.end = end;
}

template <int kQueries>
void score_tile(const Query* queries, const Block& block, int head_dim, float scale, float* scores) {
  F acc[kQueries][kScoreVectors];
  for (int i = 0; i < kQueries; ++i) {
    for (int j = 0; j < kScoreVectors; ++j) acc[i][j] = splat(0.0f);
  }
  for (int d = 0; d < head_dim; ++d) {
    for (int j = 0; j < kScoreVectors; ++j) {
      const F key = load(block.keys + d * kBlock + j * kLanes);
      for (int i = 0; i < kQueries; ++i) acc[i][j] = fma(splat(queries[i].q[d]), key, acc[i][j]);
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int j = 0; j < kScoreVectors; ++j) store(scores + i * kBlock + j * kLanes, mul(acc[i][j], splat(scale)));
  }
}

// Scores of positions [begin, end) become shares (0 elsewhere); acc and sums are brought to the new maximum.
void softmax_step(Query& query, int begin, int end, int64_t padded_dim, float* scores) {
  F s[kScoreVectors];
  F top = splat(query.largest);
  for (int j = 0; j < kScoreVectors; ++j) {
    const I position = add_i(lane_index(), splat_i(j * kLanes));
    s[j] = select(splat(-INFINITY), load(scores + j * kLanes), less_i(position, splat_i(end)));
    s[j] = select(s[j], splat(-INFINITY), less_i(position, splat_i(begin)));
    top = max(s[j], top);
  }
  const float largest = first(max_lanes(top));
  F sums = load(query.sums);
  if (largest != query.largest) {  // else the factor is 1
    const F factor = exp(splat(query.largest - largest));
    sums = mul(sums, factor);
    for (int64_t d = 0; d < padded_dim; d += kLanes) store(query.acc + d, mul(load(query.acc + d), factor));
    query.largest = largest;
  }
  for (int j = 0; j < kScoreVectors; ++j) {
    const F share = exp(sub(s[j], splat(largest)));
    sums = add(sums, share);
    store(scores + j * kLanes, share);
  }
  store(query.sums, sums);
}

template <int kQueries, int kVectors>
void accumulate_dims(const Query* queries, const Block& block, int begin, int end, int64_t padded_dim, int64_t dim,
                     const float* shares) {
  F acc[kQueries][kVectors];
  for (int i = 0; i < kQueries; ++i) {
    for (int v = 0; v < kVectors; ++v) acc[i][v] = load(queries[i].acc + dim + v * kLanes);
  }
  for (int j = begin; j < end; ++j) {
    const float* value = block.values + j * padded_dim + dim;
    for (int v = 0; v < kVectors; ++v) {
      const F x = load(value + v * kLanes);
      for (int i = 0; i < kQueries; ++i) acc[i][v] = fma(splat(shares[i * kBlock + j]), x, acc[i][v]);
    }
  }
  for (int i = 0; i < kQueries; ++i) {
    for (int v = 0; v < kVectors; ++v) store(queries[i].acc + dim + v * kLanes, acc[i][v]);
  }
}

template <int kQueries>
void accumulate(const Query* queries, const Block& block, int begin, int end, int64_t padded_dim, const float* shares) {
  int64_t dim = 0;
  for (; dim + 4 * kLanes <= padded_dim; dim += 4 * kLanes) {
    accumulate_dims<kQueries, 4>(queries, block, begin, end, padded_dim, dim, shares);
  }
  for (; dim < padded_dim; dim += kLanes)
    accumulate_dims<kQueries, 1>(queries, block, begin, end, padded_dim, dim, shares);
}

template <int kQueries>
void score_queries(const Query* queries, int count, const Block& block, int head_dim, float scale, float* scores) {
  if (count == kQueries) return score_tile<kQueries>(queries, block, head_dim, scale, scores);
  if constexpr (kQueries > 1) score_queries<kQueries - 1>(queries, count, block, head_dim, scale, scores);
}

// One block for up to kQueryTile queries.
template <KvFormat kFormat>
void attend_tile(const AttentionParams& params, const Group& group, Query* queries, int count, const Block& block,
                 int64_t position) {
  const int64_t padded_dim = round_up(params.cache.head_dim, kLanes);
  float scores[kQueryTile * kBlock];
  int begin[kQueryTile], end[kQueryTile];
  score_queries<kQueryTile>(queries, count, block, params.cache.head_dim, params.scale, scores);
  for (int i = 0; i < count; ++i) {
    const int64_t low = group.first[queries[i].row] - position, high = group.own[queries[i].row] + 1 - position;
    begin[i] = low > 0 ? static_cast<int>(low) : 0;
    end[i] = high < kBlock ? static_cast<int>(high) : kBlock;
    if (begin[i] >= end[i]) continue;
    float* row = scores + i * kBlock;
    if constexpr (kFormat == KvFormat::kInt8) {
      for (int j = begin[i]; j < end[i]; ++j) row[j] *= block.key_scales[j];
    }
    softmax_step(queries[i], begin[i], end[i], padded_dim, row);
    if constexpr (kFormat == KvFormat::kInt8) {
      for (int j = begin[i]; j < end[i]; ++j) row[j] *= block.value_scales[j];
    }
  }
  for (int i = 0; i < count; ++i) {
    if (begin[i] >= end[i]) continue;
    if (i + 1 < count && begin[i] == begin[i + 1] && end[i] == end[i + 1]) {
      accumulate<2>(queries + i, block, begin[i], end[i], padded_dim, scores + i * kBlock);
      ++i;
    } else {
      accumulate<1>(queries + i, block, begin[i], end[i], padded_dim, scores + i * kBlock);
    }
  }
}

// One block for queries [0, count), which see the same slots (as `row` does). Queries lie row by row, `per_row` each.
template <KvFormat kFormat>
void attend_block(const AttentionParams& params, const Group& group, int64_t row, int kv_head, int64_t position,
                  Query* queries, int count, Block& block) {
  int64_t first = INT64_MAX, own = -1;
  for (int i = 0; i < count; ++i) {
    const int r = queries[i].row;
    first = group.first[r] < first ? group.first[r] : first;
    own = group.own[r] > own ? group.own[r] : own;
  }
  const int64_t begin = first > position ? first - position : 0,
                end = own + 1 - position < kBlock ? own + 1 - position : kBlock;
  if (begin >= end) return;
  load_block<kFormat>(params, row, kv_head, position, static_cast<int>(begin), static_cast<int>(end), block);
  for (int i = 0; i < count; i += kQueryTile) {
    attend_tile<kFormat>(params, group, queries + i, count - i < kQueryTile ? count - i : kQueryTile, block, position);
  }
}

// Do all rows of the group find positions under `end` in the same slots?
bool shares_slots(const BatchRows& batch, const Group& group, int64_t end) {
  if (batch.ancestor_starts == nullptr || group.count == 1) return true;
  for (int64_t r = 0; r < group.count; ++r) {
    if (batch.ancestor_starts[group.row + r] < end) return false;
  }
  return true;
}

// Queries of one kv head, row by row, `per_row` heads each.
struct HeadQueries {
  int kv_head, per_row;
  Query* queries;
};

// All blocks. Kv heads are the inner loop, so that one pass over the positions reads the cache in the order in which it
// lies.
template <KvFormat kFormat>
void attend_blocks(const AttentionParams& params, const Group& group, const HeadQueries* heads, int num_heads,
                   Block& block) {
  for (int64_t position = group.lowest_first / kBlock * kBlock; position <= group.highest_own; position += kBlock) {
    const bool is_shared = shares_slots(params.batch, group, position + kBlock);
    for (int h = 0; h < num_heads; ++h) {
      const int per_row = heads[h].per_row;
      if (is_shared) {
        attend_block<kFormat>(params, group, group.row, heads[h].kv_head, position, heads[h].queries,
                              static_cast<int>(group.count) * per_row, block);
        continue;
      }
      for (int r = 0; r < group.count; ++r) {
        attend_block<kFormat>(params, group, group.row + r, heads[h].kv_head, position, heads[h].queries + r * per_row,
                              per_row, block);
      }
    }
  }
}

// Memory of the queries in work, carved out of the thread's scratch.
struct Workspace {
  HeadQueries* heads;
  Query* queries;
  float* acc;   // [queries][padded_dim]
  float* sums;  // [queries][kLanes]
  Block block;
};

template <typename T>
int64_t floats_for(int64_t count) {
  return round_up(static_cast<int64_t>((count * sizeof(T) + sizeof(float) - 1) / sizeof(float)), 16);
}

Workspace carve(int64_t num_queries, int num_kv_heads, int head_dim) {
  const int64_t padded_dim = round_up(head_dim, kLanes), block_floats = kBlock * padded_dim;
  const int64_t acc_floats = round_up(padded_dim * num_queries, 16), sum_floats = round_up(kLanes * num_queries, 16);
  float* next = thread_scratch(ScratchUse::kAttention, 2 * block_floats + acc_floats + sum_floats +
                                                           floats_for<Query>(num_queries) +
                                                           floats_for<HeadQueries>(num_kv_heads));
  Workspace work = {};
  work.block.keys = next;
  work.block.values = next += block_floats;
  work.acc = next += block_floats;
  work.sums = next += acc_floats;
  work.queries = reinterpret_cast<Query*>(next += sum_floats);
  work.heads = reinterpret_cast<HeadQueries*>(next += floats_for<Query>(num_queries));
  return work;
}

// Heads [begin, end) for all rows of the group; head h of row r goes to outputs[r] + (h - begin) · head_dim.
void attend_heads(const AttentionParams& params, const Group& group, int begin, int end, float* const* outputs) {
  const int head_dim = params.cache.head_dim, heads_per_kv = params.num_heads / params.cache.num_kv_heads;
  const int64_t padded_dim = round_up(head_dim, kLanes), num_queries = group.count * (end - begin);
  Workspace work = carve(num_queries, end - begin, head_dim);
  int num_heads = 0;
  int64_t index = 0;
  for (int head = begin; head < end; ++num_heads) {
    const int kv_head = head / heads_per_kv, kv_end = (kv_head + 1) * heads_per_kv, stop = kv_end < end ? kv_end : end;
    work.heads[num_heads] = {kv_head, stop - head, work.queries + index};
    for (int r = 0; r < group.count; ++r) {
      for (int h = head; h < stop; ++h, ++index) {
        const float* q = params.qkv + (group.row + r) * params.qkv_stride + int64_t{h} * head_dim;
        work.queries[index] = {q, work.acc + index * padded_dim, work.sums + index * kLanes, -INFINITY, r};
      }
    }
    head = stop;
  }
  for (int64_t i = 0; i < num_queries * padded_dim; i += kLanes) store(work.acc + i, splat(0.0f));
  for (int64_t i = 0; i < num_queries; ++i) store(work.sums + i * kLanes, splat(0.0f));
  switch (params.cache.format) {
    case KvFormat::kF32:
      attend_blocks<KvFormat::kF32>(params, group, work.heads, num_heads, work.block);
      break;
    case KvFormat::kBf16:
      attend_blocks<KvFormat::kBf16>(params, group, work.heads, num_heads, work.block);
      break;
    default:
      attend_blocks<KvFormat::kInt8>(params, group, work.heads, num_heads, work.block);
      break;
  }
  for (int64_t i = 0; i < num_queries; ++i) {
    const Query& query = work.queries[i];
    const F inverse = div(splat(1.0f), sum_lanes(load(query.sums)));
    for (int64_t d = 0; d < padded_dim; d += kLanes) store(query.acc + d, mul(load(query.acc + d), inverse));
    const int64_t head = (query.q - params.qkv) % params.qkv_stride / head_dim;
    __builtin_memcpy(outputs[query.row] + (head - begin) * head_dim, query.acc, head_dim * sizeof(float));
  }
}

// Heads [begin, end) of all rows of the group, whole sink units. A few rows take all heads in one pass over the cache;
// with many, the sums of all heads would not stay in the first caches, so that kv heads come one after the other.
void attend_group(const AttentionParams& params, const Group& group, int begin, int end) {
  constexpr int64_t kMostSums = 8192;  // floats
  const int head_dim = params.cache.head_dim, heads_per_kv = params.num_heads / params.cache.num_kv_heads;
  const int64_t width = int64_t{params.num_heads} * head_dim, column = int64_t{begin} * head_dim,
                columns = int64_t{end - begin} * head_dim;
  float* staging = thread_scratch(ScratchUse::kAttentionRows, kGroupRows * width);
  float* targets[kGroupRows];
  for (int64_t r = 0; r < group.count; ++r)
    targets[r] = sink_target(params.sink, group.row + r, width, column, staging + r * width);
  const bool is_small = group.count * columns <= kMostSums;
  for (int head = begin; head < end;) {
    const int kv_end = (head / heads_per_kv + 1) * heads_per_kv, stop = is_small || kv_end > end ? end : kv_end;
    float* outputs[kGroupRows];
    for (int64_t r = 0; r < group.count; ++r) outputs[r] = targets[r] + int64_t{head - begin} * head_dim;
    attend_heads(params, group, head, stop, outputs);
    head = stop;
  }
  for (int64_t r = 0; r < group.count; ++r)
    finish_columns(params.sink, group.row + r, width, column, columns, targets[r]);
}

Group group_at(const AttentionParams& params, int64_t row) {
  const BatchRows& batch = params.batch;
  Group group = {};
  group.row = row;
  group.lowest_first = INT64_MAX;
  group.highest_own = -1;
  while (row < batch.rows && group.count < kGroupRows && batch.sequences[row] == batch.sequences[group.row]) {
    const int64_t own = batch.positions[row], window = params.sliding_window;
    const int64_t first = window > 0 && own + 1 > window ? own + 1 - window : 0;
    group.first[group.count] = first;
    group.own[group.count++] = own;
    if (first < group.lowest_first) group.lowest_first = first;
    if (own > group.highest_own) group.highest_own = own;
    ++row;
  }
  return group;
}

int64_t cost_of(const Group& group) {
  int64_t cost = 64 + group.highest_own + 1 - group.lowest_first;  // loading K and V
  for (int64_t r = 0; r < group.count; ++r) cost += group.own[r] + 1 - group.first[r];
  return cost;
}

}  // namespace

// Cut by (group, sink unit of heads), so that the parts have about the same number of positions to walk.
void attention(const AttentionParams& params, Part part) {
  const int64_t width = int64_t{params.num_heads} * params.cache.head_dim;
  const int unit = static_cast<int>(sink_unit(params.sink, width, params.cache.head_dim) / params.cache.head_dim);
  const int units = params.num_heads / unit;
  int64_t total = 0, before = 0;
  for (int64_t row = 0; row < params.batch.rows;) {
    const Group group = group_at(params, row);
    total += cost_of(group) * units;
    row += group.count;
  }
  for (int64_t row = 0; row < params.batch.rows;) {
    const Group group = group_at(params, row);
    const int64_t cost = cost_of(group);
    int begin = units, end = 0;  // units whose work begins within this part's share of the total
    for (int i = 0; i < units; ++i) {
      if ((before + i * cost) * part.count / total != part.index) continue;
      begin = i < begin ? i : begin;
      end = i + 1;
    }
    if (begin < end) attend_group(params, group, begin * unit, end * unit);
    before += cost * units;
    row += group.count;
  }
}

}  // namespace qspec::cpu::QSPEC_ISA
