// Aligned memory of a session. Zeroed, and touched by nobody before it is used: the system gives pages on first write.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace qspec {

constexpr size_t kAlignment = 64;

class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() { std::free(base_); }

  // False when there is not enough.
  bool allocate(size_t bytes) {
    std::free(base_);
    base_ = bytes > SIZE_MAX - kAlignment ? nullptr : std::calloc(1, bytes + kAlignment);
    bytes_ = base_ ? bytes : 0;
    return base_ != nullptr;
  }
  char* data() const { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base_) + kAlignment - 1) / kAlignment * kAlignment); }
  size_t bytes() const { return bytes_; }

 private:
  void* base_ = nullptr;
  size_t bytes_ = 0;
};

constexpr size_t align_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace qspec
