// One call at a time on a session; the second gets a Status, not a race.
#pragma once
#include <atomic>

#include "qspec/status.h"

namespace qspec {

class BusyGuard {
 public:
  explicit BusyGuard(std::atomic<bool>& flag) : flag_(flag), is_first_(!flag.exchange(true)) {}
  ~BusyGuard() {
    if (is_first_) flag_.store(false);
  }
  BusyGuard(const BusyGuard&) = delete;
  BusyGuard& operator=(const BusyGuard&) = delete;
  Status status() const {
    return is_first_ ? Status::ok() : Status(StatusCode::kInternal, "Expected one call at a time on a session but another is pending: await it first.");
  }

 private:
  std::atomic<bool>& flag_;
  const bool is_first_;
};

}  // namespace qspec
