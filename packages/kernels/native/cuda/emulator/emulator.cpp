#include "emulator/emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator/fiber.h"

namespace qspec::cuda::emulator {

namespace {

constexpr int kLanes = 32;
constexpr int kPoison = 0xcd;
constexpr uint64_t kStallLimit = 4000000;  // scheduler turns without progress

[[noreturn]] void fail(const char* text) {
  std::fprintf(stderr, "emulator: %s\n", text);
  std::abort();
}

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

enum class State { kReady, kWarp, kBarrier, kDone };

struct Thread {
  Fiber fiber;
  Place place{};
  State state = State::kReady;
  const char* waiting_for = "";
  int warp = 0, lane = 0, barrier = 0;
  std::vector<Copy> open_group;
  std::deque<std::vector<Copy>> groups;
};

struct Warp {
  int first_thread = 0, arrived = 0, num_done = 0;
  void* arguments[kLanes] = {};
  void (*combine)(void* const*) = nullptr;
};

struct NamedBarrier {
  int arrived = 0;
  std::vector<Thread*> waiting;
};

struct Block {
  std::unique_ptr<uint8_t[]> memory;
  uint8_t* shared = nullptr;
  std::map<int, NamedBarrier> barriers;
};

struct Machine {
  std::vector<std::unique_ptr<Thread>> threads;  // kept between launches: their stacks are costly
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  Thread* current = nullptr;
  const std::function<void()>* body = nullptr;
  int block_threads = 0;
  int first_block = 0;
  uint64_t random = 0x9e3779b97f4a7c15ull, stalled = 0, num_run = 0;

  uint32_t next_random() {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return static_cast<uint32_t>(random >> 32);
  }
};

Machine& machine() {
  static Machine instance;
  return instance;
}

void wait(State state, const char* what) {
  Thread& thread = *machine().current;
  thread.state = state;
  thread.waiting_for = what;
  thread.fiber.yield();
}

void thread_main() {
  (*machine().body)();
  Thread& thread = *machine().current;
  thread.state = State::kDone;
  ++machine().warps[thread.warp].num_done;
  progress();
  for (;;) thread.fiber.yield();
}

// The first lane of the thread's warp that waits for the same.
int first_lane_like(const Thread& t) {
  const Warp& warp = machine().warps[t.warp];
  int lane = 0;
  while (machine().threads[warp.first_thread + lane]->waiting_for != t.waiting_for) ++lane;
  return lane;
}

void report_stall() {
  Machine& m = machine();
  std::fprintf(stderr, "emulator: nothing moves any more. Waiting threads:\n");
  std::map<std::string, int> reasons;
  for (size_t i = 0; i < m.warps.size() * kLanes; ++i) {
    const Thread& t = *m.threads[i];
    if (t.state == State::kDone) continue;
    char line[160];
    const int barrier = t.state == State::kBarrier ? t.barrier : 0;
    std::snprintf(line, sizeof line, "  block %d warp %d from lane %d on: %s %d", t.place.block, t.place.thread / kLanes, first_lane_like(t), t.waiting_for, barrier);
    ++reasons[line];
  }
  for (const auto& [line, count] : reasons) std::fprintf(stderr, "%s (%d lanes)\n", line.c_str(), count);
  fail("deadlock");
}

void run_warp(Warp& warp) {
  Machine& m = machine();
  const int rotate = static_cast<int>(m.next_random() % kLanes);
  for (int i = 0; i < kLanes; ++i) {
    Thread& thread = *m.threads[warp.first_thread + (i + rotate) % kLanes];
    if (thread.state != State::kReady) continue;
    m.current = &thread;
    thread.fiber.resume();
  }
}

void run_blocks(int first_block, int num_live, int num_blocks, int num_threads, size_t shared_bytes) {
  Machine& m = machine();
  m.first_block = first_block;
  const int total = num_live * num_threads;
  while (static_cast<int>(m.threads.size()) < total) m.threads.push_back(std::make_unique<Thread>());
  m.blocks.clear();
  m.blocks.resize(num_live);
  for (Block& block : m.blocks) {
    block.memory = std::make_unique<uint8_t[]>(shared_bytes + 1024);
    block.shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(block.memory.get()) + 1023) / 1024 * 1024);
    std::memset(block.shared, kPoison, shared_bytes);
  }
  m.warps.assign(total / kLanes, Warp{});
  for (int i = 0; i < total; ++i) {
    Thread& t = *m.threads[i];
    t.place = {i % num_threads, first_block + i / num_threads, num_blocks, num_threads};
    t.state = State::kReady, t.waiting_for = "", t.warp = i / kLanes, t.lane = i % kLanes;
    t.open_group.clear(), t.groups.clear();
    t.fiber.start(thread_main);
    if (t.lane == 0) m.warps[t.warp].first_thread = i;
  }
  std::vector<int> alive(m.warps.size());
  for (size_t i = 0; i < alive.size(); ++i) alive[i] = static_cast<int>(i);
  m.stalled = 0;
  while (!alive.empty()) {
    const size_t pick = m.next_random() % alive.size();
    Warp& warp = m.warps[alive[pick]];
    run_warp(warp);
    if (warp.num_done == kLanes) alive[pick] = alive.back(), alive.pop_back();
    if (++m.stalled > kStallLimit) report_stall();
  }
  m.num_run += static_cast<uint64_t>(total);
}

}  // namespace

void run_grid(int num_blocks, int num_threads, size_t shared_bytes, bool cooperative, const std::function<void()>& body) {
  if (num_threads % kLanes != 0) fail("blocks must be whole warps.");
  Machine& m = machine();
  m.body = &body;
  m.block_threads = num_threads;
  const int live = cooperative ? num_blocks : std::max(1, std::min(num_blocks, 2048 / num_threads));
  for (int first = 0; first < num_blocks; first += live) run_blocks(first, std::min(live, num_blocks - first), num_blocks, num_threads, shared_bytes);
}

void set_seed(uint64_t seed) { machine().random = seed * 0x9e3779b97f4a7c15ull + 1; }
uint64_t num_threads_run() { return machine().num_run; }

const Place& place() { return machine().current->place; }
uint8_t* shared_base() { return machine().blocks[machine().current->place.block - machine().first_block].shared; }

void collective(void* own, void (*combine)(void* const lanes[32]), const char* what) {
  Machine& m = machine();
  Thread& thread = *m.current;
  Warp& warp = m.warps[thread.warp];
  if (warp.arrived > 0 && warp.combine != combine) {
    std::fprintf(stderr, "emulator: a lane does `%s` while others of its warp do something else (`%s`).\n", what, m.threads[warp.first_thread]->waiting_for);
    fail("divergent warp");
  }
  warp.combine = combine;
  warp.arguments[thread.lane] = own;
  if (++warp.arrived < kLanes) return wait(State::kWarp, what);
  combine(warp.arguments);
  warp.arrived = 0;
  for (int i = 0; i < kLanes; ++i) {
    Thread& other = *m.threads[warp.first_thread + i];
    if (other.state == State::kWarp) other.state = State::kReady;
  }
  progress();
}

void named_barrier(int id, int num_threads) {
  Machine& m = machine();
  NamedBarrier& barrier = m.blocks[m.current->place.block - m.first_block].barriers[id];
  m.current->barrier = id;
  if (++barrier.arrived < num_threads) {
    barrier.waiting.push_back(m.current);
    return wait(State::kBarrier, "a barrier of the block");
  }
  for (Thread* t : barrier.waiting) t->state = State::kReady;
  barrier.waiting.clear();
  barrier.arrived = 0;
  progress();
}

void spin() {
  machine().current->waiting_for = "a spinning wait";
  machine().current->fiber.yield();
}
void progress() { machine().stalled = 0; }

void copy_async(void* shared, const void* global, size_t bytes) {
  std::memset(shared, kPoison, bytes);
  machine().current->open_group.push_back({shared, global, bytes});
}
void commit_async() {
  Thread& t = *machine().current;
  t.groups.push_back(std::move(t.open_group));
  t.open_group.clear();
}
void wait_async(int groups_in_flight) {
  Thread& t = *machine().current;
  while (static_cast<int>(t.groups.size()) > groups_in_flight) {
    for (const Copy& copy : t.groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    t.groups.pop_front();
  }
}

}  // namespace qspec::cuda::emulator
