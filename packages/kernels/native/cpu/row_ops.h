// Row ops of each instruction set (row_ops_*.cpp, attention_*.cpp) and what they share.
#pragma once
#include <cstddef>

#include "qspec/params.h"

namespace qspec::cpu {

// What one draw looks for; see possible_winners.
struct DrawBound {
  uint32_t key[2], position;
  float inverse_temperature;
  float best;   // the best score so far
  float slack;  // added to each score, so that rounding never hides a winner
};

// The sampler's passes over the vocabulary.
struct SamplerKernels {
  // Lowest id among the largest; NaN counts as -infinity.
  int32_t (*argmax_row)(const float* logits, int64_t vocab);
  // Σ exp((logit - top) · inverse_temperature); NaN counts as -infinity.
  double (*sum_of_exps)(const float* logits, int64_t vocab, float top, float inverse_temperature);
  // Ids from first_id (a multiple of 4) to first_id + kDrawChunk - 1 whose noisy score may reach bound.best, and their
  // random words; returns how many. `logits` points to the logit of first_id.
  int (*possible_winners)(const float* logits, int32_t first_id, const DrawBound& bound, int32_t* ids, uint32_t* words);
};
constexpr int kDrawChunk = 64;

}  // namespace qspec::cpu

#define QSPEC_DECLARE_ROW_OPS(isa)                                \
  namespace qspec::cpu::isa {                                     \
  void embedding(const EmbeddingParams& params, Part part);       \
  void rms_norm(const RmsNormParams& params, Part part);          \
  void transform(const TransformParams& params, Part part);       \
  void rope_kv_write(const RopeKvWriteParams& params, Part part); \
  void attention(const AttentionParams& params, Part part);       \
  void silu_mul(const SiluMulParams& params, Part part);          \
  extern const SamplerKernels kSamplerKernels;                    \
  }

QSPEC_DECLARE_ROW_OPS(generic)
QSPEC_DECLARE_ROW_OPS(avx2)
QSPEC_DECLARE_ROW_OPS(avx512)

namespace qspec::cpu {

void gather_rows(const GatherRowsParams& params, Part part);

// Work memory of the calling thread, 64-byte aligned, zeroed when it grows, kept until the thread ends. One region a
// purpose.
enum class ScratchUse : int { kRow = 0, kRope = 1, kAttention = 2, kAttentionRows = 3 };
float* thread_scratch(ScratchUse use, size_t num_floats);

// cosines[i], sines[i] = factor · cos/sin(position · inverse_frequencies[i]), reduced in double: right to a few 1e-8 at
// any position.
void fill_rope_table(const float* inverse_frequencies, int count, int32_t position, float factor, float* cosines,
                     float* sines);

// Least number of columns, from column 0 on, that a sink can take alone: whole Hadamard blocks and whole quantisation
// groups of whole `granule`s (a head); the full width when codes share one scale a token.
int64_t sink_unit(const RowSink& sink, int64_t width, int64_t granule);

}  // namespace qspec::cpu
