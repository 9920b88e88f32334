#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "qspec/sampling.h"

namespace qspec::reference {

namespace {

struct Candidate {
  int32_t id;
  double logit;
};

// Logits after bias and penalties; NaN counts as -infinity.
std::vector<double> adjusted(const float* logits, int64_t vocab, const SamplerParams& params, const int32_t* drafted,
                             int num_drafted) {
  std::vector<double> values(logits, logits + vocab);
  for (int i = 0; i < params.num_bias; ++i) {
    if (params.bias_ids[i] >= 0 && params.bias_ids[i] < vocab) values[params.bias_ids[i]] += params.bias_values[i];
  }
  std::vector<int32_t> tokens(params.history, params.history + params.num_history);
  tokens.insert(tokens.end(), drafted, drafted + num_drafted);
  for (int64_t id = 0; id < vocab; ++id) {
    if (std::count(tokens.begin(), tokens.end(), id) > 0) {
      values[id] = values[id] > 0 ? values[id] / params.repetition_penalty : values[id] * params.repetition_penalty;
    }
    const auto output = tokens.begin() + std::min<size_t>(params.num_prompt, tokens.size());
    const double occurrences = static_cast<double>(std::count(output, tokens.end(), id));
    if (occurrences > 0) values[id] -= params.presence_penalty + params.frequency_penalty * occurrences;
    if (std::isnan(values[id])) values[id] = -INFINITY;
  }
  return values;
}

// Most likely first (ties: lowest id), as the filters leave them; logits are divided by the temperature.
std::vector<Candidate> kept(const std::vector<double>& values, const SamplerParams& params) {
  std::vector<Candidate> candidates;
  for (size_t id = 0; id < values.size(); ++id) {
    if (values[id] > -INFINITY) candidates.push_back({static_cast<int32_t>(id), values[id] / params.temperature});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
  if (params.top_k > 0 && candidates.size() > static_cast<size_t>(params.top_k)) candidates.resize(params.top_k);
  if (candidates.empty()) return candidates;
  const double top = candidates[0].logit;
  const auto weight = [&](const Candidate& candidate) { return std::exp(candidate.logit - top); };
  double sum = 0, reached = 0;
  for (const Candidate& candidate : candidates) sum += weight(candidate);
  size_t count = 0;
  while (count < candidates.size() && (params.top_p >= 1 || reached < params.top_p * sum))
    reached += weight(candidates[count++]);
  candidates.resize(count);
  const auto is_unlikely = [&](const Candidate& candidate) { return candidate.logit < top + std::log(params.min_p); };
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), is_unlikely), candidates.end());
  return candidates;
}

int32_t argmax(const std::vector<double>& values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

}  // namespace

std::vector<double> sampling_distribution(const float* logits, int64_t vocab, const SamplerParams& params,
                                          const int32_t* drafted, int num_drafted) {
  const std::vector<double> values = adjusted(logits, vocab, params, drafted, num_drafted);
  std::vector<double> shares(vocab, 0.0);
  if (params.temperature == 0) {
    shares[argmax(values)] = 1;
    return shares;
  }
  const std::vector<Candidate> candidates = kept(values, params);
  double sum = 0;
  for (const Candidate& candidate : candidates)
    sum += shares[candidate.id] = std::exp(candidate.logit - candidates[0].logit);
  for (double& share : shares) share /= sum;
  return shares;
}

int32_t sample_row(const float* logits, int64_t vocab, const SamplerParams& params, int64_t position,
                   const int32_t* drafted, int num_drafted) {
  const std::vector<double> values = adjusted(logits, vocab, params, drafted, num_drafted);
  if (params.temperature == 0) return argmax(values);
  int32_t best = 0;
  double best_score = -INFINITY;
  for (const Candidate& candidate : kept(values, params)) {
    const uint32_t counter[4] = {static_cast<uint32_t>(candidate.id / 4), static_cast<uint32_t>(position), 0, 0};
    const uint32_t key[2] = {params.seed, params.stream};
    uint32_t words[4];
    philox4x32_10(counter, key, words);
    const double noise = -std::log(-std::log((words[candidate.id % 4] + 0.5) / 4294967296.0));
    const double score = candidate.logit + noise;
    if (score > best_score || (score == best_score && candidate.id < best)) best_score = score, best = candidate.id;
  }
  return best;
}

}  // namespace qspec::reference
