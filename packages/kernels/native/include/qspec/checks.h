// Checks of op arguments, made once when a program is bound or a launcher is entered; ops themselves trust what they
// get. Each returns ok, or a Status whose message is "Expected `x` to … but received …" with the remedy. They look at
// pointers, sizes and index ranges (cost: O(rows)), never at values.
#pragma once
#include "qspec/checks_linear.h"
#include "qspec/params.h"
#include "qspec/status.h"

namespace qspec {

Status check_part(Part part);
Status check_packed_weight(const PackedWeight& weight);
// `rows` x `width` must fit the sink: Hadamard block a power of two dividing width, group 32, 64 or 128 dividing width,
// bits 4 or 8.
Status check_row_sink(const RowSink& sink, int64_t rows, int64_t width);
Status check_kv_layer(const KvLayer& layer);
// Every position needs a slot: its page, or its ancestor entry. Slots must lie within `layer`.
Status check_batch_rows(const BatchRows& batch, const KvLayer& layer);

Status check_embedding(const EmbeddingParams& params);
Status check_gather_rows(const GatherRowsParams& params, int64_t num_input_rows);
Status check_rms_norm(const RmsNormParams& params);
Status check_transform(const TransformParams& params);
// check_linear: checks_linear.h
Status check_rope_kv_write(const RopeKvWriteParams& params);
Status check_attention(const AttentionParams& params);
Status check_silu_mul(const SiluMulParams& params);
Status check_sampler(const SamplerParams& params, int64_t vocab);

}  // namespace qspec
