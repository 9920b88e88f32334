#include "binding/create_backend.h"

#include "binding/args.h"
#include "binding/backend_object.h"
#include "binding/cuda_support.h"
#include "binding/isa_names.h"
#include "binding/worker.h"
#include "session/cpu_backend.h"

namespace qspec::binding {

namespace {
constexpr int kMaxThreads = 1024;
constexpr int kMaxOrdinal = 1023;

const OpTable& ops_of(const Napi::Object& options) {
  if (get_string(options, "kind") == "reference") return reference_ops();
  const std::string isa = get_string(options, "isa");
  for (int i = 0; i <= static_cast<int>(detect_cpu_isa()); ++i) {
    if (isa == kIsaNames[i]) return cpu_ops(static_cast<CpuIsa>(i));
  }
  throw to_error(options.Env(), {StatusCode::kDevice, "Expected a processor with " + isa + " but this one has " + isa_name(detect_cpu_isa()) + " at best."});
}

Napi::Value create_cpu(const Napi::Object& options) {
  const OpTable& ops = ops_of(options);
  std::shared_ptr<ThreadPool> pool;
  throw_if_error(options.Env(), ThreadPool::create(get_int(options, "numThreads", 1, kMaxThreads), &pool));
  return BackendObject::create(options.Env(), std::make_shared<CpuBackend>(ops, std::move(pool)));
}

Napi::Value create_cuda(const Napi::Object& options) {
  const int ordinal = get_int(options, "deviceOrdinal", 0, kMaxOrdinal);
  const auto backend = std::make_shared<std::shared_ptr<Backend>>();
  return Worker::start(
      options.Env(), [ordinal, backend] { return create_cuda_backend(ordinal, backend.get()); },
      [backend](Napi::Env env) { return BackendObject::create(env, std::move(*backend)); });
}
}  // namespace

Napi::Value create_backend(const Napi::CallbackInfo& info) {
  const Napi::Object options = object_arg(info, 0, "options");
  const std::string kind = get_string(options, "kind");
  if (kind == "cuda") return create_cuda(options);
  if (kind == "cpu" || kind == "reference") return create_cpu(options);
  throw_invalid(info.Env(), "Expected `kind` to be reference, cpu or cuda but received " + kind + ".");
}

}  // namespace qspec::binding
