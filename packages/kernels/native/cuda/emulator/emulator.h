// Runs the CUDA kernels of this folder on the CPU, thread by thread, so that their logic is tested where there is no GPU.
//
// Every CUDA thread is a fiber; warps are scheduled in random order and asynchronous copies land late (until then their destination holds
// poison), so that a missing wait or barrier shows. What is not modelled: speed, memory order between threads, bank conflicts.
// The primitives below are what common/primitives.cuh forwards to when it isn't compiled by nvcc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace qspec::cuda::emulator {

// Runs `body` once for every thread of `num_blocks` blocks of `num_threads`. All blocks live at once (a grid barrier works) when
// `cooperative`, else some at a time. Aborts with a report when nothing moves any more. Blocking.
void run_grid(int num_blocks, int num_threads, size_t shared_bytes, bool cooperative, const std::function<void()>& body);
// Seed of the scheduler's order, for tests that try several.
void set_seed(uint64_t seed);
// Threads that ran so far in any kernel: tests check that something ran at all.
uint64_t num_threads_run();

// The calling thread's place.
struct Place {
  int thread, block, num_blocks, num_threads;
};
const Place& place();
uint8_t* shared_base();

// Warp-wide exchange: every lane gives a pointer to its own struct; when all 32 came, `combine` sees all of them.
void collective(void* own, void (*combine)(void* const lanes[32]), const char* what);
void named_barrier(int id, int num_threads);
void spin();  // nothing to do now: others run first
void progress();  // something changed that a spinning thread may wait for

void copy_async(void* shared, const void* global, size_t bytes);
void commit_async();
void wait_async(int groups_in_flight);

}  // namespace qspec::cuda::emulator
