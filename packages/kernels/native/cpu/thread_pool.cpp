#include "cpu/thread_pool.h"

#include <chrono>
#include <string>
#include <system_error>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace qspec {

namespace {
using Clock = std::chrono::steady_clock;

// Longer than the gap between two ops, far shorter than anyone would notice as load.
constexpr auto kSpinTime = std::chrono::microseconds(80);
// The caller gives its core away after this: a worker may be waiting for it.
constexpr int kPausesBeforeYield = 4096;
constexpr int kPausesPerClockRead = 64;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
}  // namespace

Status ThreadPool::create(int num_threads, std::shared_ptr<ThreadPool>* out) {
  std::shared_ptr<ThreadPool> pool(new ThreadPool());
  try {
    for (int i = 1; i < num_threads; ++i) pool->workers_.emplace_back([raw = pool.get()] { raw->worker_loop(); });
  } catch (const std::system_error& error) {
    return {StatusCode::kDevice, "Expected to start " + std::to_string(num_threads) + " threads but the system refused after " +
                                     std::to_string(pool->num_threads()) + ": " + error.what() + ". Ask for fewer with `numThreads`."};
  }
  *out = std::move(pool);
  return Status::ok();
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(park_mutex_);
    is_stopping_.store(true, std::memory_order_seq_cst);
  }
  park_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_parts(int count, PartFunction function, void* context) {
  if (workers_.empty() || count <= 1) {
    for (int i = 0; i < count; ++i) run_one(function, context, {i, count});
    return;
  }
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  num_done_.store(0, std::memory_order_relaxed);
  const uint32_t epoch = current_epoch() + 1;
  claim_.store(static_cast<uint64_t>(epoch) << 32 | static_cast<uint64_t>(count) << 16, std::memory_order_seq_cst);
  if (num_parked_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard<std::mutex> lock(park_mutex_); }
    park_.notify_all();
  }
  work_on(epoch);
  for (int pauses = 0; num_done_.load(std::memory_order_acquire) < count; ++pauses) {
    if (pauses < kPausesBeforeYield) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Claims and runs parts of op `epoch` until there are none left.
void ThreadPool::work_on(uint32_t epoch) {
  uint64_t claim = claim_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(claim >> 32) == epoch) {
    const int index = static_cast<int>(claim & 0xffff), count = static_cast<int>((claim >> 16) & 0xffff);
    if (index >= count) return;
    const PartFunction function = function_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    // Success proves that op `epoch` is still the current one and cannot end before this part is counted as done.
    if (!claim_.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    run_one(function, context, {index, count});
    num_done_.fetch_add(1, std::memory_order_release);
    claim = claim_.load(std::memory_order_acquire);
  }
}

void ThreadPool::run_one(PartFunction function, void* context, Part part) noexcept {
  try {
    function(context, part);
  } catch (...) {
    has_failed_.store(true, std::memory_order_relaxed);
  }
}

void ThreadPool::worker_loop() noexcept {
  uint32_t last_epoch = 0;
  while (wait_for_work(last_epoch)) {
    last_epoch = current_epoch();
    work_on(last_epoch);
  }
}

// Returns when there is an op newer than `last_epoch`; false when the pool is being destroyed.
bool ThreadPool::wait_for_work(uint32_t last_epoch) {
  const auto deadline = Clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (current_epoch() != last_epoch) return true;
      if (is_stopping_.load(std::memory_order_relaxed)) return false;
      pause();
    }
  } while (Clock::now() < deadline);
  std::unique_lock<std::mutex> lock(park_mutex_);
  num_parked_.fetch_add(1, std::memory_order_seq_cst);
  park_.wait(lock, [&] { return current_epoch() != last_epoch || is_stopping_.load(std::memory_order_seq_cst); });
  num_parked_.fetch_sub(1, std::memory_order_relaxed);
  return !is_stopping_.load(std::memory_order_seq_cst);
}

}  // namespace qspec
