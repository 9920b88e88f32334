// Argument checks of every op but linear (linear_check.cpp).
#include "qspec/checks.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace qspec {

namespace {

Status invalid(const std::string& message) { return {StatusCode::kInvalidArgument, message}; }
Status mismatch(const std::string& message) { return {StatusCode::kShapeMismatch, message}; }

template <typename T>
std::string expected(const std::string& what, T received) {
  return "Expected " + what + " but received " + std::to_string(received) + ".";
}

Status not_null(const void* pointer, const char* name) {
  if (pointer != nullptr) return {};
  return invalid("Expected `" + std::string(name) + "` to point to memory but received null.");
}

Status check_rows(int64_t rows) {
  return rows >= 0 ? Status::ok() : mismatch(expected("`rows` to be at least 0", rows));
}

Status check_width(int64_t width) {
  return width >= 1 ? Status::ok() : mismatch(expected("`width` to be at least 1", width));
}

bool is_group_size(int size) { return size == 32 || size == 64 || size == 128; }
bool is_power_of_two(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

Status check_hadamard_block(int block, int64_t width) {
  if (block == 0 || (is_power_of_two(block) && width % block == 0)) return {};
  return mismatch(expected("`hadamard_block` to be 0 or a power of two that divides " + std::to_string(width), block) +
                  " Store the weight with another rotation block.");
}

Status check_quantized(const QuantizedRows& rows, int64_t width) {
  if (rows.bits != 4 && rows.bits != 8) return invalid(expected("`bits` of activations to be 4 or 8", rows.bits));
  if (!is_group_size(rows.group_size) || width % rows.group_size != 0) {
    return mismatch(
        expected("`group_size` to be 32, 64 or 128 and to divide " + std::to_string(width), rows.group_size) +
        " Use a float buffer for this width.");
  }
  QSPEC_RETURN_IF_ERROR(not_null(rows.scales, "quantized.scales"));
  return not_null(rows.sums, "quantized.sums");
}

}  // namespace

Status check_part(Part part) {
  if (part.count < 1) return invalid(expected("`part.count` to be at least 1", part.count));
  if (part.index < 0 || part.index >= part.count) {
    return invalid(expected("`part.index` to be from 0 to " + std::to_string(part.count - 1), part.index));
  }
  return {};
}

Status check_packed_weight(const PackedWeight& weight) {
  if (weight.n < 1 || weight.k < 1) {
    return mismatch(expected("a weight of at least 1 x 1", weight.n < 1 ? weight.n : weight.k));
  }
  QSPEC_RETURN_IF_ERROR(check_hadamard_block(weight.hadamard_block, weight.k));
  if (weight.kind == WeightKind::kDenseF32 || weight.kind == WeightKind::kDenseBf16)
    return not_null(weight.dense, "weight.dense");
  if (weight.kind != WeightKind::kInt4 && weight.kind != WeightKind::kNested8) {
    return {StatusCode::kUnsupported, expected("a weight kind from 0 to 3", static_cast<int>(weight.kind))};
  }
  if (!is_group_size(weight.group_size) || weight.k % weight.group_size != 0) {
    return mismatch(expected("the weight's `group_size` to be 32, 64 or 128 and to divide " + std::to_string(weight.k),
                             weight.group_size) +
                    " Quantise it with another group size.");
  }
  QSPEC_RETURN_IF_ERROR(not_null(weight.hi, "weight.hi"));
  QSPEC_RETURN_IF_ERROR(not_null(weight.scales, "weight.scales"));
  if (weight.kind == WeightKind::kInt4) return {};
  if (weight.radix < 8 || weight.radix > 15) return invalid(expected("`radix` to be from 8 to 15", weight.radix));
  return not_null(weight.lo, "weight.lo");
}

Status check_row_sink(const RowSink& sink, int64_t rows, int64_t width) {
  QSPEC_RETURN_IF_ERROR(check_rows(rows));
  QSPEC_RETURN_IF_ERROR(check_width(width));
  QSPEC_RETURN_IF_ERROR(check_hadamard_block(sink.hadamard_block, width));
  const bool is_quantized = sink.quantized.codes != nullptr;
  if (is_quantized == (sink.values != nullptr)) {
    return invalid("Expected an op to have either float or quantised output but received " +
                   std::string(is_quantized ? "both." : "neither."));
  }
  return is_quantized ? check_quantized(sink.quantized, width) : Status::ok();
}

Status check_kv_layer(const KvLayer& layer) {
  if (layer.format == KvFormat::kInt8Nested) {
    return {
        StatusCode::kUnsupported,
        "Expected a KV cache of f32, bf16 or int8 on the CPU but received int8-nested. Use `int8`, or a CUDA device."};
  }
  if (layer.format < KvFormat::kF32 || layer.format > KvFormat::kInt8Nested) {
    return {StatusCode::kUnsupported, expected("a KV format from 0 to 3", static_cast<int>(layer.format))};
  }
  if (layer.num_kv_heads < 1) return mismatch(expected("`num_kv_heads` to be at least 1", layer.num_kv_heads));
  if (layer.head_dim < 4 || layer.head_dim % 4 != 0) {
    return mismatch(expected("`head_dim` to be a positive multiple of 4", layer.head_dim));
  }
  if (layer.page_size < 16 || layer.page_size > 64 || !is_power_of_two(layer.page_size)) {
    return invalid(expected("`page_size` to be 16, 32 or 64", layer.page_size));
  }
  if (layer.num_slots < 1 || layer.num_slots % layer.page_size != 0 || layer.num_slots > INT32_MAX) {
    return mismatch(expected(
        "`num_slots` to be whole pages of " + std::to_string(layer.page_size) + ", at most 2^31 - 1", layer.num_slots));
  }
  QSPEC_RETURN_IF_ERROR(not_null(layer.k, "cache.k"));
  QSPEC_RETURN_IF_ERROR(not_null(layer.v, "cache.v"));
  if (layer.format != KvFormat::kInt8) return {};
  QSPEC_RETURN_IF_ERROR(not_null(layer.k_scales, "cache.k_scales"));
  return not_null(layer.v_scales, "cache.v_scales");
}

namespace {

Status check_slot(int64_t slot, int64_t num_slots, const std::string& name) {
  if (slot >= 0 && slot < num_slots) return {};
  return invalid(expected("`" + name + "` to be from 0 to " + std::to_string(num_slots - 1), slot) +
                 " Give the sequence a page before its rows.");
}

Status check_ancestors(const BatchRows& batch, const KvLayer& layer, int64_t row) {
  const int64_t start = batch.ancestor_starts[row], count = int64_t{batch.positions[row]} + 1 - start;
  if (start < 0 || count < 1 || count > batch.max_ancestors) {
    return invalid(expected("row " + std::to_string(row) + " to have from 1 to " + std::to_string(batch.max_ancestors) +
                                " ancestor slots, its own included",
                            count));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = batch.ancestor_slots[row * batch.max_ancestors + i];
    QSPEC_RETURN_IF_ERROR(
        check_slot(slot, layer.num_slots, "ancestor_slots[" + std::to_string(row) + "][" + std::to_string(i) + "]"));
  }
  return {};
}

// Positions of `row` that come from the page table must lie on its pages.
Status check_row_pages(const BatchRows& batch, const KvLayer& layer, int64_t row) {
  const int64_t sequence = batch.sequences[row], position = batch.positions[row];
  if (position < 0) return invalid(expected("`positions[" + std::to_string(row) + "]` to be at least 0", position));
  if (sequence < 0) return invalid(expected("`sequences[" + std::to_string(row) + "]` to be at least 0", sequence));
  const int64_t from_pages = batch.ancestor_starts != nullptr ? batch.ancestor_starts[row] : position + 1;
  const int64_t num_pages = int64_t{batch.page_offsets[sequence + 1]} - batch.page_offsets[sequence];
  const int64_t needed = (from_pages + layer.page_size - 1) / layer.page_size;
  if (num_pages >= needed) return {};
  return invalid(expected("sequence " + std::to_string(sequence) + " to have " + std::to_string(needed) +
                              " pages for position " + std::to_string(position),
                          num_pages) +
                 " Allocate pages before the round.");
}

}  // namespace

Status check_batch_rows(const BatchRows& batch, const KvLayer& layer) {
  QSPEC_RETURN_IF_ERROR(check_kv_layer(layer));
  QSPEC_RETURN_IF_ERROR(check_rows(batch.rows));
  if (batch.rows == 0) return {};
  QSPEC_RETURN_IF_ERROR(not_null(batch.positions, "positions"));
  QSPEC_RETURN_IF_ERROR(not_null(batch.sequences, "sequences"));
  QSPEC_RETURN_IF_ERROR(not_null(batch.slots, "slots"));
  QSPEC_RETURN_IF_ERROR(not_null(batch.page_offsets, "page_offsets"));
  QSPEC_RETURN_IF_ERROR(not_null(batch.page_ids, "page_ids"));
  if (batch.ancestor_starts != nullptr) QSPEC_RETURN_IF_ERROR(not_null(batch.ancestor_slots, "ancestor_slots"));
  int32_t num_sequences = 0;
  for (int64_t row = 0; row < batch.rows; ++row) {
    QSPEC_RETURN_IF_ERROR(check_row_pages(batch, layer, row));
    QSPEC_RETURN_IF_ERROR(check_slot(batch.slots[row], layer.num_slots, "slots[" + std::to_string(row) + "]"));
    if (batch.ancestor_starts != nullptr) QSPEC_RETURN_IF_ERROR(check_ancestors(batch, layer, row));
    if (batch.sequences[row] >= num_sequences) num_sequences = batch.sequences[row] + 1;
  }
  for (int64_t i = 0; i < batch.page_offsets[num_sequences]; ++i) {
    QSPEC_RETURN_IF_ERROR(check_slot((int64_t{batch.page_ids[i]} + 1) * layer.page_size - 1, layer.num_slots,
                                     "last slot of page_ids[" + std::to_string(i) + "]"));
  }
  return {};
}

Status check_embedding(const EmbeddingParams& params) {
  QSPEC_RETURN_IF_ERROR(not_null(params.table, "table"));
  QSPEC_RETURN_IF_ERROR(check_packed_weight(*params.table));
  QSPEC_RETURN_IF_ERROR(check_rows(params.rows));
  QSPEC_RETURN_IF_ERROR(not_null(params.tokens, "tokens"));
  QSPEC_RETURN_IF_ERROR(not_null(params.output, "output"));
  for (int64_t row = 0; row < params.rows; ++row) {
    if (params.tokens[row] < 0 || params.tokens[row] >= params.table->n) {
      return invalid(
          expected("`tokens[" + std::to_string(row) + "]` to be from 0 to " + std::to_string(params.table->n - 1),
                   params.tokens[row]) +
          " Tokens come from this model's own tokenizer.");
    }
  }
  return {};
}

Status check_gather_rows(const GatherRowsParams& params, int64_t num_input_rows) {
  QSPEC_RETURN_IF_ERROR(check_rows(params.rows));
  QSPEC_RETURN_IF_ERROR(check_width(params.width));
  QSPEC_RETURN_IF_ERROR(not_null(params.input, "input"));
  QSPEC_RETURN_IF_ERROR(not_null(params.row_index, "row_index"));
  QSPEC_RETURN_IF_ERROR(not_null(params.output, "output"));
  for (int64_t row = 0; row < params.rows; ++row) {
    if (params.row_index[row] < 0 || params.row_index[row] >= num_input_rows) {
      return invalid(
          expected("`row_index[" + std::to_string(row) + "]` to be from 0 to " + std::to_string(num_input_rows - 1),
                   params.row_index[row]));
    }
  }
  return {};
}

Status check_rms_norm(const RmsNormParams& params) {
  QSPEC_RETURN_IF_ERROR(check_row_sink(params.sink, params.rows, params.width));
  QSPEC_RETURN_IF_ERROR(not_null(params.input, "input"));
  QSPEC_RETURN_IF_ERROR(not_null(params.weight, "weight"));
  if (!(params.eps >= 0) || std::isinf(params.eps))
    return invalid(expected("`eps` to be a finite number, at least 0", params.eps));
  return {};
}

Status check_transform(const TransformParams& params) {
  QSPEC_RETURN_IF_ERROR(check_row_sink(params.sink, params.rows, params.width));
  return not_null(params.input, "input");
}

Status check_silu_mul(const SiluMulParams& params) {
  QSPEC_RETURN_IF_ERROR(check_row_sink(params.sink, params.rows, params.width));
  return not_null(params.input, "input");
}

namespace {
Status check_heads(int num_heads, const KvLayer& cache) {
  if (num_heads >= 1 && num_heads % cache.num_kv_heads == 0) return {};
  return mismatch(expected(
      "`num_heads` to be a positive multiple of the " + std::to_string(cache.num_kv_heads) + " kv heads", num_heads));
}
}  // namespace

Status check_rope_kv_write(const RopeKvWriteParams& params) {
  QSPEC_RETURN_IF_ERROR(check_batch_rows(params.batch, params.cache));
  QSPEC_RETURN_IF_ERROR(check_heads(params.num_heads, params.cache));
  QSPEC_RETURN_IF_ERROR(not_null(params.qkv, "qkv"));
  QSPEC_RETURN_IF_ERROR(not_null(params.inverse_frequencies, "inverse_frequencies"));
  if (!std::isfinite(params.attention_factor))
    return invalid(expected("`attention_factor` to be finite", params.attention_factor));
  if (!(params.eps >= 0) || std::isinf(params.eps))
    return invalid(expected("`eps` to be a finite number, at least 0", params.eps));
  return {};
}

Status check_attention(const AttentionParams& params) {
  QSPEC_RETURN_IF_ERROR(check_batch_rows(params.batch, params.cache));
  QSPEC_RETURN_IF_ERROR(check_heads(params.num_heads, params.cache));
  const int64_t width = int64_t{params.num_heads} * params.cache.head_dim;
  QSPEC_RETURN_IF_ERROR(check_row_sink(params.sink, params.batch.rows, width));
  QSPEC_RETURN_IF_ERROR(not_null(params.qkv, "qkv"));
  if (params.qkv_stride < width)
    return mismatch(expected("`qkv_stride` to be at least " + std::to_string(width), params.qkv_stride));
  if (!std::isfinite(params.scale)) return invalid(expected("`scale` to be finite", params.scale));
  if (params.sliding_window < 0)
    return invalid(expected("`sliding_window` to be 0 (all) or more", params.sliding_window));
  return {};
}

namespace {
Status check_number(float value, float low, float high, const char* name) {
  if (value >= low && value <= high) return {};
  return invalid(
      expected("`" + std::string(name) + "` to be from " + std::to_string(low) + " to " + std::to_string(high), value));
}
}  // namespace

Status check_sampler(const SamplerParams& params, int64_t vocab) {
  if (vocab < 1 || vocab > INT32_MAX) return mismatch(expected("`vocab` to be from 1 to 2^31 - 1", vocab));
  QSPEC_RETURN_IF_ERROR(check_number(params.temperature, 0, 100, "temperature"));
  if (params.top_k < 0) return invalid(expected("`top_k` to be 0 (all) or more", params.top_k));
  QSPEC_RETURN_IF_ERROR(check_number(params.top_p, 0, 1, "top_p"));
  if (params.top_p == 0)
    return invalid("Expected `top_p` to be over 0 but received 0. Use `temperature` 0 for greedy decoding.");
  QSPEC_RETURN_IF_ERROR(check_number(params.min_p, 0, 1, "min_p"));
  QSPEC_RETURN_IF_ERROR(check_number(params.repetition_penalty, 1e-6f, 1e6f, "repetition_penalty"));
  QSPEC_RETURN_IF_ERROR(check_number(params.presence_penalty, -100, 100, "presence_penalty"));
  QSPEC_RETURN_IF_ERROR(check_number(params.frequency_penalty, -100, 100, "frequency_penalty"));
  if (params.num_bias < 0 || params.num_history < 0)
    return invalid(expected("counts to be at least 0", std::min(params.num_bias, params.num_history)));
  if (params.num_prompt < 0 || (params.num_history > 0 && params.num_prompt > params.num_history)) {
    return invalid(expected("`num_prompt` to be from 0 to " + std::to_string(params.num_history), params.num_prompt));
  }
  if (params.num_bias > 0) {
    QSPEC_RETURN_IF_ERROR(not_null(params.bias_ids, "bias_ids"));
    QSPEC_RETURN_IF_ERROR(not_null(params.bias_values, "bias_values"));
  }
  if (params.num_history > 0) QSPEC_RETURN_IF_ERROR(not_null(params.history, "history"));
  return {};
}

}  // namespace qspec
