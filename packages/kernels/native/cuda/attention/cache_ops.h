// Embedding, RoPE + KV write, and paged attention on CUDA. Params as in qspec/params.h, with device pointers throughout.
// Every row is computed by thread blocks of its own in a fixed order, so all are row-invariant. head_dim: even, at most 256.
#pragma once
#include "common/layout.h"
#include "qspec/params.h"
#include "qspec/status.h"
#include "rows/row_ops.h"

namespace qspec::cuda {

// output [rows, k] float; a table stored for rotated inputs is rotated back by the caller (launch_transform).
Status launch_embedding(const DeviceWeight& table, const int32_t* tokens, float* output, int64_t rows, cudaStream_t stream);
Status launch_rope_kv_write(const RopeKvWriteParams& params, cudaStream_t stream);
// params.sink is ignored: the result goes to `output` [rows, num_heads · head_dim] float. Plain: one block a row and head walks all positions.
Status launch_attention(const AttentionParams& params, float* output, cudaStream_t stream);

}  // namespace qspec::cuda
