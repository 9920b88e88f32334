#include "common/device.h"

namespace qspec::cuda {

Status device_error(cudaError_t error, const char* call) {
  (void)cudaGetLastError();  // clears the non-sticky ones, so that the next call isn't blamed
  const std::string text = std::string("CUDA call `") + call + "` failed: " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + "). ";
  if (error == cudaErrorMemoryAllocation) return {StatusCode::kOutOfMemory, text + "See in `nvidia-smi` who holds the device's memory; lower the cache and batch limits."};
  return {StatusCode::kDevice, text + "Check `nvidia-smi`; after a fault the process must be restarted."};
}

Status DeviceBuffer::create(size_t bytes, const char* what, DeviceBuffer* out, const char* remedy) {
  DeviceBuffer buffer;
  const cudaError_t error = cudaMalloc(&buffer.data_, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) free_bytes = total_bytes = 0;
    buffer.data_ = nullptr;
    return {StatusCode::kOutOfMemory, std::string("Expected device memory for ") + what + " but it asked for " + std::to_string(bytes) + " bytes and " +
                                          std::to_string(free_bytes) + " of " + std::to_string(total_bytes) + " are free; " +
                                          (remedy ? remedy : "take a smaller model or format, or lower the cache and batch limits") + "."};
  }
  if (error != cudaSuccess) return device_error(error, "cudaMalloc");
  buffer.bytes_ = bytes;
  *out = std::move(buffer);
  return {};
}

Status DeviceBuffer::upload(const void* source, size_t count) {
  if (count > bytes_) return {StatusCode::kInternal, "DeviceBuffer::upload past the end."};
  QSPEC_CUDA_CALL(cudaMemcpy(data_, source, count, cudaMemcpyHostToDevice));
  return {};
}

Status DeviceBuffer::download(void* destination, size_t count) const {
  if (count > bytes_) return {StatusCode::kInternal, "DeviceBuffer::download past the end."};
  QSPEC_CUDA_CALL(cudaMemcpy(destination, data_, count, cudaMemcpyDeviceToHost));
  return {};
}

Status DeviceBuffer::fill(int value) {
  if (bytes_ == 0) return {};
  QSPEC_CUDA_CALL(cudaMemsetAsync(data_, value, bytes_, nullptr));
  QSPEC_CUDA_CALL(cudaStreamSynchronize(nullptr));
  return {};
}

void DeviceBuffer::reset() {
  if (data_ != nullptr) (void)cudaFree(data_);  // a failure here was reported by the call that broke the device
  data_ = nullptr, bytes_ = 0;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

Status PinnedBuffer::reserve(size_t bytes) {
  if (bytes <= bytes_) return {};
  if (data_ != nullptr) QSPEC_CUDA_CALL(cudaFreeHost(data_));
  data_ = nullptr, bytes_ = 0;
  const cudaError_t error = cudaMallocHost(&data_, bytes);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    data_ = nullptr;
    return {StatusCode::kOutOfMemory, "Expected " + std::to_string(bytes) + " bytes of pinned host memory but the system has none left; lower `maxRows`."};
  }
  if (error != cudaSuccess) return device_error(error, "cudaMallocHost");
  bytes_ = bytes;
  return {};
}

Stream::~Stream() {
  if (is_made_) (void)cudaStreamDestroy(stream_);
}

Status Stream::create() {
  QSPEC_CUDA_CALL(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  is_made_ = true;
  return {};
}

Event::~Event() {
  if (event_ != nullptr) (void)cudaEventDestroy(event_);
}

Status Event::create() {
  QSPEC_CUDA_CALL(cudaEventCreate(&event_));
  return {};
}

Status Event::record(cudaStream_t stream) {
  QSPEC_CUDA_CALL(cudaEventRecord(event_, stream));
  return {};
}

Status Event::milliseconds_since(const Event& begin, double* ms) const {
  float elapsed = 0;
  QSPEC_CUDA_CALL(cudaEventElapsedTime(&elapsed, begin.event_, event_));
  *ms = elapsed;
  return {};
}

}  // namespace qspec::cuda
