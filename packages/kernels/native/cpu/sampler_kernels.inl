// The sampler's passes over the vocabulary (row_ops.h) over the vector wrapper of one instruction set.
#include "row_ops.h"

namespace qspec::cpu::QSPEC_ISA {

namespace {

// Blocks of 4 vectors: the running maximum is compared once a block, and only a block that beats it is looked at again.
int32_t argmax_row(const float* logits, int64_t vocab) {
  constexpr int kBlock = 4 * kLanes;
  float best = -INFINITY;
  int64_t best_index = 0, i = 0;
  const auto look = [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      if (logits[j] > best) best = logits[j], best_index = j;
    }
  };
  for (; i + kBlock <= vocab; i += kBlock) {
    const F low = splat(-INFINITY);  // max takes its second argument when the first is NaN
    F top = max(load(logits + i), low);
    for (int j = 1; j < 4; ++j) top = max(load(logits + i + j * kLanes), top);
    if (first(max_lanes(top)) > best) look(i, i + kBlock);
  }
  look(i, vocab);
  return static_cast<int32_t>(best_index);
}

double sum_of_exps(const float* logits, int64_t vocab, float top, float inverse_temperature) {
  const auto exp_of = [&](F logit) {
    const F x = mul(sub(logit, splat(top)), splat(inverse_temperature));
    return exp(max(x, splat(-INFINITY)));  // max takes its second argument when the first is NaN
  };
  double sum = 0;
  int64_t i = 0;
  while (i + kLanes <= vocab) {
    F part = splat(0.0f);
    for (int j = 0; j < 32 && i + kLanes <= vocab; ++j, i += kLanes) part = add(part, exp_of(load(logits + i)));
    sum += first(sum_lanes(part));
  }
  if (i < vocab) {
    float lanes[kLanes];
    const int rest = static_cast<int>(vocab - i);
    store(lanes, exp_of(as_float(load_i_first(logits + i, rest))));
    for (int j = 0; j < rest; ++j) sum += lanes[j];
  }
  return sum;
}

// Philox4x32-10 of kLanes consecutive blocks: words[4 · lane + j] is word j of block first_block + lane.
void random_words(uint32_t first_block, const DrawBound& bound, uint32_t* words) {
  I c0 = add_i(splat_i(static_cast<int32_t>(first_block)), lane_index()),
    c1 = splat_i(static_cast<int32_t>(bound.position));
  I c2 = splat_i(0), c3 = splat_i(0);
  uint32_t k0 = bound.key[0], k1 = bound.key[1];
  for (int round = 0; round < 10; ++round) {
    I low0, high0, low2, high2;
    mul_wide(c0, 0xD2511F53u, low0, high0);
    mul_wide(c2, 0xCD9E8D57u, low2, high2);
    c0 = xor_i(xor_i(high2, c1), splat_i(static_cast<int32_t>(k0)));
    c1 = low2;
    c2 = xor_i(xor_i(high0, c3), splat_i(static_cast<int32_t>(k1)));
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  uint32_t lanes[4][kLanes];
  store_i(lanes[0], c0), store_i(lanes[1], c1), store_i(lanes[2], c2), store_i(lanes[3], c3);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int j = 0; j < 4; ++j) words[4 * lane + j] = lanes[j][lane];
  }
}

// score + g >= best needs, as -log(u) >= 1 - u, that 1 - u <= e^(score - best). 1 - u is (2^32 - word - 1/2) / 2^32.
int possible_winners(const float* logits, int32_t first_id, const DrawBound& bound, int32_t* ids, uint32_t* words) {
  uint32_t drawn[kDrawChunk];
  for (int block = 0; block < kDrawChunk / 4; block += kLanes)
    random_words(static_cast<uint32_t>(first_id / 4 + block), bound, drawn + 4 * block);
  int count = 0;
  for (int i = 0; i < kDrawChunk; i += kLanes) {
    const F behind = fma(load(logits + i), splat(bound.inverse_temperature), splat(bound.slack - bound.best));
    // The upper 24 bits are exact as a float, and cutting the others off makes 1 - u smaller: the safe side.
    const I complement = shift_right_zero<8>(xor_i(load_i(drawn + i), splat_i(-1)));
    for (uint32_t mask = at_least(exp(behind), mul(to_float(complement), splat(0x1p-24f))); mask != 0;
         mask &= mask - 1) {
      const int j = i + __builtin_ctz(mask);
      ids[count] = first_id + j;
      words[count++] = drawn[j];
    }
  }
  return count;
}

}  // namespace

extern const SamplerKernels kSamplerKernels = {argmax_row, sum_of_exps, possible_winners};

}  // namespace qspec::cpu::QSPEC_ISA
