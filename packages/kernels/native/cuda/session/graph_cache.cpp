#include "session/graph_cache.h"

namespace qspec::cuda {

namespace {
constexpr size_t kMaxGraphs = 256;
}

Status GraphCache::run(const std::string& key, cudaStream_t stream, const std::function<Status()>& enqueue) {
#if defined(QSPEC_CUDA_EMULATED)
  (void)key, (void)stream;
  return enqueue();
#else
  auto found = entries_.find(key);
  if (found == entries_.end()) {
    if (entries_.size() >= kMaxGraphs) evict();
    cudaGraph_t graph = nullptr;
    QSPEC_CUDA_CALL(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    const Status status = enqueue();
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    QSPEC_RETURN_IF_ERROR(status);
    if (ended != cudaSuccess) return device_error(ended, "cudaStreamEndCapture");
    Entry entry;
    const cudaError_t made = cudaGraphInstantiate(&entry.graph, graph, 0);
    (void)cudaGraphDestroy(graph);
    if (made != cudaSuccess) return device_error(made, "cudaGraphInstantiate");
    found = entries_.emplace(key, entry).first;
  }
  found->second.last_use = ++clock_;
  QSPEC_CUDA_CALL(cudaGraphLaunch(found->second.graph, stream));
  return {};
#endif
}

void GraphCache::evict() {
  auto oldest = entries_.begin();
  for (auto it = entries_.begin(); it != entries_.end(); ++it)
    if (it->second.last_use < oldest->second.last_use) oldest = it;
#if !defined(QSPEC_CUDA_EMULATED)
  (void)cudaGraphExecDestroy(oldest->second.graph);
#endif
  entries_.erase(oldest);
}

void GraphCache::clear() {
#if !defined(QSPEC_CUDA_EMULATED)
  for (auto& [key, entry] : entries_) (void)cudaGraphExecDestroy(entry.graph);  // a failure here was reported by the call that broke the device
#endif
  entries_.clear();
}

}  // namespace qspec::cuda
