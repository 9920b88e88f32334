#include "step/heads_kernel.h"

#include "common/launch.cuh"
#include "step/attention_heads.cuh"

namespace qspec::cuda {

namespace {
constexpr int kHeadWarps = 8;      // of a block
constexpr int kHeadsTogether = 4;  // of a row, that a warp of many rows has on their way
constexpr int kManyHeads = 4096;   // as many warps as are there together, and some more
}

struct HeadsParams {
  AttentionSpec spec;
  const StepBatch* batch;
};

// As a team would make it for itself (AttentionPhase::put_query()): behind whatever this warp's lanes read there.
template <CacheCodes codes>
QSPEC_DEVICE void store_made_query(const AttentionSpec& spec, const HeadSource<false>& source, int row, int head) {
  const CacheTiles<codes, 0> tiles{spec.head_dim, spec.high_plane_only};
  const HeadValues q = make_head(spec, source, spec.q_norm);
  auto* to = reinterpret_cast<uint8_t*>(made_query(spec, row, head));
  sync_warp();
  if (!has_head_values(spec.head_dim)) return;
  QSPEC_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int element = 2 * lane_index() + h * spec.head_dim / 2;
    const uint32_t pair = h == 0 ? pack_bf16(q.low.x, q.low.y) : pack_bf16(q.high.x, q.high.y);
    if constexpr (codes == CacheCodes::kNone) {
      *reinterpret_cast<uint32_t*>(to + tiles.query_place(0, element)) = pair;
    } else {
      *reinterpret_cast<uint16_t*>(to + tiles.query_place(0, element)) = static_cast<uint16_t>(pair);
      *reinterpret_cast<uint16_t*>(to + tiles.query_place(0, element + 1)) = static_cast<uint16_t>(pair >> 16);
    }
  }
}

// A warp takes `together` heads of a row, q, k and v in this order.
template <CacheCodes codes, int together>
QSPEC_KERNEL(kHeadWarps * kWarp, 4) heads_kernel(const QSPEC_GRID_CONSTANT HeadsParams params) {
  const AttentionSpec& spec = params.spec;
  const int num_heads = spec.num_heads + 2 * spec.num_kv_heads, of_row = (num_heads + together - 1) / together;
  const int task = block_index() * kHeadWarps + thread_index() / kWarp, row = task / of_row, first = (task - row * of_row) * together;
  let_next_kernel_begin();
  wait_for_previous_kernel();
  if (row >= load_constant(&params.batch->rows)) return;
  HeadSource<false> sources[together];
  QSPEC_UNROLL
  for (int i = 0; i < together; ++i) sources[i] = load_head_source<false>(spec, row, std::min(first + i, num_heads - 1), false);
  float4 turn{1, 0, 1, 0};
  if (has_head_values(spec.head_dim)) turn = load_l2(reinterpret_cast<const float4*>(spec.rope + static_cast<int64_t>(row) * (spec.head_dim / 2)) + lane_index());
  const int32_t slot = load_constant(params.batch->slots + row);
  const int page_shift = load_constant(&params.batch->page_shift);
  QSPEC_UNROLL
  for (int i = 0; i < together; ++i) {
    const int head = first + i, kv = head - spec.num_heads;
    if (head >= num_heads) return;
    const bool is_v = kv >= spec.num_kv_heads;
    if (!is_v) sources[i].turn = turn;
    if (kv < 0) store_made_query<codes>(spec, sources[i], row, head);
    else store_kv_head(spec, sources[i], cache_place(slot, is_v ? kv - spec.num_kv_heads : kv, spec.num_kv_heads, page_shift), is_v, {});
  }
}

template <CacheCodes codes, int together>
Status launch_heads(int rows, const HeadsParams& params, cudaStream_t stream) {
  const int of_row = (params.spec.num_heads + 2 * params.spec.num_kv_heads + together - 1) / together;
  return launch(heads_kernel<codes, together>, {(rows * of_row + kHeadWarps - 1) / kHeadWarps, kHeadWarps * kWarp, 0, false, true}, stream, "heads kernel", params);
}
template <CacheCodes codes>
Status launch_heads(int rows, const HeadsParams& params, cudaStream_t stream) {
  const int heads = rows * (params.spec.num_heads + 2 * params.spec.num_kv_heads);
  return heads > kManyHeads ? launch_heads<codes, kHeadsTogether>(rows, params, stream) : launch_heads<codes, 1>(rows, params, stream);
}

Status launch_heads(int rows, const AttentionSpec& spec, const StepBatch* batch, cudaStream_t stream) {
  switch (spec.cache.format) {
    case KvFormat::kInt8: return launch_heads<CacheCodes::kInt8>(rows, {spec, batch}, stream);
    case KvFormat::kInt8Nested: return launch_heads<CacheCodes::kNibbles>(rows, {spec, batch}, stream);
    default: return launch_heads<CacheCodes::kNone>(rows, {spec, batch}, stream);
  }
}

}  // namespace qspec::cuda
