// The sampler on the device. Scores are doubles computed as on the CPU, so a draw depends on nothing but (logits, params, history, position):
// no sum here depends on the order of threads (integers, maxima, and one thread's own arithmetic alone).
//
//   sample_plain    greedy, temperature, min-p: a row's vocabulary is shared by kSampleChunks blocks; the last one finishes
//   sample_general  bias, penalties, top-k, top-p: one block a row; top-k and top-p by radix descent over (logit, id) keys, weights in
//                   fixed point
#pragma once
#include "common/primitives.cuh"
#include "sampling/sample_params.h"

namespace qspec::cuda {

// Philox4x32-10 (Salmon et al. 2011).
struct PhiloxBlock {
  uint32_t word[4];
};
QSPEC_DEVICE PhiloxBlock philox(uint32_t block, uint32_t position, uint32_t seed, uint32_t stream) {
  uint32_t c0 = block, c1 = position, c2 = 0, c3 = 0, k0 = seed, k1 = stream;
  for (int round = 0; round < 10; ++round) {
    const uint32_t a_high = multiply_high(0xD2511F53u, c0), a_low = 0xD2511F53u * c0;
    const uint32_t b_high = multiply_high(0xCD9E8D57u, c2), b_low = 0xCD9E8D57u * c2;
    c0 = b_high ^ c1 ^ k0, c1 = b_low, c2 = a_high ^ c3 ^ k1, c3 = a_low;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}
// -log(-log(u)), u = (word + 1/2) / 2^32.
QSPEC_DEVICE double gumbel(uint32_t word) { return -log(-log((word + 0.5) * 0x1p-32)); }

// NaN counts as -infinity.
QSPEC_DEVICE float known_logit(float x) { return is_nan(x) ? -INFINITY : x; }

// The higher score; ties go to the lower id. Ids below zero are nobody.
QSPEC_DEVICE SampleBest better(const SampleBest& a, const SampleBest& b) {
  if (a.id < 0) return b;
  if (b.id < 0) return a;
  return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}
QSPEC_DEVICE SampleBest warp_best(SampleBest best) {
  for (int mask = 16; mask > 0; mask /= 2) {
    SampleBest other;
    other.score = shuffle_xor(best.score, mask);
    other.id = shuffle_xor(best.id, mask);
    other.logit = shuffle_xor(best.logit, mask);
    best = better(best, other);
  }
  return best;
}
// Over the block; every thread gets it. `shared`: one a warp.
QSPEC_DEVICE SampleBest block_best(SampleBest best, SampleBest* shared, int num_threads) {
  best = warp_best(best);
  named_barrier(1, num_threads);
  if (lane_index() == 0) shared[thread_index() / kWarp] = best;
  named_barrier(1, num_threads);
  best = shared[0];
  for (int w = 1; w < num_threads / kWarp; ++w) best = better(best, shared[w]);
  return best;
}

// Greedy rows: the logit is the score.
QSPEC_DEVICE double score_of(const DeviceSampler& s, float logit, int id, const PhiloxBlock& words) {
  if (!(s.temperature > 0)) return logit;
  return static_cast<double>(logit) / s.temperature + gumbel(words.word[id & 3]);
}

// Largest logit, lowest id among equals; id 0 where nothing is left.
QSPEC_DEVICE SampleBest largest_logit(const float* logits, int begin, int end, int num_threads) {
  SampleBest best{-INFINITY, -1, -INFINITY};
  for (int id = begin + thread_index(); id < end; id += num_threads) {
    const float logit = known_logit(load_l2(logits + id));
    best = better(best, SampleBest{logit, id, logit});
  }
  return best;
}

// ---- Rows that need one pass (two for min-p) ------------------------------------------------------------------------------------------------

QSPEC_DEVICE SampleBest draw_chunk(const DeviceSampler& s, const float* logits, int position, int begin, int end, double least) {
  SampleBest best{-INFINITY, -1, -INFINITY};
  for (int base = begin + 4 * thread_index(); base < end; base += 4 * kSampleThreads) {
    PhiloxBlock words{};
    if (s.temperature > 0) words = philox(static_cast<uint32_t>(base / 4), static_cast<uint32_t>(position), s.seed, s.stream);
    for (int id = base; id < base + 4 && id < end; ++id) {
      const float logit = known_logit(load_l2(logits + id));
      if (static_cast<double>(logit) < least || logit == -INFINITY) continue;
      // +infinity wins outright, as it does without noise.
      const double score = is_finite(logit) ? score_of(s, logit, id, words) : static_cast<double>(logit);
      best = better(best, SampleBest{score, id, logit});
    }
  }
  return best;
}

QSPEC_KERNEL(kSampleThreads, 1) sample_plain_kernel(const QSPEC_GRID_CONSTANT SampleParams p) {
  auto* shared = reinterpret_cast<SampleBest*>(shared_memory());
  int* flag = reinterpret_cast<int*>(shared + kSampleThreads / kWarp);
  wait_for_previous_kernel();
  const SampleBatch& batch = *p.batch;
  const int row_index = block_index() / kSampleChunks, chunk = block_index() % kSampleChunks;
  if (row_index >= batch.num_rows) return;
  const SampleRow row = batch.rows[row_index];
  if (row.is_general) return;
  const DeviceSampler s = batch.samplers[row.sampler];
  const float* logits = p.logits + static_cast<int64_t>(row_index) * p.vocab;
  double least = -INFINITY;
  if (s.temperature > 0 && s.min_p > 0) {
    const SampleBest top = block_best(largest_logit(logits, 0, p.vocab, kSampleThreads), shared, kSampleThreads);
    least = top.logit + log(static_cast<double>(s.min_p)) * s.temperature;
  }
  const int share = (p.vocab + 4 * kSampleChunks - 1) / (4 * kSampleChunks) * 4, begin = chunk * share;
  const int end = begin + share < p.vocab ? begin + share : p.vocab;
  const SampleBest best = block_best(draw_chunk(s, logits, row.position, begin, end, least), shared, kSampleThreads);
  if (thread_index() == 0) {
    SampleBest* place = p.workspace.best + row_index * kSampleChunks;
    place[chunk] = best;
    *flag = count_up(p.workspace.arrivals + row_index) == kSampleChunks - 1;
    if (*flag) {
      p.workspace.arrivals[row_index] = 0;
      SampleBest all{-INFINITY, -1, -INFINITY};
      for (int i = 0; i < kSampleChunks; ++i) {
        const volatile SampleBest* v = place + i;
        all = better(all, SampleBest{v->score, v->id, v->logit});
      }
      batch.tokens[row.destination] = all.id < 0 ? 0 : all.id;
    }
  }
}

// ---- Rows that need more ---------------------------------------------------------------------------------------------------------------

// Descending order of (logit, -id) as an ascending integer: larger keys are more likely.
QSPEC_DEVICE uint32_t ordered_bits(float x) {
  const uint32_t bits = bits_of_float(x == 0 ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
QSPEC_DEVICE uint64_t key_of(float logit, int id) { return static_cast<uint64_t>(ordered_bits(logit)) << 32 | ~static_cast<uint32_t>(id); }

constexpr int kRadixBits = 8, kRadix = 1 << kRadixBits;

struct GeneralShared {
  SampleBest best[kGeneralThreads / kWarp];
  unsigned long long mass[kRadix];
  unsigned long long total, reached;
  uint64_t prefix;
  int is_found;
};

QSPEC_DEVICE void general_sync() { named_barrier(1, kGeneralThreads); }

// Weight of a logit in fixed point: exp((logit - top) / temperature) · 2^40. Up to 2^22 of them fit.
QSPEC_DEVICE unsigned long long fixed_weight(const DeviceSampler& s, float logit, float top) {
  return static_cast<unsigned long long>(exp((static_cast<double>(logit) - top) / s.temperature) * 0x1p40);
}

// The least key of the most likely ids whose masses (1 each, or weights) reach `target`, among ids with keys >= `floor`. Radix descent: which
// byte of the key does the target fall into, from the top byte down.
template <bool by_weight>
QSPEC_DEVICE uint64_t descend(const DeviceSampler& s, const float* logits, int vocab, float top, uint64_t floor, unsigned long long target,
                              GeneralShared& shared) {
  uint64_t prefix = 0;
  unsigned long long reached = 0;
  for (int shift = 64 - kRadixBits; shift >= 0; shift -= kRadixBits) {
    for (int i = thread_index(); i < kRadix; i += kGeneralThreads) shared.mass[i] = 0;
    general_sync();
    for (int id = thread_index(); id < vocab; id += kGeneralThreads) {
      const float logit = load_l2(logits + id);
      const uint64_t key = key_of(logit, id);
      if (logit == -INFINITY || key < floor) continue;
      if (shift + kRadixBits < 64 && key >> (shift + kRadixBits) != prefix >> (shift + kRadixBits)) continue;
      atomic_add(shared.mass + (key >> shift & (kRadix - 1)), by_weight ? fixed_weight(s, logit, top) : 1ull);
    }
    general_sync();
    if (thread_index() == 0) {
      unsigned long long sum = reached;
      int bin = kRadix - 1, last = -1;
      for (; bin >= 0; --bin) {
        if (shared.mass[bin] > 0) last = bin;
        if (sum + shared.mass[bin] >= target && shared.mass[bin] > 0) break;
        sum += shared.mass[bin];
      }
      if (bin < 0) {  // all of them don't reach it: the least likely there is
        bin = last < 0 ? 0 : last;
        sum -= shared.mass[bin];
      }
      shared.reached = sum;
      shared.prefix = prefix | static_cast<uint64_t>(bin) << shift;
    }
    general_sync();
    prefix = shared.prefix, reached = shared.reached;
    general_sync();
  }
  return prefix;
}

QSPEC_DEVICE float penalized(float logit, const DeviceSampler& s, int num_outputs) {
  double value = logit;
  value = value > 0 ? value / s.repetition_penalty : value * s.repetition_penalty;
  if (num_outputs > 0) value -= s.presence_penalty + static_cast<double>(s.frequency_penalty) * num_outputs;
  return static_cast<float>(value);
}

// Logits with bias and penalties into `out`. A count's bit 0: the token occurred; the rest: 2 for each occurrence in the output.
QSPEC_DEVICE void adjust(const SampleBatch& batch, const SampleRow& row, const DeviceSampler& s, const float* logits, int vocab, float* out, int* counts) {
  for (int id = thread_index(); id < vocab; id += kGeneralThreads) out[id] = load_l2(logits + id);
  general_sync();
  for (int i = thread_index(); i < s.num_bias; i += kGeneralThreads) {
    const int id = batch.bias_ids[s.bias_offset + i];
    if (id >= 0 && id < vocab) out[id] += batch.bias_values[s.bias_offset + i];
  }
  general_sync();
  if (s.repetition_penalty == 1 && s.presence_penalty == 0 && s.frequency_penalty == 0) return;
  const int total = s.num_history + row.num_drafted;
  const auto token = [&](int i) { return i < s.num_history ? batch.history[s.history_offset + i] : load_l2(batch.tokens + row.drafted + i - s.num_history); };
  for (int i = thread_index(); i < total; i += kGeneralThreads) {
    const int id = token(i);
    if (id < 0 || id >= vocab) continue;
    atomic_or(counts + id, 1);
    if (i >= s.num_prompt) atomic_add(counts + id, 2);
  }
  general_sync();
  for (int i = thread_index(); i < total; i += kGeneralThreads) {
    const int id = token(i);
    if (id < 0 || id >= vocab) continue;
    const int count = atomic_exchange(counts + id, 0);
    if (count != 0) out[id] = penalized(out[id], s, count / 2);
  }
  general_sync();
}

QSPEC_DEVICE int sample_general(const SampleBatch& batch, const SampleRow& row, const DeviceSampler& s, const float* logits, int vocab, float* adjusted,
                                int* counts, GeneralShared& shared) {
  adjust(batch, row, s, logits, vocab, adjusted, counts);
  for (int id = thread_index(); id < vocab; id += kGeneralThreads) adjusted[id] = known_logit(adjusted[id]);
  general_sync();
  const SampleBest top = block_best(largest_logit(adjusted, 0, vocab, kGeneralThreads), shared.best, kGeneralThreads);
  if (!(s.temperature > 0) || !is_finite(top.logit)) return top.logit == -INFINITY ? 0 : top.id;
  uint64_t floor = 0;
  if (s.top_k > 0 && s.top_k < vocab) floor = descend<false>(s, adjusted, vocab, top.logit, 0, static_cast<unsigned long long>(s.top_k), shared);
  if (s.top_p < 1) {
    if (thread_index() == 0) shared.total = 0;
    general_sync();
    unsigned long long mass = 0;
    for (int id = thread_index(); id < vocab; id += kGeneralThreads)
      if (adjusted[id] != -INFINITY && key_of(adjusted[id], id) >= floor) mass += fixed_weight(s, adjusted[id], top.logit);
    atomic_add(&shared.total, mass);
    general_sync();
    const auto target = static_cast<unsigned long long>(ceil(static_cast<double>(s.top_p) * static_cast<double>(shared.total)));
    floor = descend<true>(s, adjusted, vocab, top.logit, floor, target > 0 ? target : 1, shared);
  }
  const double least = s.min_p > 0 ? top.logit + log(static_cast<double>(s.min_p)) * s.temperature : -INFINITY;
  SampleBest best{-INFINITY, -1, -INFINITY};
  for (int id = thread_index(); id < vocab; id += kGeneralThreads) {
    const float logit = adjusted[id];
    if (logit == -INFINITY || key_of(logit, id) < floor || static_cast<double>(logit) < least) continue;
    const PhiloxBlock words = philox(static_cast<uint32_t>(id / 4), static_cast<uint32_t>(row.position), s.seed, s.stream);
    best = better(best, SampleBest{score_of(s, logit, id, words), id, logit});
  }
  best = block_best(best, shared.best, kGeneralThreads);
  return best.id < 0 ? top.id : best.id;
}

QSPEC_KERNEL(kGeneralThreads, 1) sample_general_kernel(const QSPEC_GRID_CONSTANT SampleParams p) {
  auto& shared = *reinterpret_cast<GeneralShared*>(shared_memory());
  const SampleBatch& batch = *p.batch;
  const int block = block_index();
  for (int i = block; i < batch.num_general; i += grid_blocks()) {
    const int index = batch.general_rows[i];
    const SampleRow row = batch.rows[index];
    const int id = sample_general(batch, row, batch.samplers[row.sampler], p.logits + static_cast<int64_t>(index) * p.vocab, p.vocab,
                                  p.workspace.adjusted + static_cast<int64_t>(block) * p.vocab, p.workspace.counts + static_cast<int64_t>(block) * p.vocab, shared);
    if (thread_index() == 0) batch.tokens[row.destination] = id;
    general_sync();
  }
}

}  // namespace qspec::cuda
