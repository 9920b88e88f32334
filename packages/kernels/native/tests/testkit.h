// Test kit of the native suites: deterministic random numbers, comparison of arrays, a registry of tests, an exit code.
// No Node.
//
//   QSPEC_TEST(silu_of_zero_is_zero) { QSPEC_EXPECT(silu(0) == 0); }
//   QSPEC_TEST_MAIN()
//
// `./test_x` runs all tests, `./test_x word` those whose name contains the word. The last line is "N passed, N failed".
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace qspec::test {

// xoshiro-like quality is not needed; splitmix64 is deterministic everywhere (std:: distributions are not).
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  float uniform(float low, float high) { return low + static_cast<float>(uniform()) * (high - low); }
  // In [low, high], both included.
  int integer(int low, int high) { return low + static_cast<int>(next() % static_cast<uint64_t>(high - low + 1)); }
  float normal() {
    const double u = 1.0 - uniform(), v = uniform();
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
  }
  std::vector<float> normals(size_t count, float deviation = 1.0f) {
    std::vector<float> values(count);
    for (float& value : values) value = normal() * deviation;
    return values;
  }

 private:
  uint64_t state_;
};

struct Tolerance {
  double abs, rel;       // per element: |a - e| <= abs + rel * |e|
  double cosine = 1e-6;  // 1 - cosine of the whole array, at most
};

struct Suite {
  struct Case {
    const char* name;
    void (*body)();
  };
  std::vector<Case> cases;
  int failures_of_case = 0;
  static Suite& get() {
    static Suite suite;
    return suite;
  }
};

struct Registrar {
  Registrar(const char* name, void (*body)()) { Suite::get().cases.push_back({name, body}); }
};

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
inline void fail(const char* file, int line, const char* format, ...) {
  if (++Suite::get().failures_of_case > 5) return;  // the first few say enough
  std::fprintf(stderr, "  %s:%d: ", file, line);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

template <typename T>
double as_double(T value) {
  return static_cast<double>(value);
}

inline int class_of(double value) { return std::isnan(value) ? 1 : std::isinf(value) ? (value > 0 ? 2 : 3) : 0; }

// NaN and infinity must stand in the same places; then every element within tolerance; then the cosine of the whole.
// Returns an empty string when equal, else what is wrong, with the worst index and both values.
template <typename A, typename E>
std::string difference(const A* actual, const E* expected, size_t count, const Tolerance& tolerance) {
  char text[256];
  double worst = 0, dot = 0, actual_norm = 0, expected_norm = 0;
  size_t worst_index = 0;
  for (size_t i = 0; i < count; ++i) {
    const double a = as_double(actual[i]), e = as_double(expected[i]);
    if (class_of(a) != class_of(e)) {
      std::snprintf(text, sizeof text, "NaN/Inf at [%zu] of %zu: expected %.9g but received %.9g", i, count, e, a);
      return text;
    }
    if (class_of(e) != 0) continue;
    const double excess = std::fabs(a - e) / (tolerance.abs + tolerance.rel * std::fabs(e) + 1e-300);
    if (a != e && excess > worst) worst = excess, worst_index = i;
    dot += a * e, actual_norm += a * a, expected_norm += e * e;
  }
  if (worst > 1) {
    std::snprintf(text, sizeof text,
                  "worst at [%zu] of %zu: expected %.9g but received %.9g (%.3g x the tolerance abs %.1e rel %.1e)",
                  worst_index, count, as_double(expected[worst_index]), as_double(actual[worst_index]), worst,
                  tolerance.abs, tolerance.rel);
    return text;
  }
  if (actual_norm > 0 && expected_norm > 0) {
    const double distance = 1 - dot / std::sqrt(actual_norm) / std::sqrt(expected_norm);
    if (!(distance <= tolerance.cosine)) {
      std::snprintf(text, sizeof text, "1 - cosine = %.3g > %.3g (worst element [%zu])", distance, tolerance.cosine,
                    worst_index);
      return text;
    }
  }
  return {};
}

// Bit for bit. Returns an empty string when equal.
template <typename T>
std::string bit_difference(const T* actual, const T* expected, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0) continue;
    char text[160];
    std::snprintf(text, sizeof text, "bits differ at [%zu] of %zu: expected %.9g but received %.9g", i, count,
                  as_double(expected[i]), as_double(actual[i]));
    return text;
  }
  return {};
}

// printf into a string, for the context of a comparison.
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
inline std::string text(const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

inline int run_all(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const Suite::Case& test : Suite::get().cases) {
    if (argc > 1 && !std::strstr(test.name, argv[1])) continue;
    Suite::get().failures_of_case = 0;
    test.body();
    const int failures = Suite::get().failures_of_case;
    ++(failures ? failed : passed);
    if (failures) std::fprintf(stderr, "FAILED %s (%d failures)\n", test.name, failures);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed || passed == 0 ? 1 : 0;
}

}  // namespace qspec::test

#define QSPEC_TEST(test_name)                                                          \
  static void test_name();                                                             \
  static const ::qspec::test::Registrar test_name##_registrar(#test_name, &test_name); \
  static void test_name()

#define QSPEC_EXPECT(condition)                                                            \
  do {                                                                                     \
    if (!(condition)) ::qspec::test::fail(__FILE__, __LINE__, "expected: %s", #condition); \
  } while (0)

// Arrays of `count` elements; `context` (a std::string or literal) says which shape.
#define QSPEC_EXPECT_CLOSE(actual, expected, count, tolerance, context)                                  \
  do {                                                                                                   \
    const std::string problem_ = ::qspec::test::difference((actual), (expected), (count), (tolerance));  \
    if (!problem_.empty()) {                                                                             \
      ::qspec::test::fail(__FILE__, __LINE__, "%s: %s", std::string(context).c_str(), problem_.c_str()); \
    }                                                                                                    \
  } while (0)

#define QSPEC_EXPECT_BITS(actual, expected, count, context)                                              \
  do {                                                                                                   \
    const std::string problem_ = ::qspec::test::bit_difference((actual), (expected), (count));           \
    if (!problem_.empty()) {                                                                             \
      ::qspec::test::fail(__FILE__, __LINE__, "%s: %s", std::string(context).c_str(), problem_.c_str()); \
    }                                                                                                    \
  } while (0)

#define QSPEC_TEST_MAIN() \
  int main(int argc, char** argv) { return ::qspec::test::run_all(argc, argv); }
