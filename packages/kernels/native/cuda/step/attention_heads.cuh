// Heads of attention: rotating them, and storing K and V in the cache.
#pragma once
#include "step/attention_tiles.cuh"
#include "step/row_math.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

// A lane's share of one head: elements 2·lane and 2·lane + 1 of either half, if there are so many.
struct HeadValues {
  float2 low, high;
};
QSPEC_DEVICE bool has_head_values(int head_dim) { return 4 * lane_index() < head_dim; }

// What a head is made of, as it is loaded: several may be on their way together.
template <bool may_post>
struct HeadSource {
  uint2 low, high;    // bits of the values
  const float* from;
  float4 turn;        // cos, sin of both elements

  QSPEC_DEVICE HeadValues values(const AttentionSpec& spec) const {
    uint2 a = low, b = high;
    if (may_post && spec.awaits && has_head_values(spec.head_dim)) await(&a, from), await(&b, from + spec.head_dim / 2);
    return {{float_of_bits(a.x), float_of_bits(a.y)}, {float_of_bits(b.x), float_of_bits(b.y)}};
  }
};
// Head `head` (of q, k and v in this order) of a row.
template <bool may_post>
QSPEC_DEVICE HeadSource<may_post> load_head_source(const AttentionSpec& spec, int row, int head, bool has_rope) {
  const int lane = lane_index(), half = spec.head_dim / 2;
  const float* values = spec.qkv + (static_cast<int64_t>(row) * (spec.num_heads + 2 * spec.num_kv_heads) + head) * spec.head_dim + 2 * lane;
  HeadSource<may_post> source{{0, 0}, {0, 0}, values, {1, 0, 1, 0}};
  if (has_head_values(spec.head_dim)) {
    if constexpr (may_post) peek(&source.low, values), peek(&source.high, values + half);
    else source.low = load_l2(reinterpret_cast<const uint2*>(values)), source.high = load_l2(reinterpret_cast<const uint2*>(values + half));
    if (has_rope) source.turn = load_l2(reinterpret_cast<const float4*>(spec.rope + static_cast<int64_t>(row) * half) + lane);
  }
  return source;
}
template <bool may_post>
QSPEC_DEVICE HeadSource<may_post> load_query_source(const AttentionSpec& spec, int row, int head) { return load_head_source<may_post>(spec, row, head, true); }
template <bool may_post>
QSPEC_DEVICE HeadSource<may_post> load_kv_source(const AttentionSpec& spec, int row, int kv_head, bool is_v) {
  return load_head_source<may_post>(spec, row, spec.num_heads + (is_v ? spec.num_kv_heads : 0) + kv_head, !is_v);
}
// Normed and rotated. `norm`: weights or nullptr.
template <bool may_post>
QSPEC_DEVICE HeadValues make_head(const AttentionSpec& spec, const HeadSource<may_post>& source, const float* norm) {
  const int lane = lane_index(), half = spec.head_dim / 2;
  HeadValues v = source.values(spec);
  const float4& turn = source.turn;
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

// A query as bfloat16, elements where `place_of` says; `by_pairs`: those of a pair are neighbours. A warp.
template <bool by_pairs, typename PlaceOf>
QSPEC_DEVICE void store_query(const HeadValues& q, int dim, int lane, const PlaceOf& place_of) {
  if (!has_head_values(dim)) return;
  QSPEC_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int element = 2 * lane + h * dim / 2;
    const uint32_t pair = h == 0 ? pack_bf16(q.low.x, q.low.y) : pack_bf16(q.high.x, q.high.y);
    if constexpr (by_pairs) {
      shared_store_4(place_of(element), pair);
    } else {
      shared_store_2(place_of(element), static_cast<uint16_t>(pair));
      shared_store_2(place_of(element + 1), static_cast<uint16_t>(pair >> 16));
    }
  }
}

// Where a long launch's queries lie when they are made (step/heads_kernel.cu): bfloat16 in the order of CacheTiles::query_place(), where the row's values of the head were.
QSPEC_DEVICE uint4* made_query(const AttentionSpec& spec, int row, int head) {
  return reinterpret_cast<uint4*>(spec.qkv + (static_cast<int64_t>(row) * (spec.num_heads + 2 * spec.num_kv_heads) + head) * spec.head_dim);
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

// Where a row's K or V goes besides the cache: its row of the tile that is about to be used, or nowhere.
struct TilePlace {
  bool is_there = false;
  SharedPlace row{}, scale{};
  QSPEC_DEVICE SharedPlace byte(int offset) const { return row + offset; }
};

// A head of K (`is_v`: V) into vector `vector` of the cache, and to `place`. A warp.
template <bool may_post>
QSPEC_DEVICE void store_kv_head(const AttentionSpec& spec, const HeadSource<may_post>& source, int64_t vector, bool is_v, const TilePlace& place) {
  const int lane = lane_index(), dim = spec.head_dim;
  const HeadValues v = make_head(spec, source, is_v ? nullptr : spec.k_norm);
  uint8_t* data = is_v ? spec.cache.v : spec.cache.k;
  if (spec.cache.format == KvFormat::kBf16) {
    if (!has_head_values(dim)) return;
    QSPEC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int element = 2 * lane + h * dim / 2;
      const uint32_t pair = h == 0 ? pack_bf16(v.low.x, v.low.y) : pack_bf16(v.high.x, v.high.y);
      *reinterpret_cast<uint32_t*>(data + (vector * dim + element) * 2) = pair;
      if (place.is_there) shared_store_4(place.byte(element * 2), pair);
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
      if (place.is_there) shared_store_2(place.byte(element), pair);
    } else {
      const CodePair pair = split_codes(a, b);
      data[(vector * dim + element) / 2] = pair.high, low[(vector * dim + element) / 2] = pair.low;
      if (place.is_there) shared_store_1(place.byte(element / 2), pair.high), shared_store_1(place.byte((dim + element) / 2), pair.low);
    }
  }
}

// With writes_first: everybody's K and V before anybody attends.
template <bool may_post>
QSPEC_DEVICE_CALL void write_all_kv(const AttentionSpec& spec, const StepBatch& batch, int num_warps) {
  const int warp = thread_index() / kWarp, tasks = batch.rows * spec.num_kv_heads * 2;
  for (int i = block_index() * num_warps + warp; i < tasks; i += grid_blocks() * num_warps) {
    const int row = i / (2 * spec.num_kv_heads);
    const int kv_head = i / 2 % spec.num_kv_heads;
    store_kv_head(spec, load_kv_source<may_post>(spec, row, kv_head, i & 1), cache_place(load_constant(batch.slots + row), kv_head, spec.num_kv_heads, batch.page_shift), i & 1, {});
  }
}

}  // namespace qspec::cuda
