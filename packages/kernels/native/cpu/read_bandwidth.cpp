#include "cpu/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>

namespace qspec::cpu {

namespace {

constexpr int kPasses = 9;
constexpr size_t kWordsAStep = 64;  // independent sums, so that loads and not adds set the pace

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t sum_words(const uint64_t* words, size_t count) {
  uint64_t sums[kWordsAStep] = {};
  for (size_t i = 0; i + kWordsAStep <= count; i += kWordsAStep) {
    for (size_t j = 0; j < kWordsAStep; ++j) sums[j] += words[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

Status measure_read_bandwidth(ThreadPool& pool, size_t bytes, double* bytes_per_second) {
  const size_t count = bytes / sizeof(uint64_t);
  const std::unique_ptr<uint64_t[]> words(new (std::nothrow) uint64_t[count]);
  if (!words) return {StatusCode::kOutOfMemory, "Expected " + std::to_string(bytes) + " bytes to measure the read bandwidth but the system has fewer."};
  const auto lock = pool.use();
  std::atomic<uint64_t> sink{0};
  const auto pass = [&](auto&& body) {
    pool.run(pool.num_threads(), [&](Part part) { body(count * part.index / part.count, count * (part.index + 1) / part.count); });
  };
  pass([&](size_t begin, size_t end) {  // every thread writes its own share first, so pages lie where they are read
    for (size_t i = begin; i < end; ++i) words[i] = i;
  });
  double rates[kPasses];
  for (double& rate : rates) {
    const auto start = std::chrono::steady_clock::now();
    pass([&](size_t begin, size_t end) { sink += sum_words(words.get() + begin, end - begin); });
    rate = static_cast<double>(bytes) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(rates, rates + kPasses);
  *bytes_per_second = sink.load() == 0 ? 0 : rates[kPasses / 2];
  return Status::ok();
}

}  // namespace qspec::cpu
