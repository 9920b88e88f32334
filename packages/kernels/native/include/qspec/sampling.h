// The sampler, one row of logits at a time, by the exactness rule: the pick is a function of (logits, params, history, position) alone,
// so draft mode, verification and plain decoding make the same choice from the same logits.
//
// Pipeline: logit bias -> repetition, presence, frequency penalties -> temperature -> top-k -> top-p -> min-p -> draw.
// The draw is Gumbel-max: argmax over kept tokens i of logit_i + g_i, g_i = -log(-log(u_i)), u_i from Philox4x32-10 with key
// (seed, stream) and counter (i / 4, position, 0, 0), word i % 4. Ties go to the lowest id. temperature 0 takes the argmax after penalties.
#pragma once
#include <cstdint>
#include <vector>

#include "qspec/params.h"

namespace qspec {

// Work memory of one thread; grows to the vocabulary once.
struct SamplerScratch {
  std::vector<float> logits;
  std::vector<int32_t> ids;
  std::vector<int32_t> counts;
};

// `position` is that of the token being drawn. `drafted` are tokens after params.history that this row presumes accepted.
// NaN logits are treated as -infinity; if nothing is left the result is token 0.
int32_t sample_row(const float* logits, int64_t vocab, const SamplerParams& params, int64_t position, const int32_t* drafted, int num_drafted,
                   SamplerScratch& scratch);

// Natural-log softmax of the raw logits at `token`, in double; `lse` receives the log-sum-exp when not null.
double token_logprob(const float* logits, int64_t vocab, int32_t token, double* lse);

// The `count` largest logits, most likely first (ties: lowest id), with log-probabilities.
void top_logprobs(const float* logits, int64_t vocab, double lse, int count, int32_t* ids, float* logprobs);

// Lowest id among the largest logits.
int32_t argmax_row(const float* logits, int64_t vocab);

// Philox4x32-10 (Salmon et al. 2011), four words for a counter.
void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

}  // namespace qspec
