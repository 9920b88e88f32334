#include "binding/backend_object.h"

#include "binding/addon_data.h"
#include "binding/args.h"
#include "binding/session_object.h"
#include "binding/weight_args.h"
#include "binding/worker.h"

namespace qspec::binding {

Napi::Function BackendObject::define(Napi::Env env) {
  return DefineClass(env, "NativeBackend",
                     {InstanceMethod<&BackendObject::create_weight>("createWeight"), InstanceMethod<&BackendObject::create_vector>("createVector"),
                      InstanceMethod<&BackendObject::create_session>("createSession"), InstanceMethod<&BackendObject::dispose>("dispose"),
                      InstanceMethod<&BackendObject::measure_read_bandwidth>("measureReadBandwidth"), InstanceMethod<&BackendObject::describe>("describe"),
                      InstanceAccessor<&BackendObject::resident_bytes>("residentBytes"), InstanceAccessor<&BackendObject::free_bytes>("freeBytes")});
}

Napi::Object BackendObject::create(Napi::Env env, std::shared_ptr<Backend> backend) {
  return AddonData::of(env).backend_class.New({Napi::External<std::shared_ptr<Backend>>::New(env, &backend)});
}

BackendObject::BackendObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<BackendObject>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) throw_invalid(info.Env(), "Expected backends to be made by `createBackend`.");
  backend_ = *info[0].As<Napi::External<std::shared_ptr<Backend>>>().Data();
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
  const auto weight = std::make_shared<WeightRef>();
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
      info.Env(), [backend = backend_, sources, weight] { return backend->create_weight(*sources, weight.get()); }, finish, hold_arrays(info[0]));
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
      info.Env(), [backend = backend_, config, session] { return backend->create_session(std::move(*config), session.get()); },
      [session](Napi::Env env) -> Napi::Value {
        return SessionObject::create(env, AddonData::of(env).session_class.Value(), std::shared_ptr<Session>(std::move(*session)));
      });
}

Napi::Value BackendObject::measure_read_bandwidth(const Napi::CallbackInfo& info) {
  expect_alive(info.Env());
  const auto rate = std::make_shared<double>(0);
  return Worker::start(
      info.Env(), [backend = backend_, rate] { return backend->measure_read_bandwidth(rate.get()); },
      [rate](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *rate); });
}

Napi::Value BackendObject::describe(const Napi::CallbackInfo& info) {
  expect_alive(info.Env());
  const BackendDescription description = backend_->describe();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("description", description.description);
  result.Set("arch", description.arch);
  result.Set("numThreads", description.num_threads);
  return result;
}

Napi::Value BackendObject::resident_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(state_->resident_bytes));
}

Napi::Value BackendObject::free_bytes(const Napi::CallbackInfo& info) {
  int64_t bytes = 0;
  if (backend_) throw_if_error(info.Env(), backend_->free_bytes(&bytes));
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

// Sessions that still live keep what they use.
void BackendObject::dispose(const Napi::CallbackInfo& info) {
  if (state_->is_disposed) return;
  state_->is_disposed = true;
  state_->residents = {};
  add_bytes(info.Env(), *state_, -state_->resident_bytes);
  backend_.reset();
}

}  // namespace qspec::binding
