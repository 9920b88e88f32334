// The sampler (sampling.h) for one row. Plain C++ over three vectorised passes (sampler_kernels.inl).
#include "qspec/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "qspec/ops.h"
#include "row_ops.h"

namespace qspec {

void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

namespace {

const cpu::SamplerKernels& kernels() {
#if defined(__x86_64__) || defined(_M_X64)
  static const CpuIsa isa = detect_cpu_isa();
  if (isa >= CpuIsa::kAvx512) return cpu::avx512::kSamplerKernels;
  if (isa == CpuIsa::kAvx2) return cpu::avx2::kSamplerKernels;
#endif
  return cpu::generic::kSamplerKernels;
}

}  // namespace

int32_t argmax_row(const float* logits, int64_t vocab) { return kernels().argmax_row(logits, vocab); }

namespace {

// g = -log(-log(u)) of a 32-bit word, u = (word + 1/2) / 2^32, so that u is never 0 or 1.
double gumbel(uint32_t word) { return -std::log(-std::log((word + 0.5) * 0x1p-32)); }
// No word gives more (33 · ln 2 = 22.8739).
constexpr double kMaxGumbel = 22.88;

// Random words of one row, four ids at a time.
class WordStream {
 public:
  WordStream(const SamplerParams& params, int64_t position)
      : key_{params.seed, params.stream}, position_(static_cast<uint32_t>(position)) {}
  uint32_t word(int32_t id) {
    if (id / 4 != block_) fill(block_ = id / 4);
    return words_[id % 4];
  }

 private:
  void fill(int32_t block) {
    const uint32_t counter[4] = {static_cast<uint32_t>(block), position_, 0, 0};
    philox4x32_10(counter, key_, words_);
  }
  uint32_t key_[2], position_, words_[4] = {};
  int32_t block_ = -1;
};

// The largest score so far; ties go to the lowest id.
struct Best {
  double score = -INFINITY;
  int32_t id = 0;
  void offer(int32_t candidate, double candidate_score) {
    if (candidate_score > score || (candidate_score == score && candidate < id))
      score = candidate_score, id = candidate;
  }
};

bool has_penalty(const SamplerParams& p) {
  return p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
}

// Bit 0 of a count: the token occurred at all; the rest: 2 for each occurrence in the output.
void count_tokens(const SamplerParams& params, const int32_t* drafted, int num_drafted, int64_t vocab,
                  std::vector<int32_t>& counts) {
  counts.resize(vocab, 0);  // always left all zero
  const auto count = [&](int32_t token, bool is_output) {
    if (token >= 0 && token < vocab) counts[token] = (counts[token] | 1) + (is_output ? 2 : 0);
  };
  for (int i = 0; i < params.num_history; ++i) count(params.history[i], i >= params.num_prompt);
  for (int i = 0; i < num_drafted; ++i) count(drafted[i], true);
}

float penalized(float logit, const SamplerParams& params, int32_t num_outputs) {
  double value = logit;
  value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
  if (num_outputs > 0) value -= params.presence_penalty + static_cast<double>(params.frequency_penalty) * num_outputs;
  return static_cast<float>(value);
}

// Logits after bias and penalties: `logits` itself when there are none, else a copy in `scratch`.
const float* adjusted(const float* logits, int64_t vocab, const SamplerParams& params, const int32_t* drafted,
                      int num_drafted, SamplerScratch& scratch) {
  if (params.num_bias == 0 && !has_penalty(params)) return logits;
  scratch.logits.assign(logits, logits + vocab);
  float* out = scratch.logits.data();
  for (int i = 0; i < params.num_bias; ++i) {
    const int32_t id = params.bias_ids[i];
    if (id >= 0 && id < vocab) out[id] += params.bias_values[i];
  }
  if (!has_penalty(params)) return out;
  count_tokens(params, drafted, num_drafted, vocab, scratch.counts);
  const auto apply = [&](int32_t token) {
    if (token < 0 || token >= vocab || scratch.counts[token] == 0) return;
    out[token] = penalized(out[token], params, scratch.counts[token] / 2);
    scratch.counts[token] = 0;
  };
  for (int i = 0; i < params.num_history; ++i) apply(params.history[i]);
  for (int i = 0; i < num_drafted; ++i) apply(drafted[i]);
  return out;
}

// More likely first, then the lower id.
struct MoreLikely {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }
};

// Calls body(id) for ids with logits[id] >= threshold, in order; passes over 16 at a time when none is.
template <typename Body>
void for_each_at_least(const float* logits, int64_t vocab, const float& threshold, Body body) {
  int64_t i = 0;
  for (; i + 16 <= vocab; i += 16) {
    int any = 0;
    for (int j = 0; j < 16; ++j) any |= logits[i + j] >= threshold;
    if (!any) continue;
    for (int j = 0; j < 16; ++j) {
      if (logits[i + j] >= threshold) body(static_cast<int32_t>(i + j));
    }
  }
  for (; i < vocab; ++i) {
    if (logits[i] >= threshold) body(static_cast<int32_t>(i));
  }
}

bool any_at_least(const float* chunk, float threshold) {
  int any = 0;
  for (int j = 0; j < cpu::kDrawChunk; ++j) any |= chunk[j] >= threshold;
  return any != 0;
}

// The k most likely ids, in no order. A heap with the least likely of them on top; few ids get past it after the first
// thousands.
void select_top_k(const float* logits, int64_t vocab, int k, std::vector<int32_t>& ids) {
  const MoreLikely more_likely{logits};
  ids.clear();
  float threshold = std::nextafter(-INFINITY, 0.0f);
  for_each_at_least(logits, vocab, threshold, [&](int32_t id) {
    if (static_cast<int64_t>(ids.size()) < k) {
      ids.push_back(id);
      std::push_heap(ids.begin(), ids.end(), more_likely);
    } else if (more_likely(id, ids.front())) {
      std::pop_heap(ids.begin(), ids.end(), more_likely);
      ids.back() = id;
      std::push_heap(ids.begin(), ids.end(), more_likely);
    }
    if (static_cast<int64_t>(ids.size()) == k) threshold = logits[ids.front()];
  });
}

double weight_of(const float* logits, int32_t id, float top, float temperature) {
  return std::exp((static_cast<double>(logits[id]) - top) / temperature);
}

int32_t median(int32_t a, int32_t b, int32_t c, const MoreLikely& more_likely) {
  if (more_likely(b, a)) std::swap(a, b);
  return more_likely(c, a) ? a : more_likely(c, b) ? c : b;
}

// Number of most likely ids that together weigh `target`; they are moved to the front. Quickselect by weight: O(n),
// sorts only the last few.
size_t nucleus_size(const float* logits, float top, const SamplerParams& params, double target,
                    std::vector<int32_t>& ids) {
  const MoreLikely more_likely{logits};
  const auto weight = [&](int32_t id) { return weight_of(logits, id, top, params.temperature); };
  auto begin = ids.begin(), end = ids.end();  // [ids.begin(), begin) is in, [end, …) is out
  double reached = 0;
  while (end - begin > 64) {
    const int32_t pivot = median(begin[0], begin[(end - begin) / 2], end[-1], more_likely);
    const auto middle =
        std::partition(begin, end, [&](int32_t id) { return !more_likely(pivot, id); });  // at least the pivot
    double mass = 0;
    for (auto it = begin; it != middle; ++it) mass += weight(*it);
    if (reached + mass < target) {
      reached += mass, begin = middle;
    } else if (middle == end) {  // the pivot was the least likely
      std::iter_swap(std::find(begin, end, pivot), end - 1);
      if (reached + mass - weight(pivot) < target) return end - ids.begin();
      --end;
    } else {
      end = middle;
    }
  }
  std::sort(begin, end, more_likely);
  while (begin != end && reached < target) reached += weight(*begin++);
  return begin - ids.begin();
}

// Leaves in `ids` the smallest set of most likely ids whose probability is at least top_p. `from_all`: out of the whole
// vocabulary, else out of `ids`. Ids that together weigh at most 1 - top_p are never looked at: the set must lie within
// the others.
void keep_top_p(const float* logits, int64_t vocab, float top, const SamplerParams& params, bool from_all,
                std::vector<int32_t>& ids) {
  double sum = 0;
  if (from_all) {
    sum = kernels().sum_of_exps(logits, vocab, top, 1 / params.temperature);
    const double least =
        std::max((1 - static_cast<double>(params.top_p)) * sum / static_cast<double>(vocab) * 0.999, 1e-300);
    const float threshold = std::nextafter(static_cast<float>(top + std::log(least) * params.temperature), -INFINITY);
    ids.clear();
    for_each_at_least(logits, vocab, threshold, [&](int32_t id) { ids.push_back(id); });
  } else {
    for (int32_t id : ids) sum += weight_of(logits, id, top, params.temperature);
  }
  ids.resize(nucleus_size(logits, top, params, params.top_p * sum, ids));
}

// logit / temperature of the least likely id that min-p keeps, as a logit.
double min_p_threshold(float top, const SamplerParams& params) {
  return top + std::log(static_cast<double>(params.min_p)) * params.temperature;
}

int32_t draw_from(const float* logits, const std::vector<int32_t>& ids, const SamplerParams& params, int64_t position) {
  WordStream words(params, position);
  Best best;
  for (int32_t id : ids) best.offer(id, static_cast<double>(logits[id]) / params.temperature + gumbel(words.word(id)));
  return best.id;
}

// Draws from all ids with logit >= `least`, without looking closely at what cannot win: the kernels pass on few ids,
// and those are put through the two logarithms in double.
int32_t draw_from_all(const float* logits, int64_t vocab, int32_t top_id, double least, const SamplerParams& params,
                      int64_t position) {
  const double temperature = params.temperature;
  WordStream stream(params, position);
  Best best;
  const auto offer = [&](int32_t id, uint32_t word) {
    if (static_cast<double>(logits[id]) >= least) best.offer(id, logits[id] / temperature + gumbel(word));
  };
  offer(top_id, stream.word(top_id));
  cpu::DrawBound bound = {
      {params.seed, params.stream}, static_cast<uint32_t>(position), static_cast<float>(1 / temperature), 0, 0};
  const auto possible_winners = kernels().possible_winners;
  int64_t first = 0;
  for (; first + cpu::kDrawChunk <= vocab; first += cpu::kDrawChunk) {
    const double reach = std::max((best.score - kMaxGumbel) * temperature, least);
    if (!any_at_least(logits + first, static_cast<float>(reach - 1e-6 * std::fabs(reach)))) continue;
    int32_t ids[cpu::kDrawChunk];
    uint32_t words[cpu::kDrawChunk];
    bound.best = static_cast<float>(best.score);
    bound.slack =
        static_cast<float>(1e-5 + 1e-6 * std::fabs(best.score));  // of scores within 23 of the best: a few roundings
    const int count = possible_winners(logits + first, static_cast<int32_t>(first), bound, ids, words);
    for (int i = 0; i < count; ++i) offer(ids[i], words[i]);
  }
  for (; first < vocab; ++first) offer(static_cast<int32_t>(first), stream.word(static_cast<int32_t>(first)));
  return best.id;
}

}  // namespace

int32_t sample_row(const float* logits, int64_t vocab, const SamplerParams& params, int64_t position,
                   const int32_t* drafted, int num_drafted, SamplerScratch& scratch) {
  const float* values = adjusted(logits, vocab, params, drafted, num_drafted, scratch);
  const int32_t top_id = argmax_row(values, vocab);
  const float top = values[top_id];
  // Infinities leave nothing to draw: +infinity wins outright, and where all is -infinity or NaN argmax_row gave 0.
  if (!(params.temperature > 0) || !std::isfinite(top)) return top_id;

  std::vector<int32_t>& ids = scratch.ids;
  const bool has_top_k = params.top_k > 0 && params.top_k < vocab, has_top_p = params.top_p < 1;
  if (has_top_k) select_top_k(values, vocab, params.top_k, ids);
  if (has_top_p) keep_top_p(values, vocab, top, params, !has_top_k, ids);
  const double least = params.min_p > 0 ? min_p_threshold(top, params) : -INFINITY;
  if (!has_top_k && !has_top_p) return draw_from_all(values, vocab, top_id, least, params, position);
  ids.erase(std::remove_if(ids.begin(), ids.end(), [&](int32_t id) { return values[id] < least; }), ids.end());
  std::sort(ids.begin(), ids.end());  // neighbours share a Philox block
  return draw_from(values, ids, params, position);
}

double token_logprob(const float* logits, int64_t vocab, int32_t token, double* lse) {
  const float top = logits[argmax_row(logits, vocab)];
  double sum = 0, result = top;
  if (std::isinf(top) && top > 0) {  // the mass is shared by the infinite ones
    for (int64_t i = 0; i < vocab; ++i) sum += logits[i] == top;
  } else if (std::isfinite(top)) {
    for (int64_t i = 0; i < vocab; ++i) {
      const double behind = static_cast<double>(logits[i]) - top;
      if (behind > -60) sum += std::exp(behind);  // 150 000 · e^-60 is under one part in 2^53
    }
    result = top + std::log(sum);
  } else {
    result = -INFINITY;
  }
  if (lse != nullptr) *lse = result;
  const float own = logits[token];
  if (!(own > -INFINITY)) return -INFINITY;
  return std::isinf(own) ? -std::log(sum) : own - result;
}

void top_logprobs(const float* logits, int64_t vocab, double lse, int count, int32_t* ids, float* logprobs) {
  const auto value = [&](int64_t id) { return logits[id] == logits[id] ? logits[id] : -INFINITY; };
  int found = 0;
  for (int64_t i = 0; i < vocab && count > 0; ++i) {
    if (found == count && !(logits[i] > value(ids[found - 1]))) continue;
    int at = found < count ? found++ : found - 1;
    for (; at > 0 && value(ids[at - 1]) < value(i); --at) ids[at] = ids[at - 1];
    ids[at] = static_cast<int32_t>(i);
  }
  int num_infinite = 0;
  for (int i = 0; i < found; ++i) num_infinite += logits[ids[i]] == INFINITY;
  for (int i = 0; i < count; ++i) {
    if (i >= found) ids[i] = -1;
    const bool is_possible = i < found && logits[ids[i]] > -INFINITY;
    logprobs[i] = !is_possible       ? -INFINITY
                  : num_infinite > 0 ? (i < num_infinite ? -std::log(static_cast<float>(num_infinite)) : -INFINITY)
                                     : static_cast<float>(logits[ids[i]] - lse);
  }
}

}  // namespace qspec
