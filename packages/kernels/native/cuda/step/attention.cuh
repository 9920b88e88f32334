// Paged attention as a phase of the step kernel.
//
// An item is a block of query columns (rows of one sequence x the heads that share a KV head) over a range of splits of 64 positions; a team of warps
// takes it. A warp has eight columns, all dims of them, and nothing to exchange with the others within a split.
// - Up to eight columns (`by_splits`): the team's four warps take the four splits of a chunk, or the four chunks of a segment, each through a ring of tiles
//   of its own, and fold what they have in shared memory.
// - Up to sixteen columns, in launches of six rows and more (`is_wide`): the same with two blocks of eight columns a warp: what it reads of a tile serves both. Its
//   registers don't hold the sums of a chunk, too: those wait in shared memory.
// - Up to eight columns, where chunks leave multiprocessors without an item (`by_tiles`): an item is a split. Its four tiles are shared out for scores, its dims
//   for outputs, so a warp's chain is a quarter as long; there is more to fold afterwards.
// - More: each warp takes eight of the columns, and all use the same tiles.
// Within a split positions are summed in order (attention_split.cuh); splits are folded in order within a chunk of 4, chunks within a segment of 4, segments in order:
// nothing depends on who shares the batch, nor on how much of this one item does.
//
// K and V go through a ring of tiles of 16 positions in shared memory, some at a time (a *turn*), as they lie in the cache (asynchronous copies, attention_copies.cuh): a
// split's turns of K, then those of V. What this launch adds to the cache is written there before its copies start; where they started before the phase's
// input was there (the first turns are fetched before the grid's barrier), it goes to the tiles directly.
#pragma once
#include "step/attention_copies.cuh"
#include "step/attention_split.cuh"

namespace qspec::cuda {

struct AttentionWork {  // one item, for one KV head
  int number, kv_head;
  int begin, end;  // splits
  int place;       // which of the team's items in shared memory this is
};

// `head_dim`, or 0: told at run time. `may_post`: of the kernel whose launches may post words. `by_kernels`: of a kernel that has attention alone (step/attention_kernel.cu):
// queries are made before it, and what items hand in is folded behind it.
template <CacheCodes codes, int head_dim, TeamWay way, bool may_post, bool by_kernels = false>
struct AttentionPhase {
  static constexpr bool by_columns = way == TeamWay::kColumns, by_splits = is_by_splits(way), is_wide = way == TeamWay::kWideSplits, by_tiles = way == TeamWay::kTiles;
  using Tiles = CacheTiles<codes, head_dim>;
  using Products = SplitProducts<codes, head_dim, way>;
  using Columns = typename Products::Columns;
  using Copies = TileCopies<codes, head_dim, !by_columns>;
  using Work = AttentionWork;
  static constexpr bool has_codes = Tiles::has_codes;
  static constexpr int kBlocks = Products::kBlocks, kAtOnce = Products::kAtOnce, kTurns = Products::kTurns;
  static constexpr int kSteps = Tiles::kSteps, kFoldBatch = by_columns || way == TeamWay::kGroups || way == TeamWay::kWarpgroups ? 8 : 4, kHeadsAtOnce = by_columns || is_wide ? 4 : 2;
  using Sums = OfBlocks<AttentionSums<kSteps>, kBlocks>;
  // What of a result one warp of the team has: all steps of its columns, or every fourth step, or a quarter of them.
  static constexpr int kPartSteps = by_columns ? kSteps : (kSteps + kMaxTeamWarps - 1) / kMaxTeamWarps;
  using Part = OfBlocks<AttentionSums<kPartSteps>, kBlocks>;
  using Source = HeadSource<may_post>;

  const StepParams& params;
  const AttentionSpec& spec;
  const StepBatch& batch;
  const AttentionStart& start;
  Tiles tiles;
  int index;               // of the phase
  int team, member, lane;  // where this thread is: its warp's place in the team
  int heads, dim;          // query heads a KV head
  uint32_t per_head;       // 2^16 ÷ heads, rounded up
  SharedPlace base;        // of the team's shared memory

  // ---- The team ----

  QSPEC_DEVICE int team_warps() const { return by_columns ? params.attention.team_warps : most_team_warps(way); }
  QSPEC_DEVICE int team_threads() const { return team_warps() * kWarp; }
  QSPEC_DEVICE int thread() const { return member * kWarp + lane; }
  QSPEC_DEVICE int total_items() const { return batch.num_items * spec.num_kv_heads; }
  QSPEC_DEVICE bool has_work() const { return team < params.attention.num_teams && first_item(team) < total_items(); }
  QSPEC_DEVICE void sync() const { group_barrier(kTeamBarrier + team, team_threads()); }
  // Of those who use the same tiles.
  QSPEC_DEVICE void sync_tiles() const {
    if constexpr (by_splits) sync_warp();
    else sync();
  }
  // Rings, queries of two items, and where each warp leaves its sums.
  QSPEC_DEVICE int turn_bytes() const { return kAtOnce * tiles.bytes(); }
  QSPEC_DEVICE SharedPlace ring_at(int of_member) const { return base + (by_splits ? of_member : 0) * params.attention.ring_turns * turn_bytes(); }
  QSPEC_DEVICE SharedPlace query_at(int place) const {
    return base + ring_bytes(tiles.head_dims(), has_codes, way, team_warps(), params.attention.ring_turns) + place * num_columns() * query_row_bytes(tiles.head_dims());
  }
  QSPEC_DEVICE SharedPlace sums_place_at(int of_member) const { return query_at(2) + of_member * 4; }
  // by_tiles: of each warp, the scores of its tile.
  QSPEC_DEVICE SharedPlace scores_at(int of_member) const { return query_at(2) + of_member * kTileScoreBytes; }
  QSPEC_DEVICE int num_columns() const { return team_columns(way, team_warps()); }
  // Where an even number of warps use the same tiles, each of a turn's tiles is copied by half of them.
  QSPEC_DEVICE bool has_own_tile() const { return by_columns && team_warps() % 2 == 0; }
  QSPEC_DEVICE Copies copies() const {
    const int shift = has_own_tile() ? 1 : 0;
    return {spec.cache, tiles, by_columns ? member >> shift : 0, static_cast<uint32_t>(team_warps() >> shift)};
  }

  // ---- Items and their splits ----

  QSPEC_DEVICE AttentionItem& item_at(int place) const { return shared_at<AttentionItem>(kTeamItemsAt + (team * 2 + place) * sizeof(AttentionItem)); }
  QSPEC_DEVICE const AttentionItem& item(const Work& work) const { return item_at(work.place); }
  QSPEC_DEVICE Work first_work() const {
    const AttentionItem& first = start.items[team];
    return {first_item(team), first_item(team) % spec.num_kv_heads, first.split_begin, first.split_end, 0};
  }
  // False after the last.
  QSPEC_DEVICE bool next_work(Work* work) const {
    work->number += params.attention.num_teams * grid_blocks();
    if (work->number >= total_items()) return false;
    const int item = work->number / spec.num_kv_heads;
    work->kv_head = work->number - item * spec.num_kv_heads;
    const int4 first = load_constant(reinterpret_cast<const int4*>(batch.items + item));
    static_assert(offsetof(AttentionItem, split_begin) == 8 && offsetof(AttentionItem, split_end) == 12, "the last of its first 16 bytes");
    work->begin = first.z, work->end = first.w, work->place ^= 1;
    return true;
  }
  // This warp's first split of an item, and the one after `split`: may lie past the item's end.
  QSPEC_DEVICE int first_split(const Work& work) const { return by_splits ? first_member_split(work.begin, work.end, member) : work.begin; }
  QSPEC_DEVICE int next_split(const Work& work, int split) const {
    if constexpr (!by_splits) return split + 1;
    if (!is_long_item(work.begin, work.end)) return work.end;
    return (split + 1) % kChunkSplits != 0 ? split + 1 : split + 1 + kSegmentSplits - kChunkSplits;
  }
  QSPEC_DEVICE SplitPlaces find_places(const Work& work, int split) const {
    if (split >= work.end) return SplitPlaces::nothing();
    const int position = split * kSplitPositions + lane;
    return SplitPlaces::of_slots(slot_of_position(batch, item(work), position), slot_of_position(batch, item(work), position + kWarp), work.kv_head, spec.num_kv_heads, batch.page_shift);
  }

  // ---- What this launch adds, and the queries ----

  QSPEC_DEVICE void put_query(SharedPlace queries, int column, const HeadValues& q) const {
    store_query<!has_codes>(q, dim, lane, [&](int element) { return queries + tiles.query_place(column, element); });
  }

  // Row and head of a query column: exact for the few columns that there are.
  QSPEC_DEVICE int row_of(int column) const { return static_cast<int>(column * per_head >> 16); }
  QSPEC_DEVICE int head_of(int column, int kv_head) const { return kv_head * heads + column - row_of(column) * heads; }
  QSPEC_DEVICE int first_column(int block) const { return (by_columns ? member : block) * kWarpColumns; }
  QSPEC_DEVICE int column(int block, int e) const { return first_column(block) + 2 * (lane % 4) + e; }
  // Behind a column's query.
  QSPEC_DEVICE SharedPlace own_at(int place, int column) const { return query_at(place) + column * query_row_bytes(tiles.head_dims()) + tiles.head_dims() * 2; }

  // Where K or V of a position goes besides the cache: into tiles that were fetched before it was there.
  QSPEC_DEVICE TilePlace tile_place(const Work& work, int position, bool is_v, bool is_start) const {
    const int split = position / kSplitPositions, in_split = position % kSplitPositions, tile = in_split / kTilePositions + (is_v ? kSplitTiles : 0), at = in_split % kTilePositions;
    int whose = 0, first = work.begin;
    if constexpr (by_splits) {
      whose = is_long_item(work.begin, work.end) ? split % kSegmentSplits / kChunkSplits : split - work.begin;
      first = first_member_split(work.begin, work.end, whose);
    }
    const SharedPlace place = ring_at(whose) + tile * tiles.bytes();
    return {is_start && split == first && (by_tiles || tile / kAtOnce < params.attention.ring_turns - 1), place + at * tiles.row_bytes(), tiles.scale_at(place, at)};
  }
  // Before an item's first tile is fetched, or (`is_start`) after: queries, normed and rotated; what the launch adds goes into the cache. One head a warp,
  // several of them under way.
  QSPEC_DEVICE void prepare(const Work& work, bool is_start) const {
    const AttentionItem item = is_start ? start.items[team] : load_struct(batch.items + work.number / spec.num_kv_heads);
    if (thread() == 0) item_at(work.place) = item;
    const int num_queries = item.num_rows * heads;
    for (int c = thread(); c < num_columns(); c += team_threads())
      shared_store_4(own_at(work.place, c), static_cast<uint32_t>(c < num_queries ? start.positions[item.row_begin + row_of(c)] : INT32_MAX));
    if constexpr (by_kernels) return copy_queries(work, item);
    const int begin = std::max(item.split_begin * kSplitPositions, item.first_new), end = std::min(item.split_end * kSplitPositions - 1, item.last_position);
    int position = begin <= end ? begin + team_warps() - 1 - member : INT32_MAX;  // the others first: they have fewer queries
    Source k{}, v{};
    if (position <= end) k = new_source(item, work.kv_head, position, false), v = new_source(item, work.kv_head, position, true);
    QSPEC_NO_UNROLL
    for (int first = member; first < num_queries; first += kHeadsAtOnce * team_warps()) {
      Source q[kHeadsAtOnce]{};
      QSPEC_UNROLL
      for (int i = 0; i < kHeadsAtOnce; ++i) {
        const int c = first + i * team_warps();
        if (c < num_queries) q[i] = load_query_source<may_post>(spec, item.row_begin + row_of(c), head_of(c, work.kv_head));
      }
      QSPEC_UNROLL
      for (int i = 0; i < kHeadsAtOnce; ++i) {
        const int c = first + i * team_warps();
        if (c < num_queries) put_query(query_at(work.place), c, make_head(spec, q[i], spec.q_norm));
      }
    }
    QSPEC_NO_UNROLL
    while (position <= end) {
      const int32_t vector = cache_place(start.slots_of_rows[item.sequence_begin + position - item.first_new], work.kv_head, spec.num_kv_heads, batch.page_shift);
      store_kv_head(spec, k, vector, false, tile_place(work, position, false, is_start));
      store_kv_head(spec, v, vector, true, tile_place(work, position, true, is_start));
      position += team_warps();
      if (position <= end) k = new_source(item, work.kv_head, position, false), v = new_source(item, work.kv_head, position, true);
    }
  }
  // Of a long launch: 16 bytes a thread, all on their way together.
  QSPEC_DEVICE void copy_queries(const Work& work, const AttentionItem& item) const {
    constexpr int kChunks = head_dim / 8, kThreads = kMaxTeamWarps * kWarp, kCopies = (team_columns(way, kMaxTeamWarps) * kChunks + kThreads - 1) / kThreads;
    const int count = item.num_rows * heads * kChunks;
    uint4 words[kCopies];
    QSPEC_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int at = thread() + i * team_threads(), c = at / kChunks;
      if (at < count) words[i] = load_l2(made_query(spec, item.row_begin + row_of(c), head_of(c, work.kv_head)) + at % kChunks);
    }
    QSPEC_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int at = thread() + i * team_threads();
      if (at < count) shared_store_16(query_at(work.place) + at / kChunks * query_row_bytes(head_dim) + at % kChunks * 16, words[i]);
    }
  }
  QSPEC_DEVICE Source new_source(const AttentionItem& item, int kv_head, int position, bool is_v) const {
    return load_kv_source<may_post>(spec, item.sequence_begin + position - item.first_new, kv_head, is_v);
  }

  // ---- One split ----

  QSPEC_DEVICE void start_turn(SharedPlace to, int turn, const SplitPlaces& places) const {
    QSPEC_NO_UNROLL
    for (int i = has_own_tile() ? member & 1 : 0; i < kAtOnce; i += has_own_tile() ? 2 : 1) copies().start(to + i * tiles.bytes(), kAtOnce * turn + i, places);
    commit_async();
  }
  // The first turns of a split that nobody has fetched yet.
  QSPEC_DEVICE void start_split(TileRing ring, const SplitPlaces& places) const {
    QSPEC_NO_UNROLL
    for (int turn = 0; turn < ring.ahead; ++turn) start_turn(ring.next(turn_bytes()), turn, places);
  }
  // Before turn `turn` of the split (K first): waits for its tiles, and lets those after the ones on their way be copied to the freed place.
  QSPEC_DEVICE SharedPlace next_turn(int turn, TileRing* ring, const SplitPlaces& places, const SplitPlaces& next_places) const {
    ring->wait();
    sync_tiles();
    const int last = turn + not_hoisted(ring->ahead);  // else what follows from it is kept for all turns
    start_turn(ring->freed, last % (2 * kTurns), SplitPlaces::pick(last >= 2 * kTurns, places, next_places));
    return ring->next(turn_bytes());
  }

  QSPEC_DEVICE Products products() const { return {spec, tiles, lane}; }
  QSPEC_DEVICE void load_columns(int place, Columns (&columns)[kBlocks]) const {
    products().load_columns(query_at(place), [&](int b) { return first_column(b); }, columns);
  }
  // The sums of a split.
  QSPEC_DEVICE void sum_split(int split, int place, const SplitPlaces& places, const SplitPlaces& next_places, TileRing* ring, Sums& one) const {
    if constexpr (is_wide) return sum_wide_split(split, place, places, next_places, ring, one);
    Columns columns[kBlocks];
    load_columns(place, columns);
    // Loops, though they are short: few have been here since the weights of a layer went by, so every instruction comes from far.
    typename Products::Scores scores;
    float ones[kBlocks][4] = {}, least[kBlocks][2];
    one.clear();
    QSPEC_UNROLL
    for (int turn = 0; turn < kTurns; ++turn)
      QSPEC_UNROLL
      for (int i = 0; i < 4 * kBlocks * kAtOnce; ++i) scores[turn][i / 4 / kAtOnce][i / 4 % kAtOnce][i % 4] = 0;
    QSPEC_NO_UNROLL
    for (int j = 0; j < kTurns; ++j) {
      Products::first_turn_leaves(scores);
      products().score(next_turn(j, ring, places, next_places), columns, scores[kTurns - 1]);
    }
    products().end_scores(split, columns, scores, one, least);
    QSPEC_NO_UNROLL
    for (int j = 0; j < kTurns; ++j) {
      Products::make_weights(scores[0], least);
      const SharedPlace at = next_turn(kTurns + j, ring, places, next_places);
      typename Products::Operands p;
      products().take_weights(at, scores[0], p, ones, one);
      products().attend(at, p, 0, one);
      Products::first_turn_leaves(scores);
    }
    Products::finish_weights(ones, one);
  }
  // The same without loops, whose scores would have to move up; and with weights that take half the registers as soon as they can: outputs need them.
  QSPEC_DEVICE void sum_wide_split(int split, int place, const SplitPlaces& places, const SplitPlaces& next_places, TileRing* ring, Sums& one) const {
    typename Products::Scores scores;
    float ones[kBlocks][4] = {}, least[kBlocks][2];
    {
      Columns columns[kBlocks];
      load_columns(place, columns);
      QSPEC_UNROLL
      for (int j = 0; j < kTurns; ++j) products().score(next_turn(j, ring, places, next_places), columns, scores[j]);
      one.clear();
      products().end_scores(split, columns, scores, one, least);
    }
    typename Products::Operands p[kTurns];
    QSPEC_UNROLL
    for (int j = 0; j < kTurns; ++j) {
      Products::make_weights(scores[j], least);
      if constexpr (!has_codes) products().take_weights(SharedPlace{}, scores[j], p[j], ones, one);
    }
    QSPEC_UNROLL
    for (int j = 0; j < kTurns; ++j) {
      const SharedPlace at = next_turn(kTurns + j, ring, places, next_places);
      if constexpr (has_codes) products().take_weights(at, scores[j], p[j], ones, one);
      products().attend(at, p[j], 0, one);
    }
    Products::finish_weights(ones, one);
  }

  // ---- One split, a tile a warp ----

  // All its tiles: K first, a group of copies each for K and V.
  QSPEC_DEVICE void start_tiles(const SplitPlaces& places) const {
    static_assert(kMaxTeamWarps == kSplitTiles, "a tile of K and of V each");
    copies().start(base + member * tiles.bytes(), member, places);
    commit_async();
    copies().start(base + (kSplitTiles + member) * tiles.bytes(), kSplitTiles + member, places);
    commit_async();
  }
  // When the tiles of K are there for all. Each warp finds a tile's scores, then with everybody's all weights, and a quarter of the dims.
  QSPEC_DEVICE Part take_tiles(const Work& now) const {
    Columns columns[kBlocks];
    load_columns(now.place, columns);
    typename Products::Scores scores;
    float own[kBlocks][1][4], ones[kBlocks][4] = {}, least[kBlocks][2];
    products().template score<1>(base + member * tiles.bytes(), columns, own);
    const float(&tile)[4] = own[0][0];
    shared_store_16(scores_at(member) + lane * 16, uint4{bits_of_float(tile[0]), bits_of_float(tile[1]), bits_of_float(tile[2]), bits_of_float(tile[3])});
    wait_async<0>();
    sync();
    QSPEC_UNROLL
    for (int j = 0; j < kSplitTiles; ++j) {
      const uint4 words = shared_load_16(scores_at(j) + lane * 16);
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) scores[j / kAtOnce][0][j % kAtOnce][i] = float_of_bits(word_of(words, i));
    }
    Part one;
    one.clear();
    products().end_scores(now.begin, columns, scores, one, least);
    QSPEC_UNROLL
    for (int j = 0; j < kTurns; ++j) {
      const SharedPlace at = base + (kSplitTiles + kAtOnce * j) * tiles.bytes();
      typename Products::Operands p;
      Products::make_weights(scores[j], least);
      products().take_weights(at, scores[j], p, ones, one);
      products().attend(at, p, part_step(0), one);
    }
    Products::finish_weights(ones, one);
    return one;
  }

  // ---- Sums of several splits ----

  // by_splits: the sums of `count` warps, folded in order; every warp gets its part of them. They pass through the place in each ring that is free now.
  QSPEC_DEVICE Part combine(const Sums& all, const TileRing& ring, int count) const {
    const AttentionSums<kSteps>& own = all.of[0];
    const SharedPlace at = ring.freed + lane * 4;
    const uint32_t behind = tiles.steps() * 4 * kWarp * 4;  // [columns] of maximum, weight
    sync_warp();  // all lanes are done with this place
    QSPEC_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      if (i >= tiles.steps()) break;
      QSPEC_UNROLL
      for (int e = 0; e < 4; ++e) shared_store_float(at + (4 * i + e) * kWarp * 4, own.output[i][e]);
    }
    if (lane < 4) {
      QSPEC_UNROLL
      for (int e = 0; e < 2; ++e) shared_store_float(ring.freed + behind + (2 * lane + e) * 8, own.largest[e]), shared_store_float(ring.freed + behind + (2 * lane + e) * 8 + 4, own.weight[e]);
    }
    if (lane == 0) shared_store_4(sums_place_at(member), ring.freed.address);
    sync();
    Part sum;
    sum.clear();
    QSPEC_NO_UNROLL
    for (int m = 0; m < count; ++m) {
      const SharedPlace from{shared_load_4(sums_place_at(m))};
      Part all_next;
      AttentionSums<kPartSteps>& next = all_next.of[0];
      next.clear();
      QSPEC_UNROLL
      for (int e = 0; e < 2; ++e) {
        const SharedPlace tail = from + behind + (2 * (lane % 4) + e) * 8;
        next.largest[e] = shared_load_float(tail), next.weight[e] = shared_load_float(tail + 4);
      }
      QSPEC_UNROLL
      for (int s = 0; s < kPartSteps; ++s) {
        const int i = part_step(s);
        if (i >= tiles.steps()) break;
        QSPEC_UNROLL
        for (int e = 0; e < 4; ++e) next.output[s][e] = shared_load_float(from + lane * 4 + (4 * i + e) * kWarp * 4);
      }
      sum.append(all_next);
    }
    sync();  // everyone is done with these places
    return sum;
  }
  // is_wide: a warp's sums of a chunk.
  QSPEC_DEVICE SharedSums<kSteps, kBlocks> chunk_sums(int of_member) const { return {query_at(2) + of_member * wide_sums_bytes(tiles.head_dims()) + lane * 16, tiles.steps()}; }
  // The sums of `count` warps, folded in order; every warp gets its part of them.
  QSPEC_DEVICE Part combine_wide(int count) const {
    sync();
    Part sum;
    sum.clear();
    QSPEC_NO_UNROLL
    for (int m = 0; m < count; ++m) {
      Part next;
      next.clear();
      chunk_sums(m).load_part(next, [&](int s) { return part_step(s); });
      sum.append(next);
    }
    sync();  // everyone is done with these places
    return sum;
  }
  QSPEC_DEVICE int part_step(int s) const { return by_splits ? member + kMaxTeamWarps * s : by_tiles ? member * kPartSteps + s : s; }

  // Otherwise longer items' sums are touched once a chunk and kept in the workspace: in shared memory they would leave L1 too little for the weights that
  // are on their way. level: 0 segment, 1 the whole.
  QSPEC_DEVICE float* saved_at(int level) const {
    return params.workspace.block_scratch + ((static_cast<int64_t>(block_index() * kStepWarps + team * team_warps() + member) * 2 + level)) * kStateWords * kWarp + lane;
  }
  // A chunk that ends with `split` is complete: into its segment, and that into the whole, unless each is handed in. `chunk` becomes what finish() is told.
  QSPEC_DEVICE void append_chunk(const Work& work, int split, bool by_segments, Sums& chunk) const {
    const int begin = split / kChunkSplits * kChunkSplits, segment = begin / kSegmentSplits * kSegmentSplits;
    const bool is_end = split + 1 == work.end;
    Sums sum;
    if (begin == work.begin || begin == segment) sum.clear();
    else sum.of[0].load(saved_at(0));
    sum.append(chunk);
    if (!is_end && begin + kChunkSplits != segment + kSegmentSplits) return sum.of[0].save(saved_at(0));
    if (by_segments || segment <= work.begin) chunk.clear();
    else chunk.of[0].load(saved_at(1));
    chunk.append(sum);
    if (!is_end && !by_segments) chunk.of[0].save(saved_at(1));
  }

  // ---- Results: [outputs | largest, weight] ----

  QSPEC_DEVICE float* item_result(int row, int slot, int head) const {
    return params.workspace.item_results + ((static_cast<int64_t>(row) * batch.result_stride + slot) * spec.num_heads + head) * (dim + kResultTail);
  }
  QSPEC_DEVICE float* segment_result(int row, int segment, int head) const {
    return params.workspace.segment_results + ((static_cast<int64_t>(row) * batch.segment_stride + segment) * spec.num_heads + head) * (dim + kResultTail);
  }

  // Calls `store(row, head, dim, outputs of dim and dim + 1, block, which of the lane's columns of it)`.
  template <typename Store>
  QSPEC_DEVICE void for_results(const Part& part, const AttentionItem& item, int kv_head, const Store& store) const {
    QSPEC_UNROLL
    for (int i = 0; i < 2 * kBlocks; ++i) {
      const int b = i / 2, e = i % 2, of = column(b, e);
      const bool is_there = of < item.num_rows * heads;
      const int row = item.row_begin + row_of(of), head = head_of(of, kv_head);
      QSPEC_UNROLL
      for (int s = 0; s < kPartSteps; ++s) {
        if (part_step(s) >= tiles.steps()) break;
        const DimPair pair = tiles.dim_pair(part.of[b].output[s], part_step(s), e, lane);
        if (is_there) store(row, head, pair.dim, pair.values, b, e);
      }
    }
  }
  // Of a whole segment, or of an item that is part of one.
  QSPEC_DEVICE void store_part(const Part& part, const AttentionItem& item, int kv_head, bool is_segment, int segment) const {
    for_results(part, item, kv_head, [&](int row, int head, int at, float2 two, int b, int e) {
      float* p = is_segment ? segment_result(row, segment, head) : item_result(row, item.result, head);
      store_l2(reinterpret_cast<float2*>(p + at), two);
      if (at == 0) store_l2(reinterpret_cast<float2*>(p + dim), float2{part.of[b].largest[e], part.of[b].weight[e]});
    });
  }

  // Did the calling team bring in the last of `expected` results? Uniform over the team; what all blocks stored before can be read then.
  QSPEC_DEVICE bool is_last(int32_t* counter, int expected) const {
    sync();
    if (expected == 1) return true;
    if (thread() == 0) {
      const int before = count_up(counter);  // after the barrier: for what the whole team stored
      if (before == expected - 1) *counter = 0;
      shared_store_4(kFlagAt + team * 4, before == expected - 1);
    }
    sync();
    return shared_load_4(kFlagAt + team * 4) != 0;
  }

  QSPEC_DEVICE void store_attended(int row, int head, int e, float2 value, float weight) const {
    const int k = head * dim + e;
    const float a = value.x / weight, b = value.y / weight;
    uint8_t* x = spec.out_x + x_offset(params.blocks, row, k);
    float* output = spec.output + static_cast<int64_t>(row) * spec.num_heads * dim + k;
    if (may_post && spec.posts && spec.out_x) post(x, pack_bf16(a, b));
    else if (may_post && spec.posts) post(output, uint2{bits_of_float(a), bits_of_float(b)});
    else if (spec.out_x) *reinterpret_cast<uint32_t*>(x) = pack_bf16(a, b);
    else *reinterpret_cast<float2*>(output) = float2{a, b};
  }

  // What a fold comes to, four outputs of a column.
  QSPEC_DEVICE void store_folded(const AttentionFold& f, int row, int head, int e, bool to_segment, const FoldedOutputs& total) const {
    if (!to_segment) {
      store_attended(row, head, e, float2{total.value[0], total.value[1]}, total.weight);
      store_attended(row, head, e + 2, float2{total.value[2], total.value[3]}, total.weight);
      return;
    }
    float* to = segment_result(row, f.segment, head);
    store_l2(reinterpret_cast<float4*>(to + e), float4{total.value[0], total.value[1], total.value[2], total.value[3]});
    if (e == 0) store_l2(reinterpret_cast<float2*>(to + dim), float2{total.largest, total.weight});
  }
  // Folds the fold's items, or its rows' segments, of every column: into the fold's segment, or the attended values. Four outputs a thread.
  QSPEC_DEVICE void fold_results(const AttentionFold& f, int kv_head, bool of_segments, bool to_segment) const {
    if (by_tiles && !of_segments) return fold_splits(f, kv_head, to_segment);
    const int quads = dim / 4, stride = spec.num_heads * (dim + kResultTail), count = of_segments ? f.num_segments : f.num_results;
    const int chunks = of_segments ? count : f.num_chunks;  // results that are appended as they are; the others by chunks
    QSPEC_NO_UNROLL
    for (int i = thread(); i < f.num_rows * heads * quads; i += team_threads()) {
      const int column = i / quads, e = 4 * (i - column * quads);
      const int row = f.row_begin + row_of(column), head = head_of(column, kv_head);
      const float* p = of_segments ? segment_result(row, 0, head) : item_result(row, f.first_result, head);
      FoldedOutputs total, chunk;
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
          const FoldedOutputs one{{next[j].x, next[j].y, next[j].z, next[j].w}, tail[j].x, tail[j].y};
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
      store_folded(f, row, head, e, to_segment, total);
    }
  }
  // by_tiles: the same for the items of a segment, which are splits. They come to where the tiles lay, and are folded with factors that each are found by a lane.
  QSPEC_DEVICE void fold_splits(const AttentionFold& f, int kv_head, bool to_segment) const {
    static_assert(kTileTeamDim == 4 * kWarp, "a column at once a warp");
    const int quads = dim / 4, columns_at_once = team_threads() / quads, columns = f.num_rows * heads, stride = spec.num_heads * (dim + kResultTail);
    QSPEC_NO_UNROLL
    for (int first = 0; first < columns; first += columns_at_once) {
      if (first > 0) sync();  // everybody is done with those before
      const int of_warp = std::min(first + member, columns - 1);  // the column whose factors this warp finds: team_warps() at once
      float2 tail{-INFINITY, 0};
      if (lane < f.num_results) tail = load_l2(reinterpret_cast<const float2*>(result_of(f, of_warp, kv_head) + lane * stride + dim));
      const int c = thread() / quads, e = 4 * (thread() - c * quads), column = first + c;
      const bool is_there = column < columns;
      const SharedPlace own = base + thread() * 16;
      const float* from = result_of(f, is_there ? column : first, kv_head) + e;
      QSPEC_NO_UNROLL
      for (int r = 0; r < f.num_results; ++r, from += stride) copy_async<16>(own + r * team_threads() * 16, from);
      commit_async();
      put_factors(tail);
      wait_async<0>();
      sync();
      if (is_there) store_folded(f, f.row_begin + row_of(column), head_of(column, kv_head), e, to_segment, fold_from(own, factors_at(c), f.num_results));
    }
  }
  // Four outputs of a thread's results, with a column's factors.
  QSPEC_DEVICE FoldedOutputs fold_from(SharedPlace results, SharedPlace factors, int count) const {
    FoldedOutputs total, chunk;
    total.clear();
    QSPEC_NO_UNROLL
    for (int r = 0; r < count; r += kChunkSplits) {
      chunk.clear();
      QSPEC_UNROLL
      for (int j = 0; j < kChunkSplits; ++j) {
        if (r + j >= count) break;
        const uint4 next = shared_load_16(results + (r + j) * team_threads() * 16), by = shared_load_16(factors + (r + j) * 16);
        chunk.append({{float_of_bits(next.x), float_of_bits(next.y), float_of_bits(next.z), float_of_bits(next.w)}, 0, float_of_bits(by.z)}, factors_of(by));
      }
      total.append(chunk, factors_of(shared_load_16(factors + (kSegmentSplits + r / kChunkSplits) * 16)));
    }
    return total;
  }
  QSPEC_DEVICE const float* result_of(const AttentionFold& f, int column, int kv_head) const {
    return item_result(f.row_begin + row_of(column), f.first_result, head_of(column, kv_head));
  }
  // For one of the columns at once: 16 bytes a result and a chunk of them: factors of what is there before and of itself, its weight, the maximum so far.
  QSPEC_DEVICE SharedPlace factors_at(int c) const { return base + kSegmentSplits * team_threads() * 16 + c * kFoldFactorBytes; }
  QSPEC_DEVICE static FoldFactors factors_of(const uint4& by) { return {float_of_bits(by.x), float_of_bits(by.y), float_of_bits(by.w)}; }
  // Of this warp's column, from the maxima and weights of its results, a lane each.
  QSPEC_DEVICE void put_factors(const float2& tail) const {
    static_assert(kSegmentSplits <= kWarp && kChunkSplits == 4 && kSegmentSplits / kChunkSplits == 4, "a lane each, and two steps to the maximum of four");
    const float largest = largest_so_far(tail.x);
    const float of_chunk = shuffle_from(largest, (lane * kChunkSplits + kChunkSplits - 1) % kWarp), total = largest_so_far(of_chunk);  // lanes 0 … 3: of the chunks
    put_factor(factors_at(member) + lane * 16, lane < kSegmentSplits, lane % kChunkSplits == 0, largest, tail.x, tail.y);
    put_factor(factors_at(member) + (kSegmentSplits + lane) * 16, lane < kSegmentSplits / kChunkSplits, lane == 0, total, of_chunk, 0);
  }
  // Of the lanes of a chunk up to this one.
  QSPEC_DEVICE float largest_so_far(float largest) const {
    QSPEC_UNROLL
    for (int i = 1; i < kChunkSplits; i *= 2) {
      const float before = shuffle_from(largest, lane - (lane % kChunkSplits >= i ? i : 0));
      largest = before > largest ? before : largest;
    }
    return largest;
  }
  QSPEC_DEVICE void put_factor(SharedPlace to, bool is_there, bool is_first, float so_far, float largest, float weight) const {
    const float before = shuffle_from(so_far, (lane + kWarp - 1) % kWarp);
    const FoldFactors by = fold_factors(is_first ? -INFINITY : before, largest);
    if (is_there) shared_store_16(to, uint4{bits_of_float(by.old_scale), bits_of_float(by.new_scale), bits_of_float(weight), bits_of_float(by.largest)});
  }

  QSPEC_DEVICE const AttentionFold& fold_of(const Work& work) const { return work.number == first_item(team) ? start.folds[team] : batch.folds[item(work).fold]; }
  // The item's result is in the workspace: fold what is complete, first the items of a segment and then the segments.
  QSPEC_DEVICE void finish_item(const AttentionItem& item, const AttentionFold& f, int kv_head) const {
    int32_t* counters = params.workspace.fold_counters;
    const bool is_whole = f.num_segments == 1;
    QSPEC_NO_UNROLL
    for (int of_segments = 0; of_segments < 2; ++of_segments) {
      if (of_segments ? is_whole : f.num_items == 1) continue;
      const int counter = of_segments ? params.workspace.max_folds + f.group : item.fold;
      if (!is_last(counters + counter * spec.num_kv_heads + kv_head, of_segments ? f.num_folds : f.num_items)) return;
      fold_results(f, kv_head, of_segments, !of_segments && !is_whole);
    }
  }

  // What an item comes to, or one of its segments if each is handed in, as far as `end`. Places are found here, not before the loop over segments: they would be in
  // memory meanwhile.
  QSPEC_DEVICE void finish(const Work& work, const Part& part, int end) const {
    AttentionPhase here = *this;
    here.lane = not_hoisted(lane), here.member = not_hoisted(member), here.heads = not_hoisted(heads);
    here.hand_in({work.number, not_hoisted(work.kv_head), work.begin, work.end, work.place}, part, end);
  }
  QSPEC_DEVICE void hand_in(const Work& work, const Part& part, int end) const {
    const AttentionFold& fold = fold_of(work);
    const bool is_end = end == work.end;
    if (is_end && fold.num_items == 1 && fold.num_segments == 1)  // an item that is all there is to its columns
      return for_results(part, item(work), work.kv_head, [&](int row, int head, int at, float2 two, int b, int e) { store_attended(row, head, at, two, part.of[b].weight[e]); });
    store_part(part, item(work), work.kv_head, fold.num_items == 1, (end - 1) / kSegmentSplits);
    if (is_end && !by_kernels) finish_item(item(work), fold, work.kv_head);
  }

  // ---- The phase ----

  // The first turns, whose slots are known since the launch began: before the phase's own input is there. Uses only what is not written by this launch.
  QSPEC_DEVICE void fetch_first() const {
    if (!has_work()) return;
    const Work work = first_work();
    const int split = first_split(work), position = split * kSplitPositions + lane, first_new = start.items[team].first_new;
    if (split >= work.end) return;
    SplitPlaces places = first_places(work);
    if (position >= first_new && places.low != kAbsent) places.low = kWrittenHere;
    if (position + kWarp >= first_new && places.high != kAbsent) places.high = kWrittenHere;
    places.find_neighbours();
    if constexpr (by_tiles) return start_tiles(places);
    start_split(TileRing(ring_at(member), params.attention.ring_turns, turn_bytes()), places);
  }
  QSPEC_DEVICE SplitPlaces first_places(const Work& work) const {
    const int32_t* slots = start.slots[team * team_warps() + (by_splits ? member : 0)];
    return SplitPlaces::of_slots(slots[lane], slots[lane + kWarp], work.kv_head, spec.num_kv_heads, batch.page_shift);
  }

  struct Stream {  // of this warp's splits
    TileRing ring;
    SplitPlaces places;  // of the next one
    bool is_fetched;     // its first turns are on their way
  };
  // The sums of a split of `now`; the split after it may be one of `next`.
  QSPEC_DEVICE void take_split(const Work& now, int split, const Work& next, bool has_next, Stream* stream, Sums& one) const {
    if (!stream->is_fetched) {
      stream->places = find_places(now, split);
      start_split(stream->ring, stream->places);
    }
    const int following = next_split(now, split), of_next = first_split(next);
    const bool is_in_next = following >= now.end;
    const SplitPlaces places = stream->places;
    stream->is_fetched = !is_in_next || (has_next && of_next < next.end);
    stream->places = stream->is_fetched ? find_places(is_in_next ? next : now, is_in_next ? of_next : following) : SplitPlaces::nothing();
    sum_split(split, now.place, places, stream->places, &stream->ring, one);
  }
  // Onto those before it; `is_first`: there are none.
  QSPEC_DEVICE void append_split(const Work& now, int split, const Work& next, bool has_next, Stream* stream, Sums& chunk, bool is_first) const {
    Sums one;
    take_split(now, split, next, has_next, stream, one);
    if constexpr (is_wide) chunk_sums(member).append(one, is_first);
    else chunk.append(one);
  }
  QSPEC_DEVICE void take_item(const Work& now, const Work& next, bool has_next, Stream* stream) const {
    Sums chunk;
    if constexpr (by_tiles) {
      const Part part = take_tiles(now);
      stamp_clock(params, index, 2);
      finish(now, part, now.end);
      if (has_next) {
        sync();  // everybody is done with the tiles
        start_tiles(find_places(next, next.begin));
      }
    } else if constexpr (by_splits) {
      const bool is_long = is_long_item(now.begin, now.end);
      const int of_warp = is_long ? kChunkSplits : 1;  // splits of a unit, which is a segment or a chunk
      Part total;
      total.clear();
      QSPEC_NO_UNROLL
      for (int unit = now.begin; unit < now.end; unit += kMaxTeamWarps * of_warp) {
        chunk.clear();
        const int first = unit + member * of_warp, end = std::min(first + of_warp, now.end);
        QSPEC_NO_UNROLL
        for (int split = first; split < end; ++split) append_split(now, split, next, has_next, stream, chunk, split == first);
        stamp_clock(params, index, 2);
        const int members = std::min((now.end - unit + of_warp - 1) / of_warp, team_warps());
        if constexpr (is_wide) total.append(combine_wide(members));
        else total.append(combine(chunk, stream->ring, members));
        const int done = std::min(unit + kMaxTeamWarps * of_warp, now.end);
        if (done < now.end && !item(now).by_segments) continue;
        stamp_clock(params, index, 3);
        finish(now, total, done);
        total.clear();
      }
    } else {
      chunk.clear();
      QSPEC_NO_UNROLL
      for (int split = now.begin; split < now.end; ++split) {
        append_split(now, split, next, has_next, stream, chunk, false);
        if ((split + 1) % kChunkSplits != 0 && split + 1 < now.end) continue;
        const bool by_segments = item(now).by_segments;
        if (now.end - now.begin > kChunkSplits) append_chunk(now, split, by_segments, chunk);
        if (split + 1 == now.end || (by_segments && (split + 1) % kSegmentSplits == 0)) finish(now, chunk, split + 1);
        chunk.clear();
      }
    }
  }
  // After fetch_first().
  QSPEC_DEVICE void run() const {
    if (!has_work()) return;
    Work now = first_work(), next = now;
    Stream stream{TileRing(ring_at(member), params.attention.ring_turns, turn_bytes()), SplitPlaces::nothing(), first_split(now) < now.end};
    bool has_next = true;
    stamp_clock(params, index, 0);
    QSPEC_NO_UNROLL
    for (bool is_start = true;; is_start = false) {
      sync();  // everyone is done with the item whose place the next one takes
      if (has_next) prepare(next, is_start);
      if constexpr (by_tiles) wait_async<1>();  // K
      sync();
      if (is_start) {
        stamp_clock(params, index, 1);
        if (stream.is_fetched) stream.places = first_places(next);
      } else {
        take_item(now, next, has_next, &stream);
      }
      if (!has_next) break;
      now = next;
      has_next = next_work(&next);
    }
    stamp_clock(params, index, 4);
    wait_async<0>();
  }
};

template <CacheCodes codes, int head_dim, TeamWay way, bool may_post, bool by_kernels = false>
QSPEC_DEVICE AttentionPhase<codes, head_dim, way, may_post, by_kernels> attention_phase(const StepParams& params, int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  const int team_warps = way == TeamWay::kColumns ? params.attention.team_warps : most_team_warps(way), warp = not_hoisted(thread_index() / kWarp), team = warp / team_warps;
  const int dim = head_dim > 0 ? head_dim : spec.head_dim, heads = spec.num_heads / spec.num_kv_heads;
  const SharedPlace base{not_hoisted(shared_place(params.region_at + team * params.attention.team_bytes).address)};
  return {params, spec, step_batch(), attention_start(), {dim, spec.high_plane_only}, index, team, warp - team * team_warps, own_lane(), heads, dim, (0xffffu + heads) / heads, base};
}

template <bool is_first, CacheCodes codes, int head_dim, TeamWay way, bool may_post>
QSPEC_DEVICE_CALL void call_attention(int index) {
  const auto phase = attention_phase<codes, head_dim, way, may_post>(step_params(), index);
  if constexpr (is_first) phase.fetch_first();
  else phase.run();
}
// The phase, compiled for what it is: its first tiles before its input is there, or all of it.
template <bool is_first, CacheCodes codes, int head_dim, TeamWay way, bool may_post>
QSPEC_DEVICE void do_attention(const StepParams& params, int index) {
  if constexpr (way == TeamWay::kTiles) call_attention<is_first, codes, head_dim, way, may_post>(index);
  else if constexpr (is_first) attention_phase<codes, head_dim, way, may_post>(params, index).fetch_first();
  else if constexpr (way == TeamWay::kSplits && head_dim == kMaxHeadDim && codes != CacheCodes::kNibbles) attention_phase<codes, head_dim, way, may_post>(params, index).run();
  else call_attention<false, codes, head_dim, way, may_post>(index);
}
template <bool is_first, int n8, CacheCodes codes, int head_dim>
QSPEC_DEVICE void do_attention(const StepParams& params, int index) {
  if (params.attention.way == TeamWay::kSplits) return do_attention<is_first, codes, head_dim, TeamWay::kSplits, may_post<n8>()>(params, index);
  if constexpr (may_take_tiles<n8>() && head_dim == kTileTeamDim && codes != CacheCodes::kNibbles) {
    if (params.attention.way == TeamWay::kTiles) return do_attention<is_first, codes, head_dim, TeamWay::kTiles, may_post<n8>()>(params, index);
  }
  do_attention<is_first, codes, head_dim, TeamWay::kColumns, may_post<n8>()>(params, index);
}
// Of teams whose warps have sixteen columns, of all formats: called from one place, since each place that calls costs the kernel's own loop registers.
template <bool is_first>
QSPEC_DEVICE_CALL void call_wide_attention(int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  constexpr TeamWay way = TeamWay::kWideSplits;
  constexpr bool may_post = false;  // see may_be_wide()
  if (spec.cache.format == KvFormat::kInt8) call_attention<is_first, CacheCodes::kInt8, kMaxHeadDim, way, may_post>(index);
  else if (spec.cache.format == KvFormat::kInt8Nested) call_attention<is_first, CacheCodes::kNibbles, kMaxHeadDim, way, may_post>(index);
  else if (spec.head_dim == kMaxHeadDim) call_attention<is_first, CacheCodes::kNone, kMaxHeadDim, way, may_post>(index);
  else call_attention<is_first, CacheCodes::kNone, 64, way, may_post>(index);
}
template <bool is_first, int n8>
QSPEC_DEVICE void run_attention(const StepParams& params, int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  if constexpr (may_be_wide<n8>()) {
    if (params.attention.way == TeamWay::kWideSplits) return call_wide_attention<is_first>(index);
  }
  if (spec.cache.format == KvFormat::kBf16) {
    if (spec.head_dim == 128) do_attention<is_first, n8, CacheCodes::kNone, 128>(params, index);
    else if (spec.head_dim == 64) do_attention<is_first, n8, CacheCodes::kNone, 64>(params, index);
    else do_attention<is_first, n8, CacheCodes::kNone, 0>(params, index);
  } else if (spec.cache.format == KvFormat::kInt8) {
    if (spec.head_dim == 128) do_attention<is_first, n8, CacheCodes::kInt8, 128>(params, index);
    else do_attention<is_first, n8, CacheCodes::kInt8, 0>(params, index);
  } else {
    if (spec.head_dim == 128) do_attention<is_first, n8, CacheCodes::kNibbles, 128>(params, index);
    else do_attention<is_first, n8, CacheCodes::kNibbles, 0>(params, index);
  }
}

}  // namespace qspec::cuda
