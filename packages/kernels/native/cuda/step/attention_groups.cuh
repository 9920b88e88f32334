// Attention of many query columns (TeamWay::kGroups): a block takes an item together.
//
// An item has up to 64 query columns. Its chunks go round among three groups of four warps; each warp of a group has sixteen of the columns, and all four use the same
// tiles: a split's K, then its V, 64 positions each (common/swizzled_mma.cuh). Here queries, and then weights, are the tensor cores' larger operand: a lane has of two
// columns the scores of sixteen positions, which become an operand as they are. The same products are added in the same order as by the other teams
// (attention_split.cuh). What a chunk comes to is appended to the sums of its segment and of the item, which wait in the workspace, by whoever has it, when
// everybody before has done so (`turn_at`): the order is that of the other teams, and so the bits are the same.
// In a kernel of its own a warpgroup takes an item by itself (kWarpgroups), all of its chunks; three a block have an item each.
//
// Everybody's K and V are in the cache before such an item begins (launches of more than kPassRows rows). Over a cache of codes each thread makes bfloat16 of
// what it has copied itself, K and then V to the same tile.
#pragma once
#include "common/swizzled_mma.cuh"
#include "step/attention.cuh"

namespace qspec::cuda {

// Of a lane's columns, g and g + 8 of its warp's (lane 4·g + t), over some splits: maxima (base 2), sums of weights, and outputs: [eight elements][column][element 2t,
// 2t + 1].
template <int blocks>
struct GroupSums {
  float largest[2], weight[2], output[blocks][4];

  QSPEC_DEVICE void clear() {
    largest[0] = largest[1] = -INFINITY, weight[0] = weight[1] = 0;
    QSPEC_UNROLL
    for (int i = 0; i < 4 * blocks; ++i) output[i / 4][i % 4] = 0;
  }
  // Onto cleared ones all this is exact. Maxima and weights, then outputs.
  QSPEC_DEVICE void append_weights(const float (&next_largest)[2], const float (&next_weight)[2], FoldFactors (&factors)[2]) {
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) {
      factors[r] = fold_factors(largest[r], next_largest[r]);
      largest[r] = factors[r].largest, weight[r] = fold(factors[r], weight[r], next_weight[r]);
    }
  }
  // Of the eight times eight elements from block `first` on.
  QSPEC_DEVICE void append_outputs(int first, const FoldFactors (&factors)[2], const float (&next)[8][4]) {
    QSPEC_UNROLL
    for (int i = 0; i < 32; ++i) output[first + i / 4][i % 4] = fold(factors[i % 4 / 2], output[first + i / 4][i % 4], next[i / 4][i % 4]);
  }
  // What was saved, and these behind it.
  QSPEC_DEVICE void append_to_saved(const float4* from, int stride) {
    const float4 tail = load_l2(from);
    GroupSums<1> sum;
    sum.largest[0] = tail.x, sum.largest[1] = tail.y, sum.weight[0] = tail.z, sum.weight[1] = tail.w;
    FoldFactors factors[2];
    sum.append_weights(largest, weight, factors);
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) largest[r] = sum.largest[r], weight[r] = sum.weight[r];
    QSPEC_UNROLL
    for (int b = 0; b < blocks; ++b) {
      const float4 before = load_l2(from + (1 + b) * stride);
      output[b][0] = fold(factors[0], before.x, output[b][0]), output[b][1] = fold(factors[0], before.y, output[b][1]);
      output[b][2] = fold(factors[1], before.z, output[b][2]), output[b][3] = fold(factors[1], before.w, output[b][3]);
    }
  }
  QSPEC_DEVICE void save(float4* to, int stride) const {
    store_l2(to, float4{largest[0], largest[1], weight[0], weight[1]});
    QSPEC_UNROLL
    for (int b = 0; b < blocks; ++b) store_l2(to + (1 + b) * stride, float4{output[b][0], output[b][1], output[b][2], output[b][3]});
  }
};

// `way`: kGroups, or kWarpgroups, only in a kernel that has nothing else (step/attention_kernel.cu): a team is one group, and its tensor cores read the tiles for themselves.
template <CacheCodes codes, int head_dim, TeamWay way, bool by_kernels = false>
struct GroupAttention : AttentionPhase<codes, head_dim, way, false, by_kernels> {
  using Base = AttentionPhase<codes, head_dim, way, false, by_kernels>;
  using Work = AttentionWork;
  using Base::params, Base::spec, Base::batch, Base::start, Base::tiles, Base::index, Base::member, Base::lane, Base::heads, Base::has_codes;
  static constexpr int kParts = head_dim / kSwizzledElements, kSteps = head_dim / 16, kBlocks = head_dim / 8, kTile = group_tile_bytes(head_dim);
  static constexpr int kThreads = kSplitWarps * kWarp;  // of a group
  static constexpr int kRowChunks = head_dim / CacheTiles<codes, head_dim>::kChunkDims, kRowsAtOnce = kThreads / kRowChunks, kCopies = kSplitPositions / kRowsAtOnce;  // of a plane
  static_assert(2 * (1 + kBlocks) * kThreads * 4 <= std::min(kBlockScratchFloats, kWarpgroupScratchFloats), "saved sums");
  static_assert(kSplitPositions == kSwizzledRows && kGroupColumns == kSwizzledRows && kTile == swizzled_tile_bytes(head_dim), "a split is a tile, and so are an item's queries");
  static constexpr bool by_warpgroups = way == TeamWay::kWarpgroups;
  static constexpr int kTeamWarps = most_team_warps(way), kGroups = kTeamWarps / kSplitWarps;
  // Of a warpgroup K's and V's tiles are one ring of three, so that two are on their way; over codes, as of other groups, K's and V's codes are.
  static constexpr bool has_ring = by_warpgroups && !has_codes;
  static constexpr int kGroupTiles = group_tiles(way, has_codes), kTiles = 1 + kGroups * kGroupTiles;
  using Operands = uint32_t[kSplitTiles][4];
  using Sums = GroupSums<kBlocks>;

  int group, part;  // of the block; this warp's place in it

  QSPEC_DEVICE explicit GroupAttention(const Base& base) : Base(base), group(by_warpgroups ? 0 : base.member / kSplitWarps), part(base.member % kSplitWarps) {
    Base::base = SharedPlace{(base.base.address + kSwizzledAlignment - 1) / kSwizzledAlignment * kSwizzledAlignment};
  }
  QSPEC_DEVICE int thread() const { return part * kWarp + lane; }
  // What follows from this is found where it is needed: kept, it would be in local memory.
  QSPEC_DEVICE static int here(int value) { return by_warpgroups ? not_hoisted(value) : value; }
  QSPEC_DEVICE void sync_group() const {
    if constexpr (by_warpgroups) Base::sync();
    else group_barrier(kTeamBarrier + 1 + group, kThreads);
  }

  // ---- Shared memory ----

  QSPEC_DEVICE SharedPlace queries() const { return Base::base; }
  QSPEC_DEVICE SharedPlace tiles_of(int of_group) const { return Base::base + (1 + kGroupTiles * of_group) * kTile; }
  // `turn`: which of this group's splits it is.
  QSPEC_DEVICE SharedPlace tile_of(bool is_v, int turn) const { return tiles_of(group) + (has_ring ? (2 * turn + is_v) % kGroupTiles : has_codes ? 0 : is_v) * kTile; }
  QSPEC_DEVICE SharedPlace codes_of(bool is_v) const { return tiles_of(group) + kTile + is_v * (kTile / 2); }
  QSPEC_DEVICE SharedPlace scales_of(bool is_v, int turn) const {
    return Base::base + kTiles * kTile + group * kGroupScaleBytes + (turn % 2 * 2 + is_v) * (kSplitPositions * 4);
  }
  // The first split of the next chunk that warp `part` of a group may append.
  QSPEC_DEVICE SharedPlace turn_at() const { return Base::base + kTiles * kTile + kGroups * kGroupScaleBytes + part * 4; }

  // ---- This group's splits ----

  QSPEC_DEVICE int first_split(const Work& work) const { return group == 0 ? work.begin : (work.begin / kChunkSplits + group) * kChunkSplits; }  // kGroups: in turn
  QSPEC_DEVICE static int next_split(int split) { return (split + 1) % kChunkSplits != 0 ? split + 1 : split + 1 + (kGroups - 1) * kChunkSplits; }

  // ---- Copies ----

  struct Stream {
    const int32_t* pages;  // of the item's sequence
    int32_t last_position;
    int32_t low, high;     // pages of the positions that this lane knows of the next split: its own, and the one 32 behind it
  };
  // Positions behind the item's last are that again: nobody sees them.
  QSPEC_DEVICE int position_of(int split, int half, int32_t last_position) const { return std::min(split * kSplitPositions + half * kWarp + lane, last_position); }
  QSPEC_DEVICE void load_pages(int split, Stream* stream) const {
    stream->low = load_constant(stream->pages + (position_of(split, 0, stream->last_position) >> batch.page_shift));
    stream->high = load_constant(stream->pages + (position_of(split, 1, stream->last_position) >> batch.page_shift));
  }
  // Vectors of the cache.
  struct Places {
    uint32_t low, high;
  };
  QSPEC_DEVICE Places find_places(const Work& work, int split, const Stream& stream) const {
    const auto place = [&](int half, int32_t page) {
      const int position = position_of(split, half, stream.last_position), shift = batch.page_shift;
      return static_cast<uint32_t>((page * spec.num_kv_heads + work.kv_head) << shift | (position & ((1 << shift) - 1)));
    };
    return {place(0, stream.low), place(1, stream.high)};
  }
  // K or V of a split, if it is there; a group of copies in any case.
  QSPEC_DEVICE void start_copies(bool is_v, int turn, bool is_there, const Places& places) const {
    static_assert(kRowsAtOnce % 8 == 0, "a thread's rows lie alike");
    if (is_there) {
      const DeviceKvLayer& cache = spec.cache;
      const int own_thread = here(thread()), chunk = own_thread % kRowChunks, first = own_thread / kRowChunks;
      const uint8_t* plane = (is_v ? cache.v : cache.k) + chunk * 16;
      const SharedPlace own = tile_of(is_v, turn) + swizzled_place(first, chunk);
      QSPEC_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        const uint32_t known = i * kRowsAtOnce < kWarp ? places.low : places.high;
        const uint64_t from = static_cast<uint64_t>(static_cast<uint32_t>(shuffle_from(static_cast<int>(known), first + i * kRowsAtOnce % kWarp))) * (kRowChunks * 16);
        if constexpr (!has_codes) {
          copy_async<16>(own + i * kRowsAtOnce * kSwizzledRowBytes, plane + from);
        } else {
          copy_async<16>(own_codes(is_v, i, false), plane + from);
          if (tiles.has_low_plane()) copy_async<16>(own_codes(is_v, i, true), (is_v ? cache.v_low : cache.k_low) + chunk * 16 + from);
        }
      }
      if (has_codes && !is_v) {  // both scales: V's are weights' factors, which are found before V is there
        static_assert(kThreads == 2 * kSplitPositions, "a scale each");
        const bool of_v = part >= 2;
        copy_async<4>(scales_of(of_v, turn) + thread() % kSplitPositions * 4, (of_v ? cache.v_scales : cache.k_scales) + (part % 2 == 0 ? places.low : places.high));
      }
    }
    commit_async();
  }
  // What the calling thread copies: 16 bytes of each of its rows, and of the low plane's.
  QSPEC_DEVICE SharedPlace own_codes(bool is_v, int i, bool is_low) const { return codes_of(is_v) + ((i * (codes == CacheCodes::kNibbles ? 2 : 1) + is_low) * kThreads + thread()) * 16; }
  // Of what the calling thread has copied: bfloat16, in the order in which steps take K's elements (CacheTiles::query_place()); of V it is as good as any.
  QSPEC_DEVICE void unpack_own(bool is_v, int turn) const {
    const int chunk = thread() % kRowChunks, first = thread() / kRowChunks;
    QSPEC_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const SharedPlace to = tile_of(is_v, turn) + i * kRowsAtOnce * kSwizzledRowBytes;
      const uint4 high = shared_load_16(own_codes(is_v, i, false));
      if constexpr (codes == CacheCodes::kInt8) {
        const CodePairs w[4] = {code_pairs<false>(high.x), code_pairs<false>(high.y), code_pairs<false>(high.z), code_pairs<false>(high.w)};
        store_pairs(to, first, 2 * chunk, w);
      } else {
        const uint4 low = tiles.has_low_plane() ? shared_load_16(own_codes(is_v, i, true)) : uint4{kMiddleNibbles, kMiddleNibbles, kMiddleNibbles, kMiddleNibbles};
        CodePairs even[4], odd[4];
        QSPEC_UNROLL
        for (int j = 0; j < 4; ++j) {
          const uint2 bytes = nibble_bytes(word_of(high, j), word_of(low, j));
          even[j] = code_pairs<true>(bytes.x), odd[j] = code_pairs<true>(bytes.y);
        }
        store_pairs(to, first, 4 * chunk, even);
        store_pairs(to, first, 4 * chunk + 2, odd);
      }
    }
  }
  QSPEC_DEVICE static void store_pairs(SharedPlace tile, int row, int chunk, const CodePairs (&w)[4]) {
    shared_store_16(tile + swizzled_place(row, chunk), uint4{w[0].even, w[1].even, w[2].even, w[3].even});
    shared_store_16(tile + swizzled_place(row, chunk + 1), uint4{w[0].odd, w[1].odd, w[2].odd, w[3].odd});
  }
  // What is under way when a split's K is waited for: that; over codes, and with a ring, its V, too, since both have places of their own.
  QSPEC_DEVICE void start_first(int turn, bool is_there, const Places& places) const {
    start_copies(false, turn, is_there, places);
    if constexpr (has_codes || has_ring) start_copies(true, turn, is_there, places);
  }
  // Waits for a split's K, or V. What is copied next goes to where nobody reads any more.
  QSPEC_DEVICE void wait_for_tile(bool is_v, int turn) const {
    wait_async<has_codes || has_ring ? 1 : 0>();
    if (has_ring) publish_shared_input();
    sync_group();  // everybody's copies; everybody is done with the tile before this one
    if constexpr (!has_codes) return;
    unpack_own(is_v, turn);
    if (by_warpgroups) publish_shared_input();
    sync_group();
  }

  // ---- Queries ----

  QSPEC_DEVICE void put_query(int column, const HeadValues& q) const {
    store_query<!has_codes>(q, head_dim, lane, [&](int element) { return queries() + query_at(column, element); });
  }
  QSPEC_DEVICE uint32_t query_at(int column, int element) const {
    const uint32_t within = tiles.query_place(0, element);
    return swizzled_place(column, within / 16) + within % 16;
  }
  // Of a long launch: those that were made, a group of copies. Columns behind the item's last are that again: nobody looks at what they come to.
  QSPEC_DEVICE void copy_queries(const Work& work, const AttentionItem& item) const {
    constexpr int kChunks = head_dim / 8, kColumnsAtOnce = kTeamWarps * kWarp / kChunks;
    const int chunk = here(Base::thread()) % kChunks, first = here(Base::thread()) / kChunks, last = item.num_rows * heads - 1;
    const uint4* from = made_query(spec, item.row_begin, work.kv_head * heads) + chunk;
    const int other_heads = spec.num_heads + 2 * spec.num_kv_heads - heads;
    QSPEC_UNROLL
    for (int i = 0; i < (kGroupColumns + kColumnsAtOnce - 1) / kColumnsAtOnce; ++i) {
      const int to = first + i * kColumnsAtOnce, c = to < last ? to : last;
      if (kGroupColumns % kColumnsAtOnce == 0 || to < kGroupColumns)
        copy_async<16>(queries() + swizzled_place(to, chunk), from + (Base::row_of(c) * other_heads + c) * (head_dim / 4));
    }
    commit_async();
  }
  // One head a warp of the block, some on their way together.
  QSPEC_DEVICE void make_queries(const Work& work, const AttentionItem& item) const {
    constexpr int kTogether = 3;
    const int count = item.num_rows * heads;
    QSPEC_NO_UNROLL
    for (int first = member; first < count; first += kTogether * kTeamWarps) {
      HeadSource<false> q[kTogether];
      QSPEC_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int c = std::min(first + i * kTeamWarps, count - 1);
        q[i] = load_query_source<false>(spec, item.row_begin + Base::row_of(c), Base::head_of(c, work.kv_head));
      }
      QSPEC_UNROLL
      for (int i = 0; i < kTogether; ++i)
        if (first + i * kTeamWarps < count) put_query(first + i * kTeamWarps, make_head(spec, q[i], spec.q_norm));
    }
  }

  // ---- A split ----

  QSPEC_DEVICE int column_of(int r) const { return here(part * 16 + lane / 4) + 8 * r; }
  // Scores (base 2) of positions 8c + 2t, 8c + 2t + 1.
  QSPEC_DEVICE void scale_scores(int turn, float (&scores)[8][4]) const {
    const float scale = spec.scale * (has_codes ? kLog2E * kCodesAUnit : kLog2E);
    QSPEC_UNROLL
    for (int c = 0; c < 8; ++c) {
      float factor[2] = {scale, scale};
      if constexpr (has_codes) {
        const uint2 of = shared_load_8(scales_of(false, turn) + (8 * c + 2 * (lane % 4)) * 4);
        factor[0] = scale * float_of_bits(of.x), factor[1] = scale * float_of_bits(of.y);
      }
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) scores[c][i] *= factor[i % 2];
    }
  }
  QSPEC_DEVICE void mask(int split, const int32_t (&own)[2], float (&scores)[8][4]) const {
    const int begin = split * kSplitPositions, window = spec.sliding_window > 0 ? spec.sliding_window : INT32_MAX;
    if (vote_all(begin + kSplitPositions - 1 <= own[0] && begin + kSplitPositions - 1 <= own[1] && window == INT32_MAX)) return;
    QSPEC_UNROLL
    for (int c = 0; c < 8; ++c)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int position = begin + 8 * c + 2 * (lane % 4) + i % 2;
        if (position > own[i / 2] || own[i / 2] - position >= window) scores[c][i] = -INFINITY;
      }
  }
  // Over the four lanes that have a column.
  QSPEC_DEVICE static float largest_of_lanes(float v) {
    QSPEC_UNROLL
    for (int i = 1; i < 4; i *= 2) v = fmaxf(v, shuffle_xor(v, i));
    return v;
  }
  // Weights as operands, and what they come to: summed as the other teams do, by the tensor cores or (codes) over every eighth position and then over these sums.
  QSPEC_DEVICE void take_weights(int turn, float (&scores)[8][4], float (&largest)[2], float (&weight)[2], Operands& p) const {
    float least[2], ones[4] = {}, sums[4] = {};
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) {
      float m = -INFINITY;
      QSPEC_UNROLL
      for (int c = 0; c < 8; ++c) m = fmaxf(m, fmaxf(scores[c][2 * r], scores[c][2 * r + 1]));
      largest[r] = largest_of_lanes(m), least[r] = largest[r] == -INFINITY ? 0 : largest[r];
    }
    QSPEC_UNROLL
    for (int c = 0; c < 8; ++c) {
      float factor[2] = {1, 1};
      if constexpr (has_codes) {
        const uint2 of = shared_load_8(scales_of(true, turn) + (8 * c + 2 * (lane % 4)) * 4);
        factor[0] = float_of_bits(of.x) * kCodesAUnit, factor[1] = float_of_bits(of.y) * kCodesAUnit;
      }
      float a[4];
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        a[i] = exp2_fast(scores[c][i] - least[i / 2]);
        if constexpr (has_codes) sums[i] += a[i], a[i] *= factor[i % 2];
      }
      p[c / 2][c % 2 * 2] = pack_bf16(a[0], a[1]), p[c / 2][c % 2 * 2 + 1] = pack_bf16(a[2], a[3]);
      if constexpr (!has_codes)
        if (c % 2) mma_bf16(ones, p[c / 2], kOnePair, kOnePair);
    }
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) {
      if constexpr (!has_codes) {
        weight[r] = ones[2 * r];
      } else {
        weight[r] = sums[2 * r] + sums[2 * r + 1];
        QSPEC_UNROLL
        for (int i = 1; i < 4; i *= 2) weight[r] += shuffle_xor(weight[r], i);
      }
    }
  }
  QSPEC_DEVICE static void clear(float (&d)[8][4]) {
    QSPEC_UNROLL
    for (int i = 0; i < 32; ++i) d[i / 4][i % 4] = 0;
  }
  // Split `split`, this group's number `turn`, onto `chunk`; copies of the next one, if there is one, begin on the way.
  QSPEC_DEVICE void append_split(const Work& work, int split, int turn, const int32_t (&own)[2], const Places& places, const Places& next_places, Sums& chunk) const {
    const bool has_next = next_split(split) < work.end;
    float largest[2], weight[2];
    Operands p;
    {
      float scores[8][4];
      wait_for_tile(false, turn);
      if constexpr (has_codes || has_ring) start_copies(false, turn + 1, has_next, next_places);
      else start_copies(true, turn, true, places);
      clear(scores);
      if constexpr (by_warpgroups) {
        begin_wide();
        begin_rows<kSteps>(scores, queries(), tile_of(false, turn), part, lane);
        end_wide();
        wait_wide_sums(scores);
      } else {
        multiply_rows<kSteps>(scores, queries(), tile_of(false, turn), part, lane);
      }
      scale_scores(turn, scores);
      mask(split, own, scores);
      take_weights(turn, scores, largest, weight, p);
    }
    wait_for_tile(true, turn);
    start_copies(has_codes || has_ring, turn + 1, has_next, next_places);
    FoldFactors factors[2];
    chunk.append_weights(largest, weight, factors);
    append_outputs(tile_of(true, turn), p, factors, chunk);
  }

  // A part of the elements behind the other: sums of both at once are more registers than there are, and other groups multiply meanwhile.
  QSPEC_DEVICE void append_outputs(SharedPlace tile, const Operands& p, const FoldFactors (&factors)[2], Sums& chunk) const {
    QSPEC_UNROLL
    for (int i = 0; i < kParts; ++i) {
      float outputs[8][4];
      clear(outputs);
      if constexpr (by_warpgroups) {
        begin_wide();
        begin_elements(outputs, p, tile, i, lane);
        end_wide();
        wait_wide_sums(outputs);
      } else {
        multiply_elements(outputs, p, tile, i, lane);
      }
      chunk.append_outputs(8 * i, factors, outputs);
    }
  }

  // ---- Sums of several chunks ----

  // level: 0 segment, 1 the item.
  QSPEC_DEVICE float4* saved_at(int level) const {
    const int64_t at = by_warpgroups ? (block_index() * kSplitGroups + Base::team) * kWarpgroupScratchFloats : block_index() * int64_t{kBlockScratchFloats};
    return reinterpret_cast<float4*>(params.workspace.block_scratch + at) + level * (1 + kBlocks) * kThreads + thread();
  }
  // The chunk that ends with `last`, when it is its turn: onto its segment, and what ends with it onto the item. True when the item, or with `by_segments` a segment,
  // is done: what it comes to is in `sums`. As AttentionPhase::append_chunk().
  QSPEC_DEVICE bool append_chunk(const Work& work, int last, bool by_segments, Sums& sums) const {
    const int begin = last / kChunkSplits * kChunkSplits, segment = begin / kSegmentSplits * kSegmentSplits;
    const bool is_end = last + 1 == work.end;
    if (begin > work.begin && begin > segment) sums.append_to_saved(saved_at(0), kThreads);
    if (!is_end && (last + 1) % kSegmentSplits != 0) {
      sums.save(saved_at(0), kThreads);
      return false;
    }
    if (by_segments) return true;
    if (segment > work.begin) sums.append_to_saved(saved_at(1), kThreads);
    if (!is_end) sums.save(saved_at(1), kThreads);
    return is_end;
  }

  // ---- Results ----

  // Calls `store(element, values of it and the next)` for what this lane has of its column `r`.
  template <typename Store>
  QSPEC_DEVICE void for_pairs(const Sums& sums, int r, const Store& store) const {
    const int t = lane % 4;
    constexpr int kOf = codes == CacheCodes::kNone ? 1 : codes == CacheCodes::kInt8 ? 2 : 4;  // eights whose elements lie among each other's
    QSPEC_UNROLL
    for (int b = 0; b < kBlocks; b += kOf) {
      const auto value = [&](int i, int e) { return sums.output[b + i][2 * r + e]; };
      const int at = 8 * b + 2 * kOf * t;
      if constexpr (codes == CacheCodes::kNone) {
        store(at, float2{value(0, 0), value(0, 1)});
      } else if constexpr (codes == CacheCodes::kInt8) {
        store(at, float2{value(0, 0), value(1, 0)});
        store(at + 2, float2{value(0, 1), value(1, 1)});
      } else {
        QSPEC_UNROLL
        for (int e = 0; e < 2; ++e) {
          store(at + 4 * e, float2{value(0, e), value(2, e)});
          store(at + 4 * e + 2, float2{value(1, e), value(3, e)});
        }
      }
    }
  }
  // Of an item that is all there is to its columns: outputs come to shared memory, where the tiles of the group lay that had the last chunk, and are stored by all warps in a
  // short loop: code that is run once comes from far.
  QSPEC_DEVICE SharedPlace staged_at(int of_group, int column, int chunk) const {
    return tiles_of(of_group) + column * head_dim * 4 + ((chunk ^ column) & 7) * 16 + (chunk & ~7) * 16;
  }
  QSPEC_DEVICE SharedPlace staged_weight_at(int of_group, int column) const { return Base::base + kTiles * kTile + of_group * kGroupScaleBytes + column * 4; }
  QSPEC_DEVICE void stage(const Sums& sums) const {
    sync_group();  // everybody is done with the tiles
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int c = column_of(r);
      for_pairs(sums, r, [&](int at, float2 two) {
        const SharedPlace to = staged_at(group, c, at / 4) + at % 4 * 4;
        shared_store_float(to, two.x), shared_store_float(to + 4, two.y);
      });
      if (lane % 4 == 0) shared_store_float(staged_weight_at(group, c), sums.weight[r]);
    }
  }
  QSPEC_DEVICE void store_staged(const Work& work) const {
    constexpr int kQuads = head_dim / 4;
    const AttentionItem& item = Base::item(work);
    const int of_group = ((work.end - 1) / kChunkSplits - work.begin / kChunkSplits) % kGroups;
    QSPEC_NO_UNROLL
    for (int i = Base::thread(); i < item.num_rows * heads * kQuads; i += kTeamWarps * kWarp) {
      const int c = i / kQuads, quad = i % kQuads, row = item.row_begin + Base::row_of(c), head = Base::head_of(c, work.kv_head);
      const uint4 v = shared_load_16(staged_at(of_group, c, quad));
      const float weight = shared_load_float(staged_weight_at(of_group, c));
      Base::store_attended(row, head, 4 * quad, float2{float_of_bits(v.x), float_of_bits(v.y)}, weight);
      Base::store_attended(row, head, 4 * quad + 2, float2{float_of_bits(v.z), float_of_bits(v.w)}, weight);
    }
  }
  // Another item, or one of its segments if each is handed in, as far as `end`.
  QSPEC_DEVICE void store_results(const Work& work, const Sums& sums, bool is_segment, int end) const {
    const AttentionItem& item = Base::item(work);
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int c = column_of(r);
      if (c >= item.num_rows * heads) continue;
      const int row = item.row_begin + Base::row_of(c), head = Base::head_of(c, work.kv_head);
      float* p = is_segment ? Base::segment_result(row, (end - 1) / kSegmentSplits, head) : Base::item_result(row, item.result, head);
      for_pairs(sums, r, [&](int at, float2 two) { store_l2(reinterpret_cast<float2*>(p + at), two); });
      if (lane % 4 == 0) store_l2(reinterpret_cast<float2*>(p + head_dim), float2{sums.largest[r], sums.weight[r]});
    }
  }
  // Places are found here, not before the loop over splits.
  QSPEC_DEVICE GroupAttention found_here() const {
    GroupAttention here = *this;
    here.lane = not_hoisted(lane), here.part = not_hoisted(part), here.heads = not_hoisted(heads);
    return here;
  }

  // ---- The phase ----

  QSPEC_DEVICE void take_item(const Work& work) const {
    Base::sync();  // everybody is done with the item before
    if (Base::thread() == 0) Base::item_at(work.place) = work.number == first_item(Base::team) ? start.items[Base::team] : load_struct(batch.items + work.number / spec.num_kv_heads);
    if (kGroups > 1 && group == 0 && lane == 0) shared_store_4(turn_at(), static_cast<uint32_t>(work.begin));
    Base::sync();
    const AttentionItem& item = Base::item(work);
    Stream stream{batch.page_ids + item.page_begin, item.last_position, 0, 0};
    int split = first_split(work);
    load_pages(split, &stream);
    if constexpr (by_kernels) copy_queries(work, item);
    Places places = find_places(work, split, stream);
    start_first(0, split < work.end, places);
    load_pages(next_split(split), &stream);
    if constexpr (!by_kernels) make_queries(work, item);
    int32_t own[2];
    QSPEC_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int c = column_of(r);
      own[r] = c < item.num_rows * heads ? load_constant(batch.positions + item.row_begin + Base::row_of(c)) : INT32_MAX;
    }
    const AttentionFold* fold = batch.folds + item.fold;
    const bool by_segments = item.by_segments, is_segment = load_constant(&fold->num_items) == 1, is_whole = is_segment && load_constant(&fold->num_segments) == 1;
    if constexpr (by_kernels) wait_async<has_codes || has_ring ? 2 : 1>();
    if (by_warpgroups) publish_shared_input();
    Base::sync();  // queries
    int turn = 0;
    QSPEC_NO_UNROLL
    while (split < work.end) {
      const int begin = split, last = std::min(split / kChunkSplits * kChunkSplits + kChunkSplits, work.end) - 1;
      Sums chunk;
      chunk.clear();
      QSPEC_NO_UNROLL
      while (true) {
        const int next = next_split(split);
        const Places next_places = find_places(work, next, stream);
        load_pages(next_split(next), &stream);
        append_split(work, split, turn++, own, places, next_places, chunk);
        places = next_places;
        if (split == last) break;
        split = next;
      }
      split = next_split(split);
      if constexpr (kGroups > 1) {
        while (shared_load_acquire(turn_at()) != static_cast<uint32_t>(begin)) pause();
        sync_warp();
      }
      const bool is_done = append_chunk(work, last, by_segments, chunk);
      if constexpr (kGroups > 1) {
        sync_warp();
        if (lane == 0) shared_store_release(turn_at(), static_cast<uint32_t>(last + 1));
      }
      if (!is_done) continue;
      if (is_whole) found_here().stage(chunk);
      else found_here().store_results(work, chunk, is_segment, last + 1);
    }
    if (!is_whole) {
      if constexpr (!by_kernels) Base::finish_item(item, *fold, work.kv_head);
      return;
    }
    Base::sync();
    found_here().store_staged(work);
  }
  QSPEC_DEVICE void run() const {
    if (!Base::has_work()) return;
    Work work = Base::first_work();
    stamp_clock(params, index, 0);
    QSPEC_NO_UNROLL
    do take_item(work);
    while (Base::next_work(&work));
    stamp_clock(params, index, 4);
    wait_async<0>();
  }
};

template <CacheCodes codes, int head_dim>
QSPEC_DEVICE_CALL void call_group_attention(int index) {
  GroupAttention<codes, head_dim, TeamWay::kGroups>(attention_phase<codes, head_dim, TeamWay::kGroups, false>(step_params(), index)).run();
}
// Of all formats and head sizes that have such teams (has_group_teams()); called from one place, as call_wide_attention().
QSPEC_DEVICE_CALL void call_group_attention(int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  if (spec.cache.format == KvFormat::kInt8) call_group_attention<CacheCodes::kInt8, kMaxHeadDim>(index);
  else if (spec.cache.format == KvFormat::kInt8Nested) call_group_attention<CacheCodes::kNibbles, kMaxHeadDim>(index);
  else if (spec.head_dim == kMaxHeadDim) call_group_attention<CacheCodes::kNone, kMaxHeadDim>(index);
  else call_group_attention<CacheCodes::kNone, 64>(index);
}

}  // namespace qspec::cuda
