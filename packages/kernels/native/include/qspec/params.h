// One POD per op: what a kernel is told. Shapes in comments; all matrices row-major; `rows` is the number of active rows.
// Pointers are borrowed for the call. Buffers never overlap unless stated.
#pragma once
#include <cstdint>

#include "qspec/formats.h"

namespace qspec {

// Share of an op that one thread does: part `index` of `count`. How work is cut must not change any result.
struct Part {
  int index;
  int count;
};

// Integer activations. x ≈ scale · code, scale = max|x| / qmax, qmax = 2^(bits-1) - 1; an all-zero group has scale 0 and codes 0.
struct QuantizedRows {
  int8_t* codes;   // [rows, width]
  float* scales;   // [rows, width / group_size]; equal within a row when per_token
  int32_t* sums;   // [rows, width / group_size] sum of codes of the group
  int bits;        // 4 or 8
  int group_size;  // 32, 64 or 128, divides width
  bool per_token;
};

// Destination of a row-wise op: Hadamard first (when hadamard_block > 0), then float or quantised store.
struct RowSink {
  float* values;            // [rows, width] or nullptr when quantised
  QuantizedRows quantized;  // codes != nullptr when quantised
  int hadamard_block;       // power of two dividing width; 0 = none. Orthonormal: y = x · H / sqrt(block), Sylvester order
};

struct EmbeddingParams {
  const PackedWeight* table;  // [vocab, width]
  const int32_t* tokens;      // [rows]
  float* output;              // [rows, width]
  int64_t rows;
};

struct GatherRowsParams {
  const float* input;        // [any, width]
  const int32_t* row_index;  // [rows]
  float* output;             // [rows, width]
  int64_t rows, width;
};

struct RmsNormParams {
  float* input;         // [rows, width]; += delta in place when delta is given
  const float* delta;   // [rows, width] or nullptr
  const float* weight;  // [width]
  RowSink sink;
  int64_t rows, width;
  float eps;
};

struct TransformParams {
  const float* input;  // [rows, width]; may equal sink.values
  RowSink sink;
  int64_t rows, width;
};

// output[r, output_column + n] = Σ_k x[r, k] · W[n, k] (+ bias[n]). Float input: row-invariant.
struct LinearParams {
  const PackedWeight* weight;
  Plane plane;                // kHi reads only the 4-bit plane of nested8
  const float* input;         // [rows, K] or nullptr when quantised
  const QuantizedRows* quantized_input;
  const float* bias;          // [N] or nullptr
  float* output;              // [rows, output_stride]
  int64_t rows, output_stride, output_column;
};

enum class KvFormat : int { kF32 = 0, kBf16 = 1, kInt8 = 2, kInt8Nested = 3 };

// One layer of the cache. Slot s lies at [s / page_size][s % page_size] = s, so a slot is simply a row.
struct KvLayer {
  KvFormat format;
  void* k;          // [num_slots, num_kv_heads, head_dim] float, bf16 bits or int8
  void* v;          // the same
  float* k_scales;  // [num_slots, num_kv_heads], int8 only
  float* v_scales;
  int num_kv_heads, head_dim, page_size;
  int64_t num_slots;
};

// Where the rows of a batch stand. Arrays are [rows] unless stated.
struct BatchRows {
  const int32_t* positions;
  const int32_t* sequences;        // index into page_offsets
  const int32_t* slots;            // slot that the row's own K and V are written to
  const int32_t* page_offsets;     // [num_sequences + 1]
  const int32_t* page_ids;         // ragged
  const int32_t* ancestor_starts;  // nullptr: all positions come from the page table (chain)
  const int32_t* ancestor_slots;   // [rows, max_ancestors]: slot of position ancestor_starts[r] + i
  int max_ancestors;
  int64_t rows;
};

struct RopeKvWriteParams {
  float* qkv;  // [rows, (num_heads + 2·num_kv_heads) · head_dim], in place
  BatchRows batch;
  KvLayer cache;
  int num_heads;
  const float* inverse_frequencies;  // [head_dim / 2]
  float attention_factor;            // multiplies cos and sin
  const float* q_norm;               // [head_dim] or nullptr
  const float* k_norm;
  float eps;
};

// Rows of one sequence must have written K and V (rope_kv_write of the whole batch comes before). Row-invariant: positions are
// walked in order, in blocks that begin at multiples of page_size whatever the slots are.
struct AttentionParams {
  const float* qkv;  // [rows, qkv_stride]; q is the first num_heads · head_dim columns
  int64_t qkv_stride;
  BatchRows batch;
  KvLayer cache;
  int num_heads;
  float scale;
  int sliding_window;  // 0 = all
  RowSink sink;        // width num_heads · head_dim
};

struct SiluMulParams {
  const float* input;  // [rows, 2·width]: gate | up
  RowSink sink;        // width
  int64_t rows, width;
};

// One row's sampler, resolved; see sampling.h for the pipeline.
struct SamplerParams {
  float temperature;  // 0 = greedy
  int top_k;          // 0 = all
  float top_p, min_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  uint32_t seed, stream;
  const int32_t* bias_ids;  // [num_bias]
  const float* bias_values;
  int num_bias;
  const int32_t* history;  // prompt and output, [num_history]; empty when no penalty is on
  int num_history, num_prompt;
  int num_logprobs;  // -1 = none wanted
};

}  // namespace qspec
