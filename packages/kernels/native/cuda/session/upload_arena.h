// Everything that one call tells the device, gathered in pinned memory and sent in one copy.
#pragma once
#include <cstring>
#include <vector>

#include "common/device.h"

namespace qspec::cuda {

class UploadArena {
 public:
  // `fixed_bytes` at the beginning keep their device addresses as long as generation() does.
  Status create(size_t fixed_bytes, size_t capacity);

  void begin() { used_ = fixed_bytes_; }
  // Room for `count` elements; their device address, or nullptr when the arena is full (then reserve more and begin again).
  template <typename T>
  T* put(const T* values, size_t count) {
    const size_t offset = (used_ + 15) / 16 * 16, bytes = count * sizeof(T);
    used_ = offset + bytes;
    if (used_ > host_.bytes()) return nullptr;
    if (bytes > 0) std::memcpy(host_.data() + offset, values, bytes);
    return reinterpret_cast<T*>(device_.as<uint8_t>() + offset);
  }
  template <typename T>
  T* put(const std::vector<T>& values) {
    return put(values.data(), values.size());
  }
  // A struct in the fixed part.
  template <typename T>
  T* put_fixed(size_t offset, const T& value) {
    std::memcpy(host_.data() + offset, &value, sizeof value);
    return reinterpret_cast<T*>(device_.as<uint8_t>() + offset);
  }
  template <typename T>
  T* fixed(size_t offset) const {
    return reinterpret_cast<T*>(device_.as<uint8_t>() + offset);
  }

  bool is_full() const { return used_ > host_.bytes(); }
  // To twice what was asked for last. What there was stays where there is no memory.
  Status grow();
  Status send(cudaStream_t stream) const;
  int generation() const { return generation_; }
  size_t bytes() const { return device_.bytes(); }

 private:
  size_t fixed_bytes_ = 0, used_ = 0;
  int generation_ = 0;
  PinnedBuffer host_;
  DeviceBuffer device_;
};

}  // namespace qspec::cuda
