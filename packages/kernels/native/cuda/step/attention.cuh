// Paged attention as a phase of the step kernel.
//
// An item is a block of up to 16 query columns (rows of one sequence x the heads that share a KV head) over a range of splits of 64
// positions. A group of four warps takes it: what one split asks of a group is a chain of short steps, so a block has three groups under way.
// Scores: S = Q · Kᵀ, A = Q (16 columns x 16 dims), B = K; weights and output: O = P · V, A = P (16 x 16 positions), B = V; the sum of weights is one
// more column of V that is all ones, so it is rounded as the numerators are (codes, whose weights carry V's scale: a sum of the rounded weights without
// it). Within a split positions are summed in order by the tensor core's chain; splits are folded in order within a chunk of 4, chunks within a segment
// of 4, segments in order: nothing depends on who shares the batch, nor on how much of this one item does.
//
// K and V of a split go through shared memory as they lie in the cache (16-byte asynchronous copies, swizzled), one behind the other, so that either is
// under way while the other is used; codes become bfloat16 in registers (attention_tiles.cuh). What this launch adds to the cache is written to the
// tiles directly, so nothing that is copied depends on the phase before: the first split is fetched before the grid's barrier.
#pragma once
#include "step/attention_heads.cuh"
#include "step/attention_tiles.cuh"

namespace qspec::cuda {

constexpr uint32_t kOnePair = 0x3f803f80u;
constexpr float kLog2E = 1.4426950408889634f;

struct AttentionShared {
  uint32_t k, v;         // tiles [64][row_bytes] as in the cache
  uint32_t q;            // [columns][query_bytes] bf16
  uint32_t p;            // [columns][64] bf16
  uint32_t largest;      // float [columns][4] by column and warp
  uint32_t total;        // the same, of weights; codes only
  uint32_t slots;        // int32 [2][64]
  uint32_t k_scale, v_scale;  // float [2][64]
  uint32_t own, first;   // int32 [columns] last and first position that a column sees
};
QSPEC_HOST_DEVICE constexpr int attention_shared_bytes(int head_dim, bool has_codes) {
  return 2 * kSplitPositions * attention_row_bytes(head_dim, has_codes) + kQueryColumns * (query_row_bytes(head_dim, has_codes) + kSplitPositions * 2 + 2 * kGroupWarps * 4 + 2 * 4) +
         2 * kSplitPositions * 4 * 3;
}

QSPEC_DEVICE AttentionShared carve_attention(uint32_t base, int head_dim, bool has_codes) {
  const int row_bytes = attention_row_bytes(head_dim, has_codes);
  AttentionShared s;
  uint32_t p = base;
  s.k = p, p += kSplitPositions * row_bytes;
  s.v = p, p += kSplitPositions * row_bytes;
  s.q = p, p += kQueryColumns * query_row_bytes(head_dim, has_codes);
  s.p = p, p += kQueryColumns * kSplitPositions * 2;
  s.largest = p, p += kQueryColumns * kGroupWarps * 4;
  s.total = p, p += kQueryColumns * kGroupWarps * 4;
  s.slots = p, p += 2 * kSplitPositions * 4;
  s.k_scale = p, p += 2 * kSplitPositions * 4;
  s.v_scale = p, p += 2 * kSplitPositions * 4;
  s.own = p, p += kQueryColumns * 4;
  s.first = p;
  return s;
}

// ---- One split --------------------------------------------------------------------------------------------------------------------------

// Maximum (base 2), weight and output of a column over some splits; `fold` appends later ones.
struct FoldFactors {
  float old_scale, new_scale, largest;
};
// Without branches: what isn't there (-infinity) has weight 0, and the other stays exactly what it was.
QSPEC_DEVICE FoldFactors fold_factors(float largest, float next) {
  const float m = largest > next ? largest : next;
  return {largest == -INFINITY ? 0.0f : exp2_fast(largest - m), next == -INFINITY ? 0.0f : exp2_fast(next - m), m};
}
QSPEC_DEVICE float fold(const FoldFactors& f, float old_value, float next) { return fmaf(old_value, f.old_scale, next * f.new_scale); }

// `head_dim`, or 0: told at run time.
template <CacheCodes codes, int head_dim>
struct AttentionPhase {
  const StepParams& params;
  const AttentionSpec& spec;
  const StepBatch& batch;
  const AttentionStart& start;
  RowBlocks blocks;
  uint32_t base;  // of the group's shared memory
  CacheTiles<codes, head_dim> tiles;
  int index;  // of the phase
  int which, thread, warp, lane;  // the group of warps, and the place in it
  int heads, dim;                 // query heads a KV head

  // Found anew wherever it is used: places that are kept in registers through the loop cost more than they save.
  QSPEC_DEVICE AttentionShared shared() const { return carve_attention(not_hoisted(base), tiles.head_dims(), has_codes); }

  using Tiles = CacheTiles<codes, head_dim>;
  static constexpr bool has_codes = Tiles::has_codes;
  static constexpr int kFoldBatch = 8;
  static constexpr int kPositionTiles = Tiles::kPositionTiles, kDimTiles = Tiles::kDimTiles;

  struct Work {  // one split of one item, for one KV head
    const AttentionItem* item;  // the group's first lies in shared memory
    int number, kv_head;        // of the item
    int split;
  };
  struct State {  // of columns g, g + 8
    float largest[2], weight[2], output[kDimTiles][4];
  };

  QSPEC_DEVICE int total_items() const { return batch.num_items * spec.num_kv_heads; }
  QSPEC_DEVICE void sync() const { group_barrier(kGroupBarrier + which, kGroupThreads); }

  QSPEC_DEVICE uint32_t slot_at(int buffer, int position) const { return shared().slots + (buffer * kSplitPositions + position) * 4; }
  QSPEC_DEVICE uint32_t scale_at(bool is_v, int buffer, int position) const {
    return (is_v ? shared().v_scale : shared().k_scale) + (buffer * kSplitPositions + position) * 4;
  }
  // Leaves a position's slot; the scales of what is there come with the next copies.
  QSPEC_DEVICE void put_slot(int buffer, int position, int64_t slot, int kv_head) const {
    shared_store_4(slot_at(buffer, position), static_cast<uint32_t>(slot));
    if (!has_codes || slot == kWrittenHere) return;
    const int64_t vector = slot * spec.num_kv_heads + kv_head;
    if (slot < 0) {
      shared_store_float(scale_at(false, buffer, position), 0), shared_store_float(scale_at(true, buffer, position), 0);
    } else {
      copy_async<4>(scale_at(false, buffer, position), spec.cache.k_scales + vector);
      copy_async<4>(scale_at(true, buffer, position), spec.cache.v_scales + vector);
    }
  }
  // Slots of a later split are found by the last threads, which have least else to do: a position each, long before it is put where all see it.
  QSPEC_DEVICE bool has_slot() const { return thread >= kGroupThreads - kSplitPositions; }
  QSPEC_DEVICE int slot_position() const { return kGroupThreads - 1 - thread; }
  QSPEC_DEVICE int32_t find_slot(const Work& work) const { return slot_of_position(batch, *work.item, work.split * kSplitPositions + slot_position()); }

  // Starts copying K or V of a split whose slots are at `slots`. Absent positions are zero. Each thread copies one 16-byte chunk of every so
  // many positions; neighbours copy neighbouring chunks. With 8, 16, … positions between them, swizzles stay the same.
  QSPEC_DEVICE void copy_tile(bool is_v, int kv_head, uint32_t slots) const {
    const int plane_chunks = tiles.chunks(), chunks = tiles.has_low_plane() ? 2 * plane_chunks : plane_chunks;
    const int padded = chunks > 8 ? 16 : chunks > 4 ? 8 : chunks > 2 ? 4 : chunks;  // a power of two
    const int chunk = thread & (padded - 1), first = thread / padded, step = kGroupThreads / padded;
    if (chunk >= chunks) return;
    const bool is_low = has_codes && chunk >= plane_chunks;
    const uint8_t* plane = is_low ? (is_v ? spec.cache.v_low : spec.cache.k_low) : (is_v ? spec.cache.v : spec.cache.k);
    const uint8_t* from = plane + (kv_head * plane_chunks + (is_low ? chunk - plane_chunks : chunk)) * 16;
    const uint32_t slot_bytes = spec.num_kv_heads * plane_chunks * 16;
    uint32_t place = (is_v ? shared().v : shared().k) + first * tiles.row_bytes() + swizzled(first, chunk) * 16;
    uint32_t slot_place = slots + first * 4;
    constexpr int kAtOnce = 4;
    QSPEC_NO_UNROLL
    for (int position = first; position < kSplitPositions; position += kAtOnce * step) {
      int32_t slot[kAtOnce], least = 0;
      QSPEC_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        slot[i] = position + i * step < kSplitPositions ? static_cast<int32_t>(shared_load_4(slot_place + i * step * 4)) : kWrittenHere;
        least |= slot[i];
      }
      slot_place += kAtOnce * step * 4;
      QSPEC_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const uint8_t* source = from + static_cast<uint64_t>(static_cast<uint32_t>(slot[i])) * slot_bytes;
        if (least >= 0 || slot[i] >= 0) copy_async<16>(place, source);  // mostly all are there
        else if (slot[i] == kAbsent) shared_store_16(place, uint4{0, 0, 0, 0});
        place += step * tiles.row_bytes();
      }
    }
  }

  QSPEC_DEVICE TilePlace tile_place(bool is_v, int position, int buffer) const {
    const int p = position % kSplitPositions;
    return {true, p, (is_v ? shared().v : shared().k) + p * tiles.row_bytes(), has_codes ? scale_at(is_v, buffer, p) : 0};
  }

  QSPEC_DEVICE void put_query(int column, const HeadValues& q) const {
    if (!has_head_values(dim)) return;
    QSPEC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int element = 2 * lane + h * dim / 2;
      const uint32_t pair = h == 0 ? pack_bf16(q.low.x, q.low.y) : pack_bf16(q.high.x, q.high.y);
      if constexpr (!has_codes) {
        shared_store_4(shared().q + tiles.query_place(column, element), pair);
      } else {
        shared_store_2(shared().q + tiles.query_place(column, element), static_cast<uint16_t>(pair));
        shared_store_2(shared().q + tiles.query_place(column, element + 1), static_cast<uint16_t>(pair >> 16));
      }
    }
  }

  // What a split needs of this launch's own rows: at an item's first one, Q of its columns, normed and rotated, and which positions each sees;
  // and K and V of the rows whose positions lie in the split, into the cache and the tiles. One task a warp.
  QSPEC_DEVICE void prepare(const Work& work, int buffer, bool is_first) const {
    const AttentionItem& item = *work.item;
    const int kv_head = work.kv_head;
    const int num_queries = is_first ? item.num_rows * heads : 0;
    int first_row = 0, num_rows = 0;  // whose K and V: rows of a sequence have neighbouring positions, from first_new on
    if (!batch.writes_first) {
      const int from = work.split * kSplitPositions - item.first_new, to = from + kSplitPositions, count = item.last_position - item.first_new + 1;
      first_row = item.sequence_begin + (from < 0 ? 0 : from), num_rows = (to < count ? to : count) - (from < 0 ? 0 : from);
      if (num_rows < 0) num_rows = 0;
    }
    QSPEC_NO_UNROLL
    for (int task = warp; task < num_queries + 2 * num_rows; task += kGroupWarps) {
      if (task < num_queries) {
        put_query(task, load_head(spec, item.row_begin + task / heads, kv_head * heads + task % heads, spec.q_norm, true));
      } else {
        const int t = task - num_queries, row = first_row + t / 2;
        const bool is_v = t & 1;
        store_kv_head(spec, row, start.slots_of_rows[row], kv_head, is_v, tile_place(is_v, start.positions[row], buffer));
      }
    }
    if (is_first && thread < kQueryColumns) {
      const int own = thread < num_queries ? start.positions[item.row_begin + thread / heads] : -1;
      shared_store_4(shared().own + thread * 4, static_cast<uint32_t>(own));
      shared_store_4(shared().first + thread * 4, spec.sliding_window > 0 && own >= spec.sliding_window ? static_cast<uint32_t>(own + 1 - spec.sliding_window) : 0);
    }
  }

  // Scores of this warp's positions (base 2, -infinity where not seen), and their maxima per column into shared().largest.
  QSPEC_DEVICE void score(int split, int buffer, float (&scores)[kPositionTiles][4]) const {
    const int g = lane / 4, t = lane % 4;
    const float scale = spec.scale * kLog2E;
    float largest[2] = {-INFINITY, -INFINITY};
    int32_t own[2], first[2];
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      own[i] = static_cast<int32_t>(shared_load_4(shared().own + (g + 8 * i) * 4)), first[i] = static_cast<int32_t>(shared_load_4(shared().first + (g + 8 * i) * 4));
    }
    float acc[kPositionTiles][4] = {};
    tiles.score(shared().k, shared().q, warp, lane, acc);
    QSPEC_UNROLL
    for (int j = 0; j < kPositionTiles; ++j) {
      const int tile = warp + j * kGroupWarps;
      float scales[2] = {scale, scale};
      if constexpr (has_codes) {
        const uint2 of_codes = shared_load_8(scale_at(false, buffer, tile * 8 + 2 * t));
        scales[0] *= float_of_bits(of_codes.x), scales[1] *= float_of_bits(of_codes.y);
      }
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int p = split * kSplitPositions + tile * 8 + 2 * t + (i & 1);
        const bool is_seen = p <= own[i >> 1] && p >= first[i >> 1];
        scores[j][i] = is_seen ? acc[j][i] * scales[i & 1] : -INFINITY;
        largest[i >> 1] = largest[i >> 1] > scores[j][i] ? largest[i >> 1] : scores[j][i];
      }
    }
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      for (int mask = 1; mask < 4; mask *= 2) {
        const float other = shuffle_xor(largest[i], mask);
        largest[i] = largest[i] > other ? largest[i] : other;
      }
      if (t == 0) shared_store_float(shared().largest + ((g + 8 * i) * kGroupWarps + warp) * 4, largest[i]);
    }
  }

  // Weights of this warp's positions into shared().p; `largest`: the split's maxima of columns g, g+8. Codes' weights get V's scale, their sums without it
  // go into shared().total.
  QSPEC_DEVICE void weigh(int buffer, const float (&scores)[kPositionTiles][4], float (&largest)[2]) const {
    const int g = lane / 4, t = lane % 4;
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      largest[i] = -INFINITY;
      static_assert(kGroupWarps == 4, "one load");
      const uint4 four = shared_load_16(shared().largest + (g + 8 * i) * kGroupWarps * 4);
      QSPEC_UNROLL
      for (int j = 0; j < kGroupWarps; ++j) {
        const float other = float_of_bits(word_of(four, j));
        largest[i] = largest[i] > other ? largest[i] : other;
      }
    }
    float total[2] = {0, 0};
    QSPEC_UNROLL
    for (int j = 0; j < kPositionTiles; ++j) {
      const int tile = warp + j * kGroupWarps;
      uint2 scale{0, 0};
      if constexpr (has_codes) scale = shared_load_8(scale_at(true, buffer, tile * 8 + 2 * t));
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) {
        const bool is_empty = largest[i] == -INFINITY;
        const float a = is_empty ? 0 : exp2_fast(scores[j][2 * i] - largest[i]), b = is_empty ? 0 : exp2_fast(scores[j][2 * i + 1] - largest[i]);
        const int column = g + 8 * i;
        uint32_t pair = pack_bf16(a, b);
        if constexpr (has_codes) {
          total[i] += bf16_low(pair) + bf16_high(pair);
          pair = pack_bf16(a * float_of_bits(scale.x), b * float_of_bits(scale.y));
        }
        shared_store_4(shared().p + column * kSplitPositions * 2 + swizzled(column, tile) * 16 + t * 4, pair);
      }
    }
    if constexpr (has_codes) {
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) {
        for (int mask = 1; mask < 4; mask *= 2) total[i] += shuffle_xor(total[i], mask);
        if (t == 0) shared_store_float(shared().total + ((g + 8 * i) * kGroupWarps + warp) * 4, total[i]);
      }
    }
  }

  // P · V for this warp's dims, and P · 1 (codes: the sums that weigh() left).
  QSPEC_DEVICE void attend(State& state) const {
    float weight[4] = {0, 0, 0, 0};
    QSPEC_UNROLL
    for (int d = 0; d < kDimTiles; ++d)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) state.output[d][i] = 0;
    for (int base = 0; base < kSplitPositions; base += 32) {
      uint32_t p[2][4];
      QSPEC_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int column = lane % 16, chunk = (base + 16 * h) / 8 + lane / 16;
        load_matrix_x4(p[h], shared().p + column * kSplitPositions * 2 + swizzled(column, chunk) * 16);
        if constexpr (!has_codes) mma_bf16(weight, p[h], kOnePair, kOnePair);
      }
      tiles.for_values(shared().v, base, warp, lane, [&](int d, const uint32_t (&v)[4]) {
        mma_bf16(state.output[d], p[0], v[0], v[1]);
        mma_bf16(state.output[d], p[1], v[2], v[3]);
      });
    }
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      state.weight[i] = weight[2 * i];
      if constexpr (has_codes) {
        const uint4 four = shared_load_16(shared().total + (lane / 4 + 8 * i) * kGroupWarps * 4);
        state.weight[i] = ((float_of_bits(four.x) + float_of_bits(four.y)) + float_of_bits(four.z)) + float_of_bits(four.w);
      }
    }
  }

  QSPEC_DEVICE static void clear(State& state) {
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      state.largest[i] = -INFINITY, state.weight[i] = 0;
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d) state.output[d][2 * i] = state.output[d][2 * i + 1] = 0;
    }
  }
  // Onto a cleared state this is exact.
  QSPEC_DEVICE static void append(State& state, const State& next) {
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      const FoldFactors f = fold_factors(state.largest[i], next.largest[i]);
      state.largest[i] = f.largest, state.weight[i] = fold(f, state.weight[i], next.weight[i]);
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d)
        QSPEC_UNROLL
        for (int e = 2 * i; e < 2 * i + 2; ++e) state.output[d][e] = fold(f, state.output[d][e], next.output[d][e]);
    }
  }

  // An item's longer sums, which are touched once a chunk, are kept in the workspace: in shared memory they would leave L1 too little for the
  // weights that are on their way. level: 0 segment, 1 the whole.
  QSPEC_DEVICE float* saved_at(int level) const {
    return params.workspace.block_scratch +
           ((static_cast<int64_t>(block_index() * kAttentionGroups + which) * 2 + level)) * kStateWords * kGroupThreads + thread;
  }
  QSPEC_DEVICE void save(int level, const State& state) const {
    float* p = saved_at(level);
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) store_l2(p + i * kGroupThreads, state.largest[i]), store_l2(p + (2 + i) * kGroupThreads, state.weight[i]);
    QSPEC_UNROLL
    for (int d = 0; d < kDimTiles; ++d)
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) store_l2(p + (4 + 4 * d + e) * kGroupThreads, state.output[d][e]);
  }
  QSPEC_DEVICE void load_saved(int level, State& state) const {
    const float* p = saved_at(level);
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) state.largest[i] = load_l2(p + i * kGroupThreads), state.weight[i] = load_l2(p + (2 + i) * kGroupThreads);
    QSPEC_UNROLL
    for (int d = 0; d < kDimTiles; ++d)
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) state.output[d][e] = load_l2(p + (4 + 4 * d + e) * kGroupThreads);
  }
  // A chunk of a longer item is complete: into its segment, and that into the whole. At the item's end `chunk` becomes the whole.
  QSPEC_DEVICE void append_chunk(const Work& work, bool is_end, State& chunk) const {
    const int begin = work.split / kChunkSplits * kChunkSplits, segment = begin / kSegmentSplits * kSegmentSplits;
    State sum;
    if (begin == work.item->split_begin || begin == segment) clear(sum);
    else load_saved(0, sum);
    append(sum, chunk);
    if (!is_end && begin + kChunkSplits != segment + kSegmentSplits) return save(0, sum);
    if (segment <= work.item->split_begin) clear(chunk);
    else load_saved(1, chunk);
    append(chunk, sum);
    if (!is_end) save(1, chunk);
  }

  // ---- Results: [outputs | largest, weight] ----

  QSPEC_DEVICE float* item_result(int row, int slot, int head) const {
    return params.workspace.item_results + ((static_cast<int64_t>(row) * batch.result_stride + slot) * spec.num_heads + head) * (dim + kResultTail);
  }
  QSPEC_DEVICE float* segment_result(int row, int segment, int head) const {
    return params.workspace.segment_results + ((static_cast<int64_t>(row) * batch.segment_stride + segment) * spec.num_heads + head) * (dim + kResultTail);
  }

  // Calls `store(row, head, element, two outputs, which column of the lane's)` for what this lane holds of the item's columns.
  template <typename Store>
  QSPEC_DEVICE void for_outputs(const State& state, const AttentionItem& item, int kv_head, const Store& store) const {
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int column = lane / 4 + 8 * i;
      if (column >= item.num_rows * heads) continue;
      const int row = item.row_begin + column / heads, head = kv_head * heads + column % heads;
      tiles.for_pairs(state.output, i, warp, lane, [&](int at, float2 two) { store(row, head, at, two, i); });
    }
  }
  QSPEC_DEVICE void store_state(const State& state, const AttentionItem& item, int kv_head, bool is_segment) const {
    for_outputs(state, item, kv_head, [&](int row, int head, int at, float2 two, int i) {
      float* p = is_segment ? segment_result(row, item.split_begin / kSegmentSplits, head) : item_result(row, item.result, head);
      store_l2(reinterpret_cast<float2*>(p + at), two);
      if (at == 0) store_l2(reinterpret_cast<float2*>(p + dim), float2{state.largest[i], state.weight[i]});
    });
  }

  // Did the calling group bring in the last of `expected` results? Uniform over the group; what all blocks stored before can be read then.
  QSPEC_DEVICE bool is_last(int32_t* counter, int expected) const {
    sync();
    if (expected == 1) return true;
    if (thread == 0) {
      const int before = count_up(counter);  // after the barrier: for what the whole group stored
      if (before == expected - 1) *counter = 0;
      shared_store_4(kFlagAt + which * 4, before == expected - 1);
    }
    sync();
    return shared_load_4(kFlagAt + which * 4) != 0;
  }

  QSPEC_DEVICE void store_attended(int row, int head, int e, float2 value, float weight) const {
    const int k = head * dim + e;
    const float a = value.x / weight, b = value.y / weight;
    if (spec.out_x) *reinterpret_cast<uint32_t*>(spec.out_x + x_offset(blocks, row, k)) = pack_bf16(a, b);
    else *reinterpret_cast<float2*>(spec.output + static_cast<int64_t>(row) * spec.num_heads * dim + k) = float2{a, b};
  }

  struct Folded {
    float value[4], largest, weight;
    QSPEC_DEVICE void clear() { value[0] = value[1] = value[2] = value[3] = weight = 0, largest = -INFINITY; }
    QSPEC_DEVICE void append(const Folded& next) {
      const FoldFactors f = fold_factors(largest, next.largest);
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) value[e] = fold(f, value[e], next.value[e]);
      largest = f.largest, weight = fold(f, weight, next.weight);
    }
  };

  // Folds the fold's items, or its rows' segments, of every column: into the fold's segment, or the attended values. Four outputs a thread.
  QSPEC_DEVICE void fold_results(const AttentionFold& f, int kv_head, bool of_segments, bool to_segment) const {
    const int quads = dim / 4, stride = spec.num_heads * (dim + kResultTail), count = of_segments ? f.num_segments : f.num_results;
    const int chunks = of_segments ? count : f.num_chunks;  // results that are appended as they are; the others by chunks
    QSPEC_NO_UNROLL
    for (int i = thread; i < f.num_rows * heads * quads; i += kGroupThreads) {
      const int column = i / quads, e = 4 * (i - column * quads);
      const int row = f.row_begin + column / heads, head = kv_head * heads + column % heads;
      const float* p = of_segments ? segment_result(row, 0, head) : item_result(row, f.first_result, head);
      Folded total, chunk;
      total.clear(), chunk.clear();
      QSPEC_NO_UNROLL
      for (int base = 0; base < count; base += kFoldBatch) {
        float4 next[kFoldBatch];  // all loads wait together
        float2 tail[kFoldBatch];
        QSPEC_UNROLL
        for (int j = 0; j < kFoldBatch; ++j) {
          tail[j] = float2{-INFINITY, 0}, next[j] = float4{0, 0, 0, 0};
          if (base + j < count) next[j] = load_l2(reinterpret_cast<const float4*>(p + e)), tail[j] = load_l2(reinterpret_cast<const float2*>(p + dim));
          p += stride;
        }
        QSPEC_UNROLL
        for (int j = 0; j < kFoldBatch; ++j) {
          const int r = base + j;
          if (r >= count) break;
          const Folded one{{next[j].x, next[j].y, next[j].z, next[j].w}, tail[j].x, tail[j].y};
          if (r < chunks) {
            total.append(one);
            continue;
          }
          chunk.append(one);
          if ((r - chunks + 1) % kChunkSplits != 0 && r + 1 < count) continue;
          total.append(chunk);
          chunk.clear();
        }
      }
      if (!to_segment) {
        store_attended(row, head, e, float2{total.value[0], total.value[1]}, total.weight);
        store_attended(row, head, e + 2, float2{total.value[2], total.value[3]}, total.weight);
        continue;
      }
      float* to = segment_result(row, f.segment, head);
      store_l2(reinterpret_cast<float4*>(to + e), float4{total.value[0], total.value[1], total.value[2], total.value[3]});
      if (e == 0) store_l2(reinterpret_cast<float2*>(to + dim), float2{total.largest, total.weight});
    }
  }

  // An item that is all there is to its columns.
  QSPEC_DEVICE void finish_alone(const State& state, const AttentionItem& item, int kv_head) const {
    for_outputs(state, item, kv_head, [&](int row, int head, int at, float2 two, int i) { store_attended(row, head, at, two, state.weight[i]); });
  }

  // The item's result is in the workspace: fold what is complete.
  QSPEC_DEVICE void finish_item(const AttentionItem& item, const AttentionFold& f, int kv_head) const {
    int32_t* counters = params.workspace.fold_counters;
    const bool is_alone = f.num_segments == 1;
    if (f.num_items > 1) {
      if (!is_last(counters + item.fold * spec.num_kv_heads + kv_head, f.num_items)) return;
      fold_results(f, kv_head, false, !is_alone);
    }
    if (is_alone || !is_last(counters + (params.workspace.max_folds + f.group) * spec.num_kv_heads + kv_head, f.num_segments)) return;
    fold_results(f, kv_head, true, false);
  }

  // ---- The phase ----

  // False after the last.
  QSPEC_DEVICE bool next_work(Work* work) const {
    if (++work->split < work->item->split_end) return true;
    work->number += params.attention_groups * grid_blocks();
    if (work->number >= total_items()) return false;
    const int item = work->number / spec.num_kv_heads;
    work->kv_head = work->number - item * spec.num_kv_heads, work->item = batch.items + item, work->split = work->item->split_begin;
    return true;
  }

  // The first split's K and V, whose slots are known since the launch began: before the phase's own input is there. Uses only what is not
  // written by this launch.
  QSPEC_DEVICE void fetch_first() const {
    if (which >= params.attention_groups || first_item(which) >= total_items()) return;
    const int kv_head = first_item(which) % spec.num_kv_heads;
    for (int i = thread; i < kSplitPositions; i += kGroupThreads) put_slot(0, i, start.slots[which][i], kv_head);
    sync();
    copy_tile(false, kv_head, slot_at(0, 0));
    commit_async();
    copy_tile(true, kv_head, slot_at(0, 0));
    commit_async();
  }

  QSPEC_DEVICE void start_copy(const Work& work, bool is_v, int buffer, bool is_wanted) const {
    if (is_wanted) copy_tile(is_v, work.kv_head, slot_at(buffer, 0));
    commit_async();
  }

  // After fetch_first().
  QSPEC_DEVICE void run() const {
    if (which >= params.attention_groups || first_item(which) >= total_items()) return;
    State chunk;  // of the item so far
    clear(chunk);
    Work now{&start.items[which], first_item(which), first_item(which) % spec.num_kv_heads, start.items[which].split_begin}, next = now;
    bool has_next = true;
    QSPEC_NO_UNROLL
    for (int turn = 0; has_next; ++turn) {
      now = next;
      const int buffer = turn & 1;
      const bool is_first = now.split == now.item->split_begin, is_end = now.split + 1 == now.item->split_end;
      has_next = next_work(&next);
      int32_t next_slot = kAbsent;
      if (has_next && has_slot()) next_slot = find_slot(next);
      prepare(now, buffer, is_first);
      if (turn == 0) stamp_clock(params, index, 0);
      wait_async<1>();
      sync();  // K is here; Q is ready
      if (turn == 0) stamp_clock(params, index, 1);
      float scores[kPositionTiles][4];
      State one;
      score(now.split, buffer, scores);
      if (has_next && has_slot()) put_slot(buffer ^ 1, slot_position(), next_slot, next.kv_head);
      sync();  // maxima and slots; everyone is done with K
      start_copy(next, false, buffer ^ 1, has_next);
      weigh(buffer, scores, one.largest);
      wait_async<1>();
      sync();  // V is here; P is ready
      if (turn == 0) stamp_clock(params, index, 2);
      attend(one);
      append(chunk, one);
      const bool is_chunk = is_end || (now.split + 1) % kChunkSplits == 0, is_long = now.item->split_end - now.item->split_begin > kChunkSplits;
      if (is_chunk && is_long) append_chunk(now, is_end, chunk);
      sync();  // everyone is done with V and P
      if (turn == 0) stamp_clock(params, index, 3);
      start_copy(next, true, buffer ^ 1, has_next);
      if (is_end) {
        const AttentionFold& fold = now.number == first_item(which) ? start.folds[which] : batch.folds[now.item->fold];
        if (fold.num_items == 1 && fold.num_segments == 1) {
          finish_alone(chunk, *now.item, now.kv_head);
        } else {
          store_state(chunk, *now.item, now.kv_head, fold.num_items == 1);
          if (turn == 0) stamp_clock(params, index, 4);
          finish_item(*now.item, fold, now.kv_head);
        }
      }
      if (is_chunk) clear(chunk);
    }
    wait_async<0>();
  }
};

template <CacheCodes codes, int head_dim>
QSPEC_DEVICE AttentionPhase<codes, head_dim> attention_phase(const StepParams& params, int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  constexpr bool has_codes = codes != CacheCodes::kNone;
  const int which = thread_index() / kGroupThreads, thread = thread_index() % kGroupThreads, dim = head_dim > 0 ? head_dim : spec.head_dim;
  return {params,
          spec,
          step_batch(),
          attention_start(),
          params.blocks,
          static_cast<uint32_t>(params.region_at + which * attention_shared_bytes(dim, has_codes)),
          {dim, spec.high_plane_only},
          index,
          which,
          thread,
          thread / kWarp,
          thread % kWarp,
          spec.num_heads / spec.num_kv_heads,
          dim};
}

template <CacheCodes codes, int head_dim>
QSPEC_DEVICE_CALL void call_attention(int index) {
  attention_phase<codes, head_dim>(step_params(), index).run();
}
// The phase, compiled for what it is: its first splits before its input is there, or all of it. A function of its own where registers are short, or
// where few run it.
template <int n8, bool is_first, CacheCodes codes, int head_dim>
QSPEC_DEVICE void do_attention(const StepParams& params, int index) {
  if constexpr (is_first) attention_phase<codes, head_dim>(params, index).fetch_first();
  else if constexpr (n8 >= 3 || codes != CacheCodes::kNone || head_dim == 0) call_attention<codes, head_dim>(index);
  else attention_phase<codes, head_dim>(params, index).run();
}
template <int n8, bool is_first>
QSPEC_DEVICE void run_attention(const StepParams& params, int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  if (spec.cache.format == KvFormat::kBf16) {
    if (spec.head_dim == 128) do_attention<n8, is_first, CacheCodes::kNone, 128>(params, index);
    else if (spec.head_dim == 64) do_attention<n8, is_first, CacheCodes::kNone, 64>(params, index);
    else do_attention<n8, is_first, CacheCodes::kNone, 0>(params, index);
  } else if (spec.cache.format == KvFormat::kInt8) {
    if (spec.head_dim == 128) do_attention<n8, is_first, CacheCodes::kInt8, 128>(params, index);
    else do_attention<n8, is_first, CacheCodes::kInt8, 0>(params, index);
  } else {
    if (spec.head_dim == 128) do_attention<n8, is_first, CacheCodes::kNibbles, 128>(params, index);
    else do_attention<n8, is_first, CacheCodes::kNibbles, 0>(params, index);
  }
}

}  // namespace qspec::cuda
