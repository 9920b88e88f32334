// Where a session's time went, by op kind; the entry after the last op kind is sampling.
#pragma once
#include <chrono>
#include <cstdint>

#include "session/program.h"

namespace qspec {

struct Profile {
  static constexpr int kSample = kNumOpKinds;
  struct Entry {
    int64_t calls = 0;
    int64_t nanoseconds = 0;
  };
  bool is_on = false;
  Entry entries[kNumOpKinds + 1];

  void add(int index, std::chrono::steady_clock::time_point start) {
    ++entries[index].calls;
    entries[index].nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  }
};

}  // namespace qspec
