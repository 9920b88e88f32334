// Paged attention as a phase of the step kernel.
//
// An item is a block of up to 16 query columns (rows of one sequence x the heads that share a KV head) over a range of splits of 64
// positions. A group of four warps takes it: what one split asks of a group is a chain of short steps, so a block has three groups under way. Scores: S = Q · Kᵀ, A = Q (16 columns x 16 dims), B = K; weights and output: O = P · V, A = P (16 x 16 positions), B = V; the sum
// of weights is one more column of V that is all ones, so it is rounded as the numerators are. Within a split positions are summed in order
// by the tensor core's chain; splits are folded in order within a chunk of 4, chunks within a segment of 4, segments in order: nothing depends
// on who shares the batch, nor on how much of this one item does.
//
// K and V of a split go through shared memory (16-byte asynchronous copies, swizzled), one behind the other, so that either is under way while
// the other is used. int8 codes are expanded to bfloat16 with their scale on the way. What this launch adds to the cache is written to the
// tiles directly, so nothing that is copied depends on the phase before: the first split is fetched before the grid's barrier.
//
// Of a group in shared memory, [bytes]:  K and V tiles (bf16 cache), or one tile and two raw ones;  Q;  P;  slots;  small arrays.
#pragma once
#include "gemm/run_product.cuh"
#include "step/row_math.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

constexpr uint32_t kOnePair = 0x3f803f80u;
constexpr float kLog2E = 1.4426950408889634f;

// 16-byte chunks of a row exchange places by the row's last three bits: neighbouring rows lie in other banks, both for 16-byte loads of four
// lanes a row and for matrix loads of eight rows.
QSPEC_DEVICE int swizzled(int row, int chunk) { return chunk ^ ((row & 1) << 2 | (row >> 1 & 3)); }


struct AttentionShared {
  uint32_t k, v;         // tiles [64][row_bytes] bf16; the same place for an int8 cache
  uint32_t raw_k, raw_v; // [64][head_dim] codes (int8-nested: high nibbles, then low ones)
  uint32_t q;            // [16][row_bytes] bf16
  uint32_t p;            // [16][64] bf16
  uint32_t largest;      // float [16][4] by column and warp
  uint32_t slots;        // int32 [2][64]
  uint32_t k_scale, v_scale;  // float [2][64]
  uint32_t own, first;   // int32 [16] last and first position that a column sees
  int row_bytes;
};

QSPEC_HOST_DEVICE constexpr int attention_row_bytes(int head_dim) { return head_dim <= 64 ? 128 : 256; }
QSPEC_HOST_DEVICE constexpr int attention_shared_bytes(int head_dim) {
  return (2 * kSplitPositions + kQueryColumns) * attention_row_bytes(head_dim) + kQueryColumns * kSplitPositions * 2 +
         kQueryColumns * kGroupWarps * 4 + 2 * kSplitPositions * 4 * 3 + 2 * kQueryColumns * 4;
}

QSPEC_DEVICE AttentionShared carve_attention(uint32_t base, int head_dim, bool has_codes) {
  AttentionShared s;
  s.row_bytes = attention_row_bytes(head_dim);
  uint32_t p = base;
  s.k = p, s.v = has_codes ? p : p + kSplitPositions * s.row_bytes;
  s.raw_k = p + kSplitPositions * s.row_bytes, s.raw_v = s.raw_k + kSplitPositions * s.row_bytes / 2;
  p += 2 * kSplitPositions * s.row_bytes;
  s.q = p, p += kQueryColumns * s.row_bytes;
  s.p = p, p += kQueryColumns * kSplitPositions * 2;
  s.largest = p, p += kQueryColumns * kGroupWarps * 4;
  s.slots = p, p += 2 * kSplitPositions * 4;
  s.k_scale = p, p += 2 * kSplitPositions * 4;
  s.v_scale = p, p += 2 * kSplitPositions * 4;
  s.own = p, p += kQueryColumns * 4;
  s.first = p;
  return s;
}

// ---- Rotation of heads, and the cache ----------------------------------------------------------------------------------------------

// A lane's share of one head: elements 2·lane and 2·lane + 1 of either half, if there are so many.
struct HeadValues {
  float2 low, high;
};
QSPEC_DEVICE bool has_head_values(int head_dim) { return 4 * lane_index() < head_dim; }

// Head `head` (of q, k and v in this order) of a row, normed and rotated. `norm`: weights or nullptr.
QSPEC_DEVICE HeadValues load_head(const AttentionSpec& spec, int row, int head, const float* norm, bool has_rope) {
  const int lane = lane_index(), half = spec.head_dim / 2;
  const float* values = spec.qkv + (static_cast<int64_t>(row) * (spec.num_heads + 2 * spec.num_kv_heads) + head) * spec.head_dim + 2 * lane;
  HeadValues v{{0, 0}, {0, 0}};
  float4 turn{1, 0, 1, 0};
  if (has_head_values(spec.head_dim)) {
    v = {load_l2(reinterpret_cast<const float2*>(values)), load_l2(reinterpret_cast<const float2*>(values + half))};
    if (has_rope) turn = load_l2(reinterpret_cast<const float4*>(spec.rope + static_cast<int64_t>(row) * half) + lane);
  }
  if (norm) {
    const float squares = fmaf(v.high.y, v.high.y, fmaf(v.high.x, v.high.x, fmaf(v.low.y, v.low.y, v.low.x * v.low.x)));
    const float factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(spec.head_dim) + spec.eps);
    if (has_head_values(spec.head_dim)) {
      const float2 low = load_constant(reinterpret_cast<const float2*>(norm) + lane), high = load_constant(reinterpret_cast<const float2*>(norm + half) + lane);
      v = {{v.low.x * factor * low.x, v.low.y * factor * low.y}, {v.high.x * factor * high.x, v.high.y * factor * high.y}};
    }
  }
  return {{v.low.x * turn.x - v.high.x * turn.y, v.low.y * turn.z - v.high.y * turn.w}, {v.high.x * turn.x + v.low.x * turn.y, v.high.y * turn.z + v.low.y * turn.w}};
}

// code + 128 = 16 · high + low.
struct CodePair {
  uint8_t high, low;  // of two neighbouring elements
};
QSPEC_DEVICE int quantized_code(float value, float scale) { return scale > 0 ? static_cast<int>(rintf(fminf(fmaxf(value / scale, -127.0f), 127.0f))) : 0; }
QSPEC_DEVICE CodePair split_codes(int a, int b) {
  a += 128, b += 128;
  return {static_cast<uint8_t>(a >> 4 | (b >> 4) << 4), static_cast<uint8_t>((a & 15) | (b & 15) << 4)};
}

// Where a row's K or V goes besides the cache: its place in the tile that is about to be used, or nowhere.
struct TilePlace {
  bool is_there;
  int swizzle_row;
  uint32_t row;   // bf16: the tile row; codes: the raw row (int8-nested: high nibbles)
  uint32_t low;   // int8-nested: low nibbles
  uint32_t scale;
};

// Two neighbouring elements of a head in bfloat16: into a swizzled tile row.
QSPEC_DEVICE void store_pair(uint32_t row, int swizzle_row, int element, uint32_t pair) {
  shared_store_4(row + swizzled(swizzle_row, element / 8) * 16 + element % 8 * 2, pair);
}

// K (`is_v`: V) head of `row` from qkv into slot `slot` of the cache, and to `place`. A warp.
QSPEC_DEVICE void store_kv_head(const AttentionSpec& spec, int row, int64_t slot, int kv_head, bool is_v, const TilePlace& place) {
  const int lane = lane_index(), dim = spec.head_dim;
  const HeadValues v = load_head(spec, row, spec.num_heads + (is_v ? spec.num_kv_heads : 0) + kv_head, is_v ? nullptr : spec.k_norm, !is_v);
  const int64_t vector = slot * spec.num_kv_heads + kv_head;
  uint8_t* data = is_v ? spec.cache.v : spec.cache.k;
  if (spec.cache.format == KvFormat::kBf16) {
    if (!has_head_values(dim)) return;
    QSPEC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int element = 2 * lane + h * dim / 2;
      const uint32_t pair = h == 0 ? pack_bf16(v.low.x, v.low.y) : pack_bf16(v.high.x, v.high.y);
      *reinterpret_cast<uint32_t*>(data + (vector * dim + element) * 2) = pair;
      if (place.is_there) store_pair(place.row, place.swizzle_row, element, pair);
    }
    return;
  }
  const float largest = lanes_max(max_or_nan(max_or_nan(magnitude(v.low.x), magnitude(v.low.y)), max_or_nan(magnitude(v.high.x), magnitude(v.high.y))), 5);
  const float scale = largest / 127.0f;
  if (lane == 0) {
    (is_v ? spec.cache.v_scales : spec.cache.k_scales)[vector] = scale;
    if (place.is_there) shared_store_float(place.scale, scale);
  }
  if (!has_head_values(dim)) return;
  uint8_t* low = is_v ? spec.cache.v_low : spec.cache.k_low;
  QSPEC_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int element = 2 * lane + h * dim / 2;
    const int a = quantized_code(h == 0 ? v.low.x : v.high.x, scale), b = quantized_code(h == 0 ? v.low.y : v.high.y, scale);
    if (spec.cache.format == KvFormat::kInt8) {
      const auto pair = static_cast<uint16_t>((a & 255) | (b & 255) << 8);
      *reinterpret_cast<uint16_t*>(data + vector * dim + element) = pair;
      if (place.is_there) shared_store_2(place.row + element, pair);
    } else {
      const CodePair pair = split_codes(a, b);
      data[(vector * dim + element) / 2] = pair.high, low[(vector * dim + element) / 2] = pair.low;
      if (place.is_there) shared_store_1(place.row + element / 2, pair.high), shared_store_1(place.low + element / 2, pair.low);
    }
  }
}

// With writes_first: everybody's K and V before anybody attends.
QSPEC_DEVICE_CALL void write_all_kv(const AttentionSpec& spec, const StepBatch& batch, int num_warps) {
  const int warp = thread_index() / kWarp, tasks = batch.rows * spec.num_kv_heads * 2;
  for (int i = block_index() * num_warps + warp; i < tasks; i += grid_blocks() * num_warps) {
    const int row = i / (2 * spec.num_kv_heads);
    store_kv_head(spec, row, load_constant(batch.slots + row), i / 2 % spec.num_kv_heads, i & 1, {});
  }
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

// `head_dim`, or 0: told at run time; `may_have_codes`: the cache may be int8. Both known, most arithmetic of places is done by the compiler.
template <int head_dim, bool may_have_codes>
struct AttentionPhase {
  const StepParams& params;
  const AttentionSpec& spec;
  const StepBatch& batch;
  const AttentionStart& start;
  RowBlocks blocks;
  AttentionShared s;
  int index;  // of the phase
  int which, thread, warp, lane;  // the group of warps, and the place in it
  int heads, dim;                 // query heads a KV head
  bool has_codes;

  static constexpr int kFoldBatch = 8;
  static constexpr int kPositionTiles = kSplitPositions / 8 / kGroupWarps;  // of 8 positions, a warp
  static constexpr int kDimTiles = kMaxHeadDim / 8 / kGroupWarps;

  struct Work {  // one split of one item, for one KV head
    const AttentionItem* item;  // the group's first lies in shared memory
    int number, kv_head;        // of the item
    int split;
  };
  struct State {
    float largest[2], weight[2], output[kDimTiles][4];
  };

  QSPEC_DEVICE int total_items() const { return batch.num_items * spec.num_kv_heads; }
  QSPEC_DEVICE void sync() const { group_barrier(kGroupBarrier + which, kGroupThreads); }

  QSPEC_DEVICE uint32_t slot_at(int buffer, int position) const { return s.slots + (buffer * kSplitPositions + position) * 4; }
  QSPEC_DEVICE uint32_t scale_at(bool is_v, int buffer, int position) const {
    return (is_v ? s.v_scale : s.k_scale) + (buffer * kSplitPositions + position) * 4;
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
    const bool is_nested = spec.cache.format == KvFormat::kInt8Nested, has_low = is_nested && !spec.high_plane_only;
    const int vector_bytes = !has_codes ? 2 * dim : is_nested ? dim / 2 : dim, row_bytes = has_codes ? vector_bytes : s.row_bytes;
    const int chunks = vector_bytes / 16, padded = chunks > 8 ? 16 : chunks > 4 ? 8 : chunks > 2 ? 4 : chunks;  // a power of two
    const int chunk = thread & (padded - 1), first = thread / padded, step = kGroupThreads / padded;
    if (chunk >= chunks) return;
    const uint8_t* from = (is_v ? spec.cache.v : spec.cache.k) + kv_head * vector_bytes + chunk * 16;
    const int64_t low = has_low ? (is_v ? spec.cache.v_low - spec.cache.v : spec.cache.k_low - spec.cache.k) : 0;
    const uint32_t slot_bytes = spec.num_kv_heads * vector_bytes;
    uint32_t place = has_codes ? (is_v ? s.raw_v : s.raw_k) + first * row_bytes + chunk * 16 : (is_v ? s.v : s.k) + first * row_bytes + swizzled(first, chunk) * 16;
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
        if (least >= 0 || slot[i] >= 0) {  // mostly all are there
          copy_async<16>(place, source);
          if (has_low) copy_async<16>(place + kSplitPositions * vector_bytes, source + low);
        } else if (slot[i] == kAbsent) {
          shared_store_16(place, uint4{0, 0, 0, 0});
        }
        place += step * row_bytes;
      }
    }
  }

  // Eight elements' codes of a raw row, + 128, as bytes: x the even ones, y the odd ones.
  QSPEC_DEVICE uint2 code_bytes(uint32_t raw, int position, int chunk) const {
    if (spec.cache.format == KvFormat::kInt8) {
      const uint2 v = shared_load_8(raw + position * dim + chunk * 8);
      return {permute_bytes(v.x, v.y, 0x6420) ^ 0x80808080u, permute_bytes(v.x, v.y, 0x7531) ^ 0x80808080u};
    }
    const uint32_t at = raw + position * (dim / 2) + chunk * 4;
    const uint32_t high = shared_load_4(at), low = spec.high_plane_only ? 0x88888888u : shared_load_4(at + kSplitPositions * (dim / 2));  // 8: the middle
    return {(high & kByteMask) << 4 | (low & kByteMask), (high & ~kByteMask) | (low >> 4 & kByteMask)};
  }
  // Code of byte `i` as a float, exactly: 2^23 + byte is 0x4b0000xx.
  QSPEC_DEVICE static float code_value(uint32_t bytes, int i) { return float_of_bits(permute_bytes(bytes, 0x4b000000u, 0x7540u | static_cast<uint32_t>(i))) - 8388736.0f; }

  // Raw codes -> the bf16 tile. Absent positions have scale 0.
  QSPEC_DEVICE void expand_tile(bool is_v, int buffer) const {
    const uint32_t raw = is_v ? s.raw_v : s.raw_k;
    const int chunks = dim / 8, padded = chunks > 8 ? 16 : chunks > 4 ? 8 : 4, chunk = thread & (padded - 1);
    if (chunk >= chunks) return;
    QSPEC_NO_UNROLL
    for (int position = thread / padded; position < kSplitPositions; position += kGroupThreads / padded) {
      const float scale = shared_load_float(scale_at(is_v, buffer, position));
      const uint2 codes = code_bytes(raw, position, chunk);
      uint32_t word[4];
      QSPEC_UNROLL
      for (int w = 0; w < 4; ++w) word[w] = pack_bf16(code_value(codes.x, w) * scale, code_value(codes.y, w) * scale);
      shared_store_16(s.k + position * s.row_bytes + swizzled(position, chunk) * 16, uint4{word[0], word[1], word[2], word[3]});
    }
  }

  QSPEC_DEVICE TilePlace tile_place(bool is_v, int position, int buffer) const {
    const int p = position % kSplitPositions;
    if (!has_codes) return {true, p, (is_v ? s.v : s.k) + p * s.row_bytes, 0, 0};
    const int vector_bytes = spec.cache.format == KvFormat::kInt8Nested ? dim / 2 : dim;
    const uint32_t row = (is_v ? s.raw_v : s.raw_k) + p * vector_bytes;
    return {true, p, row, row + kSplitPositions * vector_bytes, scale_at(is_v, buffer, p)};
  }

  // What a split needs of this launch's own rows: at an item's first one, Q of its columns, normed and rotated, and which positions each sees;
  // and K and V of the rows whose positions lie in the split, into the cache and the tiles. One task a warp.
  QSPEC_DEVICE void prepare(const Work& work, int buffer, bool is_first) const {
    const AttentionItem& item = *work.item;
    const int kv_head = work.kv_head;
    const int num_queries = is_first ? item.num_rows * heads : 0;
    int first_row = 0, num_rows = 0;  // whose K and V: rows of a sequence have neighbouring positions, from first_new on
    if (!batch.writes_first) {
      const int from = work.split * kSplitPositions - item.first_new, to = from + kSplitPositions, count = item.sequence_end - item.sequence_begin;
      first_row = item.sequence_begin + (from < 0 ? 0 : from), num_rows = (to < count ? to : count) - (from < 0 ? 0 : from);
      if (num_rows < 0) num_rows = 0;
    }
    QSPEC_NO_UNROLL
    for (int task = warp; task < num_queries + 2 * num_rows; task += kGroupWarps) {
      if (task < num_queries) {
        const HeadValues q = load_head(spec, item.row_begin + task / heads, kv_head * heads + task % heads, spec.q_norm, true);
        if (!has_head_values(dim)) continue;
        store_pair(s.q + task * s.row_bytes, task, 2 * lane, pack_bf16(q.low.x, q.low.y));
        store_pair(s.q + task * s.row_bytes, task, 2 * lane + dim / 2, pack_bf16(q.high.x, q.high.y));
      } else {
        const int t = task - num_queries, row = first_row + t / 2;
        const bool is_v = t & 1;
        store_kv_head(spec, row, start.slots_of_rows[row], kv_head, is_v, tile_place(is_v, start.positions[row], buffer));
      }
    }
    if (is_first && thread < kQueryColumns) {
      const int own = thread < num_queries ? start.positions[item.row_begin + thread / heads] : -1;
      shared_store_4(s.own + thread * 4, static_cast<uint32_t>(own));
      shared_store_4(s.first + thread * 4, spec.sliding_window > 0 && own >= spec.sliding_window ? static_cast<uint32_t>(own + 1 - spec.sliding_window) : 0);
    }
  }

  // Scores of this warp's positions (base 2, -infinity where not seen), and their maxima per column into s.largest.
  QSPEC_DEVICE void score(int split, float (&scores)[kPositionTiles][4]) const {
    const int g = lane / 4, t = lane % 4;
    const float scale = spec.scale * kLog2E;
    float largest[2] = {-INFINITY, -INFINITY};
    int32_t own[2], first[2];
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      own[i] = static_cast<int32_t>(shared_load_4(s.own + (g + 8 * i) * 4)), first[i] = static_cast<int32_t>(shared_load_4(s.first + (g + 8 * i) * 4));
    }
    float acc[kPositionTiles][4] = {};
    QSPEC_UNROLL
    for (int chunk = 0; chunk < kMaxHeadDim / 32; ++chunk) {
      if (chunk * 32 >= dim) break;
      const int place = swizzled(g, 4 * chunk + t) * 16;  // of rows g, g + 8, g + 16 … alike
      const uint4 q0 = shared_load_16(s.q + g * s.row_bytes + place), q1 = shared_load_16(s.q + (g + 8) * s.row_bytes + place);
      const uint32_t a0[4] = {q0.x, q1.x, q0.y, q1.y}, a1[4] = {q0.z, q1.z, q0.w, q1.w};
      QSPEC_UNROLL
      for (int j = 0; j < kPositionTiles; ++j) {
        const uint4 k = shared_load_16(s.k + ((warp + j * kGroupWarps) * 8 + g) * s.row_bytes + place);
        mma_bf16(acc[j], a0, k.x, k.y);
        mma_bf16(acc[j], a1, k.z, k.w);
      }
    }
    QSPEC_UNROLL
    for (int j = 0; j < kPositionTiles; ++j) {
      const int tile = warp + j * kGroupWarps;
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int p = split * kSplitPositions + tile * 8 + 2 * t + (i & 1);
        const bool is_seen = p <= own[i >> 1] && p >= first[i >> 1];
        scores[j][i] = is_seen ? acc[j][i] * scale : -INFINITY;
        largest[i >> 1] = largest[i >> 1] > scores[j][i] ? largest[i >> 1] : scores[j][i];
      }
    }
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      for (int mask = 1; mask < 4; mask *= 2) {
        const float other = shuffle_xor(largest[i], mask);
        largest[i] = largest[i] > other ? largest[i] : other;
      }
      if (t == 0) shared_store_float(s.largest + ((g + 8 * i) * kGroupWarps + warp) * 4, largest[i]);
    }
  }

  // Weights of this warp's positions into s.p; `largest`: the split's maxima of columns g, g+8.
  QSPEC_DEVICE void weigh(const float (&scores)[kPositionTiles][4], float (&largest)[2]) const {
    const int g = lane / 4, t = lane % 4;
    QSPEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      largest[i] = -INFINITY;
      static_assert(kGroupWarps == 4, "one load");
      const uint4 four = shared_load_16(s.largest + (g + 8 * i) * kGroupWarps * 4);
      QSPEC_UNROLL
      for (int j = 0; j < kGroupWarps; ++j) {
        const float other = float_of_bits(word_of(four, j));
        largest[i] = largest[i] > other ? largest[i] : other;
      }
    }
    QSPEC_UNROLL
    for (int j = 0; j < kPositionTiles; ++j) {
      const int tile = warp + j * kGroupWarps;
      QSPEC_UNROLL
      for (int i = 0; i < 2; ++i) {
        const bool is_empty = largest[i] == -INFINITY;
        const float a = is_empty ? 0 : exp2_fast(scores[j][2 * i] - largest[i]), b = is_empty ? 0 : exp2_fast(scores[j][2 * i + 1] - largest[i]);
        const int column = g + 8 * i;
        shared_store_4(s.p + column * kSplitPositions * 2 + swizzled(column, tile) * 16 + t * 4, pack_bf16(a, b));
      }
    }
  }

  // P · V for this warp's dims, and P · 1.
  QSPEC_DEVICE void attend(float (&output)[kDimTiles][4], float (&weight)[4]) const {
    QSPEC_UNROLL
    for (int i = 0; i < 4; ++i) weight[i] = 0;
    QSPEC_UNROLL
    for (int d = 0; d < kDimTiles; ++d)
      QSPEC_UNROLL
      for (int i = 0; i < 4; ++i) output[d][i] = 0;
    const uint32_t tile = has_codes ? s.k : s.v;
    for (int base = 0; base < kSplitPositions; base += 32) {
      uint32_t p[2][4];
      QSPEC_UNROLL
      for (int h = 0; h < 2; ++h) {
        const int column = lane % 16, chunk = (base + 16 * h) / 8 + lane / 16;
        load_matrix_x4(p[h], s.p + column * kSplitPositions * 2 + swizzled(column, chunk) * 16);
        mma_bf16(weight, p[h], kOnePair, kOnePair);
      }
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d) {
        const int dims = warp + d * kGroupWarps;
        if (dims * 8 >= dim) continue;
        uint32_t v[4];
        const int position = base + lane;
        load_matrix_x4_transposed(v, tile + position * s.row_bytes + swizzled(position, dims) * 16);
        mma_bf16(output[d], p[0], v[0], v[1]);
        mma_bf16(output[d], p[1], v[2], v[3]);
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
    return params.workspace.saved_states + (static_cast<int64_t>(block_index() * kAttentionGroups + which) * 2 + level) * kStateWords * kGroupThreads + thread;
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
    State whole;
    if (segment <= work.item->split_begin) clear(whole);
    else load_saved(1, whole);
    append(whole, sum);
    if (is_end) chunk = whole;
    else save(1, whole);
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
      QSPEC_UNROLL
      for (int d = 0; d < kDimTiles; ++d) {
        const int at = (warp + d * kGroupWarps) * 8 + 2 * (lane % 4);
        if (at < dim) store(row, head, at, float2{state.output[d][2 * i], state.output[d][2 * i + 1]}, i);
      }
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
      if (has_codes) {
        expand_tile(false, buffer);
        sync();
      }
      float scores[kPositionTiles][4], weight[4];
      State one;
      score(now.split, scores);
      if (has_next && has_slot()) put_slot(buffer ^ 1, slot_position(), next_slot, next.kv_head);
      sync();  // maxima and slots; everyone is done with K
      start_copy(next, false, buffer ^ 1, has_next);
      weigh(scores, one.largest);
      wait_async<1>();
      sync();  // V is here; P is ready
      if (turn == 0) stamp_clock(params, index, 2);
      if (has_codes) {
        expand_tile(true, buffer);
        sync();
      }
      attend(one.output, weight);
      one.weight[0] = weight[0], one.weight[1] = weight[2];
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

template <int head_dim, bool may_have_codes>
QSPEC_DEVICE AttentionPhase<head_dim, may_have_codes> attention_phase(const StepParams& params, int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  const bool has_codes = may_have_codes && spec.cache.format != KvFormat::kBf16;
  const int which = thread_index() / kGroupThreads, thread = thread_index() % kGroupThreads, dim = head_dim > 0 ? head_dim : spec.head_dim;
  return {params,
          spec,
          step_batch(),
          attention_start(),
          params.blocks,
          carve_attention(params.region_at + which * attention_shared_bytes(dim), dim, has_codes),
          index,
          which,
          thread,
          thread / kWarp,
          thread % kWarp,
          spec.num_heads / spec.num_kv_heads,
          dim,
          has_codes};
}

template <int head_dim, bool may_have_codes>
QSPEC_DEVICE_CALL void call_attention(int index) {
  attention_phase<head_dim, may_have_codes>(step_params(), index).run();
}
// The phase, compiled for what it is: its first splits before its input is there, or all of it. A function of its own where registers are short.
template <int n8, bool is_first, int head_dim, bool may_have_codes>
QSPEC_DEVICE void do_attention(const StepParams& params, int index) {
  if constexpr (is_first) attention_phase<head_dim, may_have_codes>(params, index).fetch_first();
  else if constexpr (n8 >= 3) call_attention<head_dim, may_have_codes>(index);
  else attention_phase<head_dim, may_have_codes>(params, index).run();
}
template <int n8, bool is_first>
QSPEC_DEVICE void run_attention(const StepParams& params, int index) {
  const AttentionSpec& spec = phase_at(index).attention;
  const bool has_codes = spec.cache.format != KvFormat::kBf16;
  if (spec.head_dim == 128 && !has_codes) do_attention<n8, is_first, 128, false>(params, index);
  else if (spec.head_dim == 64 && !has_codes) do_attention<n8, is_first, 64, false>(params, index);
  else if (spec.head_dim == 128) do_attention<n8, is_first, 128, true>(params, index);
  else do_attention<n8, is_first, 0, true>(params, index);
}

}  // namespace qspec::cuda
