// Stackful fibers for the emulator: one for each CUDA thread, all on one operating system thread. x86-64 (System V) only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace qspec::cuda::emulator {

// A stack and the place where its code rests. `entry` must not return: it ends by switching away for the last time.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(void (*entry)());
  // Runs the fiber until it calls yield().
  void resume();
  // From inside: back to whoever resumed.
  void yield();

 private:
  void* stack_ = nullptr;
  void* own_ = nullptr;     // saved stack pointer of the fiber
  void* caller_ = nullptr;  // saved stack pointer of the one who resumed it
};

}  // namespace qspec::cuda::emulator
