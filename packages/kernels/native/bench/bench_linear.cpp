// Times the linear op: shape x format x rows -> microseconds, GB/s of weight bytes, share of the read bandwidth of this
// machine (measured first by a plain read loop over the same threads), GFLOP/s and share of the fma peak (measured
// too).
//
//   bench_linear [threads = 1] [rows = 1,2,4,8,16,64,256] [isa = best] [word in the shape's name]
//
// "cold" runs walk copies of the weight that together exceed the last-level cache, as a model does; "hot" runs repeat
// one weight. A figure is the median of repeated runs.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <thread>

#include "../cpu/linear.h"
#include "../tests/random_weight.h"

using namespace qspec;
using namespace qspec::test;

namespace {

using Clock = std::chrono::steady_clock;

// One thread is timed by its own processor time, which other processes of a shared machine disturb less than the wall
// clock.
double now(int threads) {
  if (threads > 1) return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// `count` threads that run one function a round and meet at the end of it.
class Team {
 public:
  explicit Team(int count) : count_(count) {
    for (int i = 1; i < count; ++i) threads_.emplace_back([this, i] { work(i); });
  }
  ~Team() {
    body_ = nullptr;
    round_.fetch_add(1);
    for (std::thread& thread : threads_) thread.join();
  }
  // Seconds of one round.
  double run(const std::function<void(Part)>& body) {
    body_ = &body;
    done_.store(0);
    const double begin = now(count_);
    round_.fetch_add(1);
    body({0, count_});
    while (done_.load() != count_ - 1) {
    }
    return now(count_) - begin;
  }
  int count() const { return count_; }

 private:
  void work(int index) {
    for (uint64_t seen = 0;; ++seen) {
      while (round_.load() == seen) {
      }
      if (body_ == nullptr) return;
      (*body_)({index, count_});
      done_.fetch_add(1);
    }
  }
  int count_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int> done_{0};
  const std::function<void(Part)>* body_ = nullptr;
  std::vector<std::thread> threads_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

#if defined(__x86_64__)
#define QSPEC_BENCH_TARGET __attribute__((target("avx512f")))
#include <immintrin.h>
QSPEC_BENCH_TARGET void read_all(const char* begin, const char* end) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (; begin + 256 <= end; begin += 256) {
    a = _mm512_xor_si512(a, _mm512_loadu_si512(begin)), b = _mm512_xor_si512(b, _mm512_loadu_si512(begin + 64));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(begin + 128)), d = _mm512_xor_si512(d, _mm512_loadu_si512(begin + 192));
  }
  const __m512i all = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  asm volatile("" ::"x"(all));
}
QSPEC_BENCH_TARGET double fma_loop(int64_t iterations) {
  __m512 acc[16];
  for (auto& a : acc) a = _mm512_set1_ps(1.0f);
  __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  asm volatile("" : "+x"(x), "+x"(y));
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (auto& a : acc) a = _mm512_fmadd_ps(a, x, y);
  }
  for (auto& a : acc) asm volatile("" ::"x"(a));
  return static_cast<double>(iterations) * 16 * 16 * 2;
}
#endif

struct Machine {
  double read_bytes_per_second = 0, flops = 0;
};

Machine measure(Team& team) {
  Machine machine;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512f")) return machine;
  const size_t bytes = size_t{512} << 20;
  char* memory = static_cast<char*>(std::aligned_alloc(2 << 20, bytes));
  std::memset(memory, 1, bytes);
  std::vector<double> seconds, rates;
  for (int i = 0; i < 9; ++i) {
    seconds.push_back(team.run([&](Part part) {
      read_all(memory + bytes / part.count * part.index, memory + bytes / part.count * (part.index + 1));
    }));
    double flops = 0;
    const double time = team.run([&](Part part) {
      const double mine = fma_loop(1 << 20);
      if (part.index == 0) flops = mine * part.count;
    });
    rates.push_back(flops / time);
  }
  machine = {static_cast<double>(bytes) / median(seconds), median(rates)};
  std::free(memory);
#endif
  return machine;
}

struct Shape {
  const char* name;
  int64_t n, k;
};
struct Format {
  const char* name;
  WeightSpec spec;
  Plane plane;
  int bits;  // of the activations; 0 = float
};

struct Isa {
  const char* name;
  void (*linear)(const LinearParams&, Part);
};

struct Activations {
  std::vector<float> values, scales;
  std::vector<int8_t> codes;
  std::vector<int32_t> sums;
  QuantizedRows quantized;
  Activations(int64_t rows, int64_t k, int bits, int group_size) {
    Rng rng(1);
    if (bits == 0) {
      values = rng.normals(rows * k);
      return;
    }
    const int qmax = (1 << (bits - 1)) - 1;
    for (int64_t i = 0; i < rows * k; ++i) codes.push_back(static_cast<int8_t>(rng.integer(-qmax, qmax)));
    scales.assign(rows * k / group_size, 0.01f);
    sums.assign(rows * k / group_size, 0);
    quantized = {codes.data(), scales.data(), sums.data(), bits, group_size, false};
  }
};

size_t bytes_read(const ResidentWeight& weight, Plane plane) {
  const PackedWeight& w = weight.view();
  return weight.bytes() -
         (w.kind == WeightKind::kNested8 && plane == Plane::kHi ? static_cast<size_t>(w.num_tiles() * w.k * 8) : 0);
}

void bench(Team& team, const Machine& machine, const Isa& isa, const Shape& shape, const Format& format,
           const std::vector<int64_t>& row_counts) {
  constexpr size_t kCold = size_t{128} << 20;
  const RandomWeight random(format.spec, shape.n, shape.k, 1);
  std::vector<std::unique_ptr<ResidentWeight>> copies;
  do copies.push_back(pack({random.source()}));
  while (copies.size() * bytes_read(*copies[0], format.plane) < kCold);
  const double bytes = static_cast<double>(bytes_read(*copies[0], format.plane));
  for (int64_t rows : row_counts) {
    Activations x(rows, shape.k, format.bits, format.spec.group_size);
    std::vector<float> out(rows * shape.n);
    double seconds[2];
    for (bool hot : {false, true}) {
      std::vector<double> times;
      const auto begin = Clock::now();
      for (size_t i = 0; i < 5 || (std::chrono::duration<double>(Clock::now() - begin).count() < 0.12 && i < 4000);
           ++i) {
        LinearParams p{};
        p.weight = &copies[hot ? 0 : i % copies.size()]->view();
        p.plane = format.plane;
        p.input = format.bits ? nullptr : x.values.data();
        p.quantized_input = format.bits ? &x.quantized : nullptr;
        p.output = out.data(), p.rows = rows, p.output_stride = shape.n;
        times.push_back(team.run([&](Part part) { isa.linear(p, part); }));
      }
      seconds[hot] = median(times);
    }
    const double flop = 2.0 * static_cast<double>(rows * shape.n * shape.k);
    std::printf(
        "%-16s %-10s %4lld | %9.1f us %6.2f GB/s %4.0f%% of read | hot %9.1f us %6.2f GB/s %7.1f GFLOP/s %4.0f%% of "
        "fma peak\n",
        shape.name, format.name, (long long)rows, seconds[0] * 1e6, bytes / seconds[0] * 1e-9,
        100 * bytes / seconds[0] / machine.read_bytes_per_second, seconds[1] * 1e6, bytes / seconds[1] * 1e-9,
        flop / seconds[1] * 1e-9, 100 * flop / seconds[1] / machine.flops);
    std::fflush(stdout);
  }
}

Isa choose_isa(const std::string& wanted) {
  const Isa all[] = {{"avx512vnni", cpu::linear_avx512vnni},
                     {"avx512", cpu::linear_avx512},
                     {"avx2", cpu::linear_avx2},
                     {"generic", cpu::linear_generic}};
  for (const Isa& isa : all) {
    if (wanted == isa.name) return isa;
  }
  return __builtin_cpu_supports("avx512vnni") ? all[0]
         : __builtin_cpu_supports("avx512bw") ? all[1]
         : __builtin_cpu_supports("avx2")     ? all[2]
                                              : all[3];
}

std::vector<int64_t> parse_rows(std::string list) {
  std::vector<int64_t> rows;
  for (size_t at = 0; at < list.size();
       at = list.find(',', at) == std::string::npos ? list.size() : list.find(',', at) + 1)
    rows.push_back(std::atoll(list.c_str() + at));
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const std::vector<int64_t> rows = parse_rows(argc > 2 ? argv[2] : "1,2,4,8,16,64,256");
  const Isa isa = choose_isa(argc > 3 ? argv[3] : "best");
  const char* word = argc > 4 ? argv[4] : "";
  const char* format_word = argc > 5 ? argv[5] : "";
  Team team(threads < 1 ? 1 : threads);
  const Machine machine = measure(team);
  std::printf("%d threads, %s; plain read %.2f GB/s, fma peak %.1f GFLOP/s\n", team.count(), isa.name,
              machine.read_bytes_per_second * 1e-9, machine.flops * 1e-9);
  const Shape shapes[] = {{"tally qkv", 768, 384},          {"tally down", 384, 1024},
                          {"smollm2 gate_up", 3072, 576},   {"smollm2 down", 576, 1536},
                          {"smollm2 head", 49152, 576},     {"llama1b qkv", 3072, 2048},
                          {"llama1b gate_up", 16384, 2048}, {"llama1b down", 2048, 8192}};
  const Format formats[] = {{"W4A16", int4_spec(32), Plane::kFull, 0},
                            {"W8A16", nested_spec(32, 12), Plane::kFull, 0},
                            {"W4A8", nested_spec(32, 12), Plane::kHi, 8},
                            {"W8A8", nested_spec(32, 12), Plane::kFull, 8},
                            {"bf16", dense_spec(DenseType::kBf16), Plane::kFull, 0},
                            {"f32", dense_spec(DenseType::kF32), Plane::kFull, 0}};
  for (const Shape& shape : shapes) {
    if (!std::strstr(shape.name, word)) continue;
    for (const Format& format : formats) {
      if (std::strstr(format.name, format_word)) bench(team, machine, isa, shape, format, rows);
    }
  }
  return 0;
}
