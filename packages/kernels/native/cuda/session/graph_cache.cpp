#include "session/graph_cache.h"

namespace qspec::cuda {

namespace {
constexpr size_t kMaxGraphs = 256, kMaxLongGraphs = 32;  // of each kind; a long one takes up to 2 MB

Status capture(cudaStream_t stream, const std::function<Status()>& enqueue, cudaGraphExec_t* out) {
  QSPEC_CUDA_CALL(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  Status status = enqueue();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);  // in any case, or the stream stays captured
  if (status.is_ok() && ended != cudaSuccess) status = device_error(ended, "cudaStreamEndCapture");
  if (status.is_ok()) {
    const cudaError_t made = cudaGraphInstantiate(out, graph, 0);
    if (made != cudaSuccess) status = device_error(made, "cudaGraphInstantiate");
  }
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  return status;
}

}  // namespace

Status GraphCache::run(const std::string& key, bool is_long, cudaStream_t stream, const std::function<Status()>& enqueue) {
  auto found = entries_.find(key);
  const bool is_new = found == entries_.end();
  if (is_new) {
    make_room(is_long);
    found = entries_.emplace(key, Entry{}).first;
    found->second.is_long = is_long;
  }
  Entry& entry = found->second;
  entry.last_use = ++clock_;
  if (is_new && is_long) return enqueue();
  if (entry.graph == nullptr) QSPEC_RETURN_IF_ERROR(capture(stream, enqueue, &entry.graph));
  QSPEC_CUDA_CALL(cudaGraphLaunch(entry.graph, stream));
  return {};
}

// Of the kind that comes: the one that wasn't used for longest goes.
void GraphCache::make_room(bool is_long) {
  size_t count = 0;
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->second.is_long != is_long) continue;
    ++count;
    if (oldest == entries_.end() || it->second.last_use < oldest->second.last_use) oldest = it;
  }
  if (count < (is_long ? kMaxLongGraphs : kMaxGraphs)) return;
  destroy(oldest->second);
  entries_.erase(oldest);
}

void GraphCache::clear() {
  for (auto& [key, entry] : entries_) destroy(entry);
  entries_.clear();
}

void GraphCache::destroy(const Entry& entry) {
  if (entry.graph != nullptr) (void)cudaGraphExecDestroy(entry.graph);  // a failure here was reported by the call that broke the device
}

}  // namespace qspec::cuda
