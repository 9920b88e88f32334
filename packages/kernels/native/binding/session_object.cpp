#include "binding/session_object.h"

#include "binding/args.h"
#include "binding/batch_args.h"
#include "binding/worker.h"

namespace qspec::binding {

Napi::Function SessionObject::define(Napi::Env env) {
  return DefineClass(env, "NativeSession",
                     {InstanceMethod<&SessionObject::forward>("forward"), InstanceMethod<&SessionObject::round>("round"),
                      InstanceMethod<&SessionObject::copy_pages>("copyPages"), InstanceMethod<&SessionObject::set_profiling>("setProfiling"),
                      InstanceMethod<&SessionObject::profile>("profile"), InstanceMethod<&SessionObject::dispose>("dispose"),
                      InstanceAccessor<&SessionObject::kv_bytes>("kvBytes"), InstanceAccessor<&SessionObject::scratch_bytes>("scratchBytes")});
}

Napi::Object SessionObject::create(Napi::Env env, const Napi::Function& constructor, std::shared_ptr<Session> session) {
  const Napi::Object object = constructor.New({Napi::External<std::shared_ptr<Session>>::New(env, &session)});
  return object;
}

SessionObject::SessionObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<SessionObject>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) throw_invalid(info.Env(), "Expected sessions to be made by `createSession`.");
  session_ = *info[0].As<Napi::External<std::shared_ptr<Session>>>().Data();
  reported_bytes_ = static_cast<int64_t>(session_->kv_bytes() + session_->scratch_bytes());
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), reported_bytes_);
}

void SessionObject::Finalize(Napi::BasicEnv env) {
  if (reported_bytes_ != 0) Napi::MemoryManagement::AdjustExternalMemory(env, -reported_bytes_);
  reported_bytes_ = 0;
}

std::shared_ptr<Session> SessionObject::idle_session(Napi::Env env) {
  if (!session_) throw to_error(env, {StatusCode::kDisposed, "Expected a live session but it was disposed."});
  if (*is_pending_) throw to_error(env, {StatusCode::kInternal, "Expected one call at a time on a session but another is pending: await it first."});
  return session_;
}

Napi::Promise SessionObject::start(Napi::Env env, std::function<Status(Session&)> execute, std::function<Napi::Value(Napi::Env)> finish) {
  const std::shared_ptr<Session> session = idle_session(env);
  // Falls when the worker, and with it the two lambdas, is gone: whatever the outcome.
  const std::shared_ptr<void> pending(nullptr, [flag = is_pending_](void*) { *flag = false; });
  *is_pending_ = true;
  return Worker::start(
      env, [session, execute = std::move(execute)] { return execute(*session); },
      [pending, finish = std::move(finish), flag = is_pending_](Napi::Env e) {
        *flag = false;
        return finish(e);
      });
}

Napi::Value SessionObject::forward(const Napi::CallbackInfo& info) {
  idle_session(info.Env());
  const auto batch = std::make_shared<ForwardBatch>(read_forward_batch(object_arg(info, 0, "batch")));
  const auto result = std::make_shared<ForwardResult>();
  return start(
      info.Env(), [batch, result](Session& session) { return session.forward(*batch, result.get()); },
      [batch, result](Napi::Env env) { return write_forward_result(env, *result, batch->has_labels); });
}

Napi::Value SessionObject::round(const Napi::CallbackInfo& info) {
  idle_session(info.Env());
  const auto owned = read_round_batch(object_arg(info, 0, "batch"));
  const auto result = std::make_shared<RoundResult>();
  return start(
      info.Env(), [owned, result](Session& session) { return session.round(owned->batch, result.get()); },
      [owned, result](Napi::Env env) { return write_round_result(env, *result); });
}

Napi::Value SessionObject::copy_pages(const Napi::CallbackInfo& info) {
  idle_session(info.Env());
  auto from = to_vector<int32_t>(info[0], "from");
  auto to = to_vector<int32_t>(info[1], "to");
  return start(
      info.Env(), [from = std::move(from), to = std::move(to)](Session& session) { return session.copy_pages(from, to); },
      [](Napi::Env env) { return env.Undefined(); });
}

void SessionObject::set_profiling(const Napi::CallbackInfo& info) {
  throw_if_error(info.Env(), idle_session(info.Env())->set_profiling(info[0].ToBoolean()));
}

Napi::Value SessionObject::profile(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Session> session = idle_session(info.Env());
  Napi::Array list = Napi::Array::New(info.Env());
  const auto add = [&](const char* program, const Profile& profile) {
    for (int i = 0; i <= kNumOpKinds; ++i) {
      if (profile.entries[i].calls == 0) continue;
      Napi::Object entry = Napi::Object::New(info.Env());
      entry.Set("program", program);
      entry.Set("op", i == Profile::kSample ? "sample" : op_name(static_cast<OpKind>(i)));
      entry.Set("calls", static_cast<double>(profile.entries[i].calls));
      entry.Set("totalMs", static_cast<double>(profile.entries[i].nanoseconds) / 1e6);
      list.Set(list.Length(), entry);
    }
  };
  add("target", session->target_profile());
  add("draft", session->draft_profile());
  return list;
}

Napi::Value SessionObject::kv_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), session_ ? static_cast<double>(session_->kv_bytes()) : 0);
}
Napi::Value SessionObject::scratch_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), session_ ? static_cast<double>(session_->scratch_bytes()) : 0);
}

// A pending call keeps the memory until it ends.
void SessionObject::dispose(const Napi::CallbackInfo& info) {
  session_.reset();
  if (reported_bytes_ != 0) Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -reported_bytes_);
  reported_bytes_ = 0;
}

}  // namespace qspec::binding
