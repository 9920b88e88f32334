// Host side of the CUDA backend: device query, owned memory and streams, CUDA calls as Status.
#pragma once
#include <cstddef>
#include <string>
#include <utility>

#include "common/runtime.h"
#include "qspec/status.h"

namespace qspec::cuda {

// Names the call and what the driver said.
Status device_error(cudaError_t error, const char* call);

#define QSPEC_CUDA_CALL(expr)                                                                 \
  do {                                                                                        \
    const cudaError_t qspec_error_ = (expr);                                                  \
    if (qspec_error_ != cudaSuccess) return ::qspec::cuda::device_error(qspec_error_, #expr); \
  } while (0)

struct DeviceInfo {
  int ordinal = 0;
  std::string name;
  int driver_version = 0, runtime_version = 0;  // 1000·major + 10·minor
  int major = 0, minor = 0;                     // compute capability
  int num_multiprocessors = 0;
  size_t l2_bytes = 0, memory_bytes = 0, shared_bytes = 0;  // shared: most a thread block may ask for
};

// kDevice, with the remedy, when there is no device, the driver is older than the runtime, or the chip has no kernels here. What could be
// read of the device is in `out` in either case.
Status query_device(int ordinal, DeviceInfo* out);

// Owned device memory. Movable, not copyable; freed on destruction.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  ~DeviceBuffer() { reset(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = static_cast<DeviceBuffer&&>(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  // kOutOfMemory says how many bytes `what` asked for, how many were free, and what to lower (`remedy`).
  static Status create(size_t bytes, const char* what, DeviceBuffer* out, const char* remedy = nullptr);
  // Host to device / device to host, blocking; `count` bytes from the beginning.
  Status upload(const void* source, size_t count);
  Status download(void* destination, size_t count) const;
  Status fill(int value);  // of every byte, blocking
  void reset();

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Host memory that the device copies from and to without a detour.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = static_cast<PinnedBuffer&&>(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  // Keeps what it has when that is enough; contents are lost otherwise.
  Status reserve(size_t bytes);
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

class Stream {
 public:
  Stream() = default;
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  Status create();
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  bool is_made_ = false;
};

// A point in a stream's time.
class Event {
 public:
  Event() = default;
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Status create();
  Status record(cudaStream_t stream);
  // Both must have passed.
  Status milliseconds_since(const Event& begin, double* ms) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace qspec::cuda
