#include "binding/backend_object.h"

#include "binding/addon_data.h"
#include "binding/args.h"
#include "binding/isa_names.h"
#include "binding/session_object.h"
#include "binding/weight_args.h"
#include "binding/worker.h"
#include "cpu/read_bandwidth.h"

namespace qspec::binding {

namespace {
constexpr int kMaxThreads = 1024;
constexpr size_t kBandwidthBytes = size_t{256} << 20;  // well past the last-level cache

const OpTable& ops_of(const Napi::Object& options) {
  const std::string kind = get_string(options, "kind"), isa = get_string(options, "isa");
  if (kind == "reference") return reference_ops();
  if (kind != "cpu") throw_invalid(options.Env(), "Expected `kind` to be reference or cpu but received " + kind + ".");
  for (int i = 0; i <= static_cast<int>(detect_cpu_isa()); ++i) {
    if (isa == kIsaNames[i]) return cpu_ops(static_cast<CpuIsa>(i));
  }
  throw to_error(options.Env(), {StatusCode::kDevice, "Expected a processor with " + isa + " but this one has " + isa_name(detect_cpu_isa()) + " at best."});
}
}  // namespace

Napi::Function BackendObject::define(Napi::Env env) {
  return DefineClass(env, "NativeBackend",
                     {InstanceMethod<&BackendObject::create_weight>("createWeight"), InstanceMethod<&BackendObject::create_vector>("createVector"),
                      InstanceMethod<&BackendObject::create_session>("createSession"), InstanceMethod<&BackendObject::dispose>("dispose"),
                      InstanceMethod<&BackendObject::measure_read_bandwidth>("measureReadBandwidth"),
                      InstanceAccessor<&BackendObject::resident_bytes>("residentBytes")});
}

BackendObject::BackendObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<BackendObject>(info) {
  const Napi::Object options = object_arg(info, 0, "options");
  ops_ = &ops_of(options);
  throw_if_error(info.Env(), ThreadPool::create(get_int(options, "numThreads", 1, kMaxThreads), &pool_));
}

void BackendObject::Finalize(Napi::BasicEnv env) {
  if (state_->resident_bytes != 0) Napi::MemoryManagement::AdjustExternalMemory(env, -state_->resident_bytes);
  state_->is_disposed = true;
}

void BackendObject::expect_alive(Napi::Env env) const {
  if (state_->is_disposed) throw to_error(env, {StatusCode::kDisposed, "Expected a live backend but it was disposed."});
}

void BackendObject::add_bytes(Napi::Env env, State& state, int64_t bytes) {
  state.resident_bytes += bytes;
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
}

// Repacks on a worker thread. The sources stay where they are: the list that holds them is kept until it is done.
Napi::Value BackendObject::create_weight(const Napi::CallbackInfo& info) {
  expect_alive(info.Env());
  const auto sources = std::make_shared<std::vector<WeightSource>>(read_weight_sources(info[0]));
  const auto weight = std::make_shared<std::unique_ptr<ResidentWeight>>();
  const auto finish = [state = state_, weight](Napi::Env env) -> Napi::Value {
    if (state->is_disposed) throw to_error(env, {StatusCode::kDisposed, "Expected a live backend but it was disposed."});
    const int64_t id = state->next_id++, bytes = static_cast<int64_t>((*weight)->bytes());
    state->residents.weights.emplace(id, std::move(*weight));
    add_bytes(env, *state, bytes);
    Napi::Object result = Napi::Object::New(env);
    result.Set("id", static_cast<double>(id));
    result.Set("bytes", static_cast<double>(bytes));
    return result;
  };
  return Worker::start(
      info.Env(), [sources, weight] { return ResidentWeight::create(*sources, weight.get()); }, finish, hold_arrays(info[0]));
}

Napi::Value BackendObject::create_vector(const Napi::CallbackInfo& info) {
  expect_alive(info.Env());
  auto vector = std::make_shared<const std::vector<float>>(to_vector<float>(info[0], "values"));
  const int64_t id = state_->next_id++;
  add_bytes(info.Env(), *state_, static_cast<int64_t>(vector->size() * sizeof(float)));
  state_->residents.vectors.emplace(id, std::move(vector));
  return Napi::Number::New(info.Env(), static_cast<double>(id));
}

Napi::Value BackendObject::create_session(const Napi::CallbackInfo& info) {
  expect_alive(info.Env());
  const auto config = std::make_shared<SessionConfig>(read_session_config(object_arg(info, 0, "spec"), state_->residents));
  const auto session = std::make_shared<std::unique_ptr<Session>>();
  return Worker::start(
      info.Env(), [ops = ops_, pool = pool_, config, session] { return Session::create(*ops, pool, std::move(*config), session.get()); },
      [session](Napi::Env env) -> Napi::Value {
        return SessionObject::create(env, AddonData::of(env).session_class.Value(), std::shared_ptr<Session>(std::move(*session)));
      });
}

Napi::Value BackendObject::measure_read_bandwidth(const Napi::CallbackInfo& info) {
  expect_alive(info.Env());
  const auto rate = std::make_shared<double>(0);
  return Worker::start(
      info.Env(), [pool = pool_, rate] { return cpu::measure_read_bandwidth(*pool, kBandwidthBytes, rate.get()); },
      [rate](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *rate); });
}

Napi::Value BackendObject::resident_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(state_->resident_bytes));
}

// Sessions that still live keep what they use.
void BackendObject::dispose(const Napi::CallbackInfo& info) {
  if (state_->is_disposed) return;
  state_->is_disposed = true;
  state_->residents = {};
  add_bytes(info.Env(), *state_, -state_->resident_bytes);
  pool_.reset();
}

}  // namespace qspec::binding
