// The sampler written down plainly, in double, with full sorts: what sample_row must agree with.
#pragma once
#include <cstdint>
#include <vector>

#include "qspec/params.h"

namespace qspec::reference {

// Probability of each id after the whole pipeline (0 = filtered out); all mass on one id when temperature is 0.
std::vector<double> sampling_distribution(const float* logits, int64_t vocab, const SamplerParams& params,
                                          const int32_t* drafted, int num_drafted);

// The pick, by evaluating every kept id's noise. Same contract as qspec::sample_row.
int32_t sample_row(const float* logits, int64_t vocab, const SamplerParams& params, int64_t position,
                   const int32_t* drafted, int num_drafted);

}  // namespace qspec::reference
