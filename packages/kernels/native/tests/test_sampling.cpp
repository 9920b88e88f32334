// The sampler against its plain reference, published random vectors, and the softmax it is meant to draw from.
#include <algorithm>
#include <cmath>
#include <map>

#include "cpu/row_ops.h"
#include "qspec/ops.h"
#include "qspec/sampling.h"
#include "reference/sampling.h"
#include "testkit.h"

namespace qspec::test {
namespace {

SamplerParams plain(float temperature) {
  SamplerParams params = {};
  params.temperature = temperature;
  params.top_p = 1;
  params.repetition_penalty = 1;
  params.num_logprobs = -1;
  return params;
}

int32_t pick(const std::vector<float>& logits, const SamplerParams& params, int64_t position = 0,
             const std::vector<int32_t>& drafted = {}) {
  static SamplerScratch scratch;  // shared by all tests: it must come back clean
  return sample_row(logits.data(), static_cast<int64_t>(logits.size()), params, position, drafted.data(),
                    static_cast<int>(drafted.size()), scratch);
}

int32_t reference_pick(const std::vector<float>& logits, const SamplerParams& params, int64_t position = 0,
                       const std::vector<int32_t>& drafted = {}) {
  return reference::sample_row(logits.data(), static_cast<int64_t>(logits.size()), params, position, drafted.data(),
                               static_cast<int>(drafted.size()));
}

std::vector<const cpu::SamplerKernels*> kernels_of_this_machine() {
  std::vector<const cpu::SamplerKernels*> all = {&cpu::generic::kSamplerKernels};
#if defined(__x86_64__)
  if (detect_cpu_isa() >= CpuIsa::kAvx2) all.push_back(&cpu::avx2::kSamplerKernels);
  if (detect_cpu_isa() >= CpuIsa::kAvx512) all.push_back(&cpu::avx512::kSamplerKernels);
#endif
  return all;
}

// Random123 1.14, kat_vectors, philox4x32 10.
QSPEC_TEST(philox_gives_the_published_words) {
  const uint32_t cases[3][10] = {{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                 {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                 {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
                                  0x94fdcceb, 0x5001e420, 0x24126ea1}};
  for (const auto& words : cases) {
    uint32_t out[4];
    philox4x32_10(words, words + 4, out);
    for (int i = 0; i < 4; ++i) QSPEC_EXPECT(out[i] == words[6 + i]);
  }
}

QSPEC_TEST(greedy_takes_the_lowest_of_equal_ids) {
  QSPEC_EXPECT(pick({1, 3, 3, 2}, plain(0)) == 1);
  QSPEC_EXPECT(pick({-0.0f, 0.0f}, plain(0)) == 0);
  QSPEC_EXPECT(pick({NAN, -5, NAN, -4}, plain(0)) == 3);
  QSPEC_EXPECT(pick({NAN, NAN}, plain(0)) == 0);
  QSPEC_EXPECT(pick({-INFINITY, -INFINITY, NAN}, plain(0)) == 0);
  QSPEC_EXPECT(pick({0, INFINITY, NAN, INFINITY}, plain(0)) == 1);
}

QSPEC_TEST(argmax_of_every_instruction_set_finds_the_first_largest) {
  Rng rng(1);
  std::vector<int32_t (*)(const float*, int64_t)> functions = {argmax_row};
  for (const cpu::SamplerKernels* kernels : kernels_of_this_machine()) functions.push_back(kernels->argmax_row);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<float> logits(rng.integer(1, 300));
    for (float& logit : logits) {
      logit = static_cast<float>(rng.integer(-4, trial % 7 + 1));
      if (rng.integer(0, 9) == 0) logit = trial % 3 == 0 ? NAN : -INFINITY;
    }
    int32_t expected = 0;
    float best = -INFINITY;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] > best) best = logits[i], expected = static_cast<int32_t>(i);
    }
    for (const auto function : functions)
      QSPEC_EXPECT(function(logits.data(), static_cast<int64_t>(logits.size())) == expected);
  }
}

// Shapes that stress the pruning: flat, peaked, long-tailed, with NaN and infinities.
std::vector<float> logits_of_kind(int kind, int64_t vocab, Rng& rng) {
  std::vector<float> logits = rng.normals(vocab, kind == 0 ? 0.0f : kind == 1 ? 1.0f : kind == 2 ? 5.0f : 3.0f);
  if (kind == 3) {
    for (float& logit : logits) logit = rng.integer(0, 20) == 0 ? NAN : rng.integer(0, 20) == 0 ? -INFINITY : logit;
    logits[rng.integer(0, static_cast<int>(vocab) - 1)] = 11;
  }
  if (kind == 4) logits[rng.integer(0, static_cast<int>(vocab) - 1)] = 25;
  if (kind == 5) {
    for (float& logit : logits) logit = std::round(logit);  // many ties
  }
  return logits;
}

QSPEC_TEST(pruned_draws_equal_full_evaluation) {
  Rng rng(11);
  for (int trial = 0; trial < 600; ++trial) {
    const int64_t vocab = trial % 10 == 0 ? 20000 : rng.integer(1, 700);
    const std::vector<float> logits = logits_of_kind(trial % 6, vocab, rng);
    SamplerParams params = plain(rng.uniform(0.05f, 2.5f));
    params.seed = static_cast<uint32_t>(rng.next()), params.stream = static_cast<uint32_t>(trial);
    for (int64_t position : {0, 5, 123456}) {
      const int32_t expected = reference_pick(logits, params, position), actual = pick(logits, params, position);
      if (actual != expected)
        fail(__FILE__, __LINE__, "trial %d: expected %d but received %d", trial, expected, actual);
    }
  }
}

// Every id that reaches the best score in double must be passed on, with its own random word; few others may be.
QSPEC_TEST(kernels_pass_on_every_possible_winner) {
  Rng rng(21);
  for (const cpu::SamplerKernels* kernels : kernels_of_this_machine()) {
    int num_passed = 0, num_winners = 0;
    for (int trial = 0; trial < 4000; ++trial) {
      const float temperature = rng.uniform(0.1f, 2.0f), scale = trial % 2 ? 300.0f : 4.0f;
      std::vector<float> logits = rng.normals(cpu::kDrawChunk, scale * temperature);
      if (trial % 5 == 0) logits[3] = NAN, logits[60] = -INFINITY;
      const double best = rng.uniform(-1, 2) * scale + 5;
      cpu::DrawBound bound = {{static_cast<uint32_t>(rng.next()), 7},
                              static_cast<uint32_t>(trial),
                              1 / temperature,
                              static_cast<float>(best),
                              static_cast<float>(1e-5 + 1e-6 * std::fabs(best))};
      const int32_t first_id = 4 * rng.integer(0, 50000);
      int32_t ids[cpu::kDrawChunk];
      uint32_t words[cpu::kDrawChunk];
      const int count = kernels->possible_winners(logits.data(), first_id, bound, ids, words);
      num_passed += count;
      for (int i = 0; i < cpu::kDrawChunk; ++i) {
        const uint32_t counter[4] = {static_cast<uint32_t>(first_id + i) / 4, static_cast<uint32_t>(trial), 0, 0};
        uint32_t out[4];
        philox4x32_10(counter, bound.key, out);
        const uint32_t word = out[(first_id + i) % 4];
        const double score =
            logits[i] / static_cast<double>(temperature) - std::log(-std::log((word + 0.5) / 4294967296.0));
        const int32_t* found = std::find(ids, ids + count, first_id + i);
        if (found != ids + count) QSPEC_EXPECT(words[found - ids] == word);
        if (score >= best) QSPEC_EXPECT(found != ids + count);
        num_winners += score >= best;
      }
    }
    QSPEC_EXPECT(num_winners > 1000 && num_passed < 2 * num_winners);
  }
}

QSPEC_TEST(sums_of_exponentials_of_every_instruction_set) {
  Rng rng(22);
  for (int64_t vocab : {1, 7, 16, 100, 5000}) {
    std::vector<float> logits = rng.normals(vocab, 5);
    if (vocab > 1) logits[1] = NAN, logits[vocab - 1] = -INFINITY;
    const float top = logits[argmax_row(logits.data(), vocab)], temperature = 0.8f;
    double expected = 0;
    for (float logit : logits)
      expected += logit == logit ? std::exp((static_cast<double>(logit) - top) / temperature) : 0;
    for (const cpu::SamplerKernels* kernels : kernels_of_this_machine()) {
      QSPEC_EXPECT(std::fabs(kernels->sum_of_exps(logits.data(), vocab, top, 1 / temperature) / expected - 1) < 1e-6);
    }
  }
}

QSPEC_TEST(each_filter_equals_the_plain_sampler) {
  Rng rng(12);
  for (int trial = 0; trial < 1500; ++trial) {
    const int64_t vocab = trial % 50 == 0 ? 20000 : rng.integer(2, 500);
    const std::vector<float> logits = logits_of_kind(trial % 6, vocab, rng);
    SamplerParams params = plain(rng.uniform(0.3f, 1.8f));
    params.seed = static_cast<uint32_t>(trial);
    const int filters = trial % 8;  // none, each alone, pairs, all
    if (filters & 1) params.top_k = rng.integer(1, static_cast<int>(vocab) + 3);
    if (filters & 2) params.top_p = rng.uniform(0.02f, 0.999f);
    if (filters & 4) params.min_p = rng.uniform(0.0f, 0.6f);
    for (int64_t position = 0; position < 3; ++position) {
      const int32_t expected = reference_pick(logits, params, position), actual = pick(logits, params, position);
      if (actual != expected)
        fail(__FILE__, __LINE__, "trial %d filters %d: expected %d but received %d", trial, filters, expected, actual);
    }
  }
}

QSPEC_TEST(penalties_and_bias_equal_the_plain_sampler) {
  Rng rng(13);
  for (int trial = 0; trial < 600; ++trial) {
    const int vocab = rng.integer(5, 200);
    const std::vector<float> logits = logits_of_kind(trial % 6, vocab, rng);
    SamplerParams params = plain(trial % 3 == 0 ? 0.0f : rng.uniform(0.3f, 1.5f));
    std::vector<int32_t> history(rng.integer(0, 60)), drafted(rng.integer(0, 5)),
        bias_ids = {0, vocab - 1, 2, 2, vocab + 5, -1};
    for (int32_t& token : history) token = rng.integer(0, vocab / 2);
    for (int32_t& token : drafted) token = rng.integer(0, vocab - 1);
    const std::vector<float> bias = {1.5f, -INFINITY, 0.25f, 0.5f, 9.0f, 9.0f};
    params.history = history.data(), params.num_history = static_cast<int>(history.size());
    params.num_prompt = rng.integer(0, params.num_history);
    if (trial & 1) params.repetition_penalty = rng.uniform(0.6f, 1.9f);
    if (trial & 2) params.presence_penalty = rng.uniform(-1.0f, 2.0f);
    if (trial & 4) params.frequency_penalty = rng.uniform(-1.0f, 2.0f);
    if (trial & 8) params.bias_ids = bias_ids.data(), params.bias_values = bias.data(), params.num_bias = 6;
    const int32_t expected = reference_pick(logits, params, trial, drafted),
                  actual = pick(logits, params, trial, drafted);
    if (actual != expected) fail(__FILE__, __LINE__, "trial %d: expected %d but received %d", trial, expected, actual);
  }
}

// Drafted tokens count as output: the verify row must pick what plain decoding picks one token later.
QSPEC_TEST(drafted_tokens_are_history) {
  Rng rng(14);
  const std::vector<float> logits = rng.normals(50);
  std::vector<int32_t> history = {1, 2, 3};
  SamplerParams params = plain(1);
  params.repetition_penalty = 1.3f, params.frequency_penalty = 0.7f, params.num_prompt = 2;
  params.history = history.data(), params.num_history = 3;
  for (int64_t position = 0; position < 200; ++position) {
    const int32_t drafting = pick(logits, params, position, {7, 7, 9});
    std::vector<int32_t> longer = {1, 2, 3, 7, 7, 9};
    SamplerParams later = params;
    later.history = longer.data(), later.num_history = 6;
    QSPEC_EXPECT(drafting == pick(logits, later, position));
  }
}

QSPEC_TEST(pipeline_order_is_bias_penalty_temperature_top_k_top_p_min_p) {
  const int32_t bias_id = 1, history[] = {0};
  const float bias = 6;
  SamplerParams params = plain(1);
  params.bias_ids = &bias_id, params.bias_values = &bias, params.num_bias = 1;
  QSPEC_EXPECT(pick({5, 0, 1}, [&] {
                 auto p = params;
                 p.top_k = 1;
                 return p;
               }()) == 1);  // bias before top-k
  SamplerParams penalty = plain(1);
  penalty.history = history, penalty.num_history = 1, penalty.repetition_penalty = 10, penalty.top_k = 1;
  QSPEC_EXPECT(pick({5, 1, -3}, penalty) == 1);  // penalty before top-k
  SamplerParams biased_penalty = params;
  biased_penalty.history = &bias_id, biased_penalty.num_history = 1, biased_penalty.repetition_penalty = 2,
  biased_penalty.temperature = 0;
  QSPEC_EXPECT(pick({4, 0, 1}, biased_penalty) == 0);  // (0 + 6) / 2 < 4: the bias is penalised too
  // Temperature before top-p: at 0.25 the first of {2, 1} has 0.98, at 1 it has 0.73.
  SamplerParams nucleus = plain(0.25f);
  nucleus.top_p = 0.9f;
  for (int position = 0; position < 300; ++position) QSPEC_EXPECT(pick({2, 1}, nucleus, position) == 0);
  nucleus.temperature = 1;
  int others = 0;
  for (int position = 0; position < 300; ++position) others += pick({2, 1}, nucleus, position);
  QSPEC_EXPECT(others > 30);
  // Top-k before top-p: of {0, 0, 0, 0} the two that stay have 1/2 each, so top-p 0.5 keeps one; before top-k it would
  // keep two.
  SamplerParams both = plain(1);
  both.top_k = 2, both.top_p = 0.5f;
  for (int position = 0; position < 100; ++position) QSPEC_EXPECT(pick({0, 0, 0, 0}, both, position) == 0);
}

// Chi-square of 100 000 draws over positions; the 99.99 % quantile of 11 degrees of freedom is 37.4.
QSPEC_TEST(draws_follow_the_softmax) {
  Rng rng(15);
  const std::vector<float> logits = rng.normals(12, 1.2f);
  for (int variant = 0; variant < 3; ++variant) {
    SamplerParams params = plain(variant == 1 ? 0.7f : 1.3f);
    params.seed = 1234 + variant, params.stream = variant;
    if (variant == 2) params.top_p = 0.9f;
    const std::vector<double> shares = reference::sampling_distribution(logits.data(), 12, params, nullptr, 0);
    std::vector<int> counts(12, 0);
    constexpr int kDraws = 100000;
    for (int position = 0; position < kDraws; ++position) ++counts[pick(logits, params, position)];
    double chi_square = 0;
    for (int id = 0; id < 12; ++id) {
      if (shares[id] == 0) QSPEC_EXPECT(counts[id] == 0);
      if (shares[id] > 0) chi_square += std::pow(counts[id] - kDraws * shares[id], 2) / (kDraws * shares[id]);
    }
    if (!(chi_square < 37.4))
      fail(__FILE__, __LINE__, "variant %d: chi-square %.1f of 11 degrees of freedom", variant, chi_square);
  }
}

QSPEC_TEST(seed_stream_and_position_each_change_the_draw) {
  Rng rng(16);
  const std::vector<float> logits = rng.normals(1000, 0.5f);
  int by_seed = 0, by_stream = 0, by_position = 0;
  for (uint32_t i = 0; i < 200; ++i) {
    SamplerParams params = plain(1), other_seed = params, other_stream = params;
    params.seed = i, other_seed.seed = i + 1, other_stream.seed = i, other_stream.stream = 1;
    const int32_t base = pick(logits, params, 9);
    QSPEC_EXPECT(base == pick(logits, params, 9));
    by_seed += base != pick(logits, other_seed, 9);
    by_stream += base != pick(logits, other_stream, 9);
    by_position += base != pick(logits, params, 10);
  }
  QSPEC_EXPECT(by_seed > 180 && by_stream > 180 && by_position > 180);
}

QSPEC_TEST(odd_logits_never_win) {
  for (int position = 0; position < 200; ++position) {
    SamplerParams params = plain(1.5f);
    QSPEC_EXPECT(pick({NAN, -INFINITY, -3, -4}, params, position) >= 2);
    QSPEC_EXPECT(pick({NAN, -INFINITY, NAN}, params, position) == 0);
    QSPEC_EXPECT(pick({1, INFINITY, 3}, params, position) == 1);
    params.top_k = 3, params.top_p = 0.95f, params.min_p = 0.01f;
    QSPEC_EXPECT(pick({NAN, -INFINITY, -3, -4}, params, position) >= 2);
    QSPEC_EXPECT(pick({1e30f, -1e30f, 3}, params, position) == 0);
  }
}

QSPEC_TEST(logprobs_are_the_log_softmax) {
  Rng rng(17);
  std::vector<float> logits = rng.normals(5000, 4);
  logits[17] = NAN, logits[18] = -INFINITY;
  double top = -INFINITY, sum = 0, lse = 0;
  for (float logit : logits) top = logit > top ? logit : top;
  for (float logit : logits) sum += logit == logit ? std::exp(logit - top) : 0;
  for (int32_t token : {0, 4999, 18, 17, 33}) {
    const double actual = token_logprob(logits.data(), 5000, token, &lse);
    const double expected = std::isnan(logits[token]) ? -INFINITY : logits[token] - top - std::log(sum);
    QSPEC_EXPECT(actual == expected || std::fabs(actual - expected) < 1e-10);
    QSPEC_EXPECT(std::fabs(lse - (top + std::log(sum))) < 1e-10);
  }
  std::vector<int32_t> ids(20);
  std::vector<float> logprobs(20);
  logits[77] = logits[3000];  // a tie
  top_logprobs(logits.data(), 5000, lse, 20, ids.data(), logprobs.data());
  std::vector<int32_t> sorted;
  for (int i = 0; i < 5000; ++i) {
    if (logits[i] == logits[i]) sorted.push_back(i);
  }
  std::stable_sort(sorted.begin(), sorted.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (int i = 0; i < 20; ++i) {
    QSPEC_EXPECT(ids[i] == sorted[i]);
    QSPEC_EXPECT(std::fabs(logprobs[i] - (logits[sorted[i]] - lse)) < 1e-5);
  }
}

QSPEC_TEST(logprobs_of_odd_rows) {
  const float infinite[] = {1, INFINITY, INFINITY, NAN};
  double lse = 0;
  QSPEC_EXPECT(std::fabs(token_logprob(infinite, 4, 1, &lse) + std::log(2.0)) < 1e-12 && std::isinf(lse));
  QSPEC_EXPECT(token_logprob(infinite, 4, 0, nullptr) == -INFINITY);
  int32_t ids[6];
  float logprobs[6];
  top_logprobs(infinite, 4, lse, 6, ids, logprobs);
  QSPEC_EXPECT(ids[0] == 1 && ids[1] == 2 && ids[2] == 0 && ids[3] == 3 && ids[4] == -1 && ids[5] == -1);
  QSPEC_EXPECT(std::fabs(logprobs[0] + std::log(2.0f)) < 1e-6f && logprobs[2] == -INFINITY && logprobs[3] == -INFINITY);
  const float nothing[] = {NAN, -INFINITY};
  QSPEC_EXPECT(token_logprob(nothing, 2, 0, &lse) == -INFINITY && lse == -INFINITY);
}

}  // namespace
}  // namespace qspec::test

QSPEC_TEST_MAIN()
