#include "emulator/fiber.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#if !defined(__x86_64__)
#error The fibers of the emulator are written for x86-64.
#endif

extern "C" void qspec_emulator_switch(void** save, void* load);

// Saves what the calling convention makes a callee keep, exchanges stacks, restores.
asm(R"(
.text
.globl qspec_emulator_switch
.type qspec_emulator_switch, @function
qspec_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size qspec_emulator_switch, .-qspec_emulator_switch
)");

namespace qspec::cuda::emulator {

namespace {
constexpr size_t kStackBytes = size_t{256} << 10;  // touched pages alone cost memory
}

Fiber::Fiber() {
  stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack_ == MAP_FAILED) std::abort();
}

Fiber::~Fiber() { munmap(stack_, kStackBytes); }

void Fiber::start(void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(stack_) + kStackBytes;
  top = top / 16 * 16;
  auto* words = reinterpret_cast<void**>(top);
  words[-1] = nullptr;                           // a return address that is never used: keeps the stack aligned at entry
  words[-2] = reinterpret_cast<void*>(entry);    // where `ret` goes
  for (int i = 3; i <= 8; ++i) words[-i] = nullptr;  // six saved registers
  own_ = words - 8;
}

void Fiber::resume() { qspec_emulator_switch(&caller_, own_); }
void Fiber::yield() { qspec_emulator_switch(&own_, caller_); }

}  // namespace qspec::cuda::emulator
