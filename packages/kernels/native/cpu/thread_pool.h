// A team of threads that runs one op at a time: parts are claimed, done, and the caller returns when the last one is finished.
//
// The caller works too, so a pool of N has N - 1 workers. Workers spin for a moment after an op, since the next one of a forward
// pass follows within microseconds, then park: an idle pool uses no processor time. A worker that is late, because the system gave
// its core to someone else, holds nobody up: whoever is there claims its part.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "qspec/params.h"
#include "qspec/status.h"

namespace qspec {

class ThreadPool {
 public:
  // `num_threads` >= 1. Fails with kDevice when the system refuses a thread.
  static Status create(int num_threads, std::shared_ptr<ThreadPool>* out);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  static constexpr int kMaxParts = 0xffff;

  // Runs body(Part{0 … count-1, count}), each part once, on any thread; returns when all are done. The caller holds `use()`.
  // An exception in a part (out of memory) is kept for take_failure(); the other parts still run.
  template <typename Body>
  void run(int count, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_parts(count, [](void* context, Part part) { (*static_cast<Plain*>(context))(part); }, &body);
  }

  // True once after a part threw.
  bool take_failure() { return has_failed_.exchange(false, std::memory_order_relaxed); }

  // Sessions share a pool: one of them runs at a time.
  std::unique_lock<std::mutex> use() { return std::unique_lock<std::mutex>(owner_); }

 private:
  using PartFunction = void (*)(void* context, Part part);

  ThreadPool() = default;
  void run_parts(int count, PartFunction function, void* context);
  void work_on(uint32_t epoch);
  void run_one(PartFunction function, void* context, Part part) noexcept;
  void worker_loop() noexcept;
  bool wait_for_work(uint32_t last_epoch);
  uint32_t current_epoch() const { return static_cast<uint32_t>(claim_.load(std::memory_order_seq_cst) >> 32); }

  // epoch (32 bits) | number of parts (16) | next part to claim (16). All in one word: a claim succeeds only while its op has parts
  // left, so a late worker can never take a part of one op with the fields of another.
  alignas(64) std::atomic<uint64_t> claim_{0};
  std::atomic<PartFunction> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  alignas(64) std::atomic<int> num_done_{0};
  alignas(64) std::atomic<int> num_parked_{0};
  std::atomic<bool> is_stopping_{false};
  std::atomic<bool> has_failed_{false};
  std::mutex park_mutex_;
  std::condition_variable park_;
  std::mutex owner_;
  std::vector<std::thread> workers_;
};

}  // namespace qspec
