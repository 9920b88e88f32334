// The JavaScript object of one session. Calls run on a worker thread that keeps the native session alive, so disposing early is safe.
#pragma once
#include <napi.h>

#include <memory>

#include "session/session.h"

namespace qspec::binding {

class SessionObject : public Napi::ObjectWrap<SessionObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object create(Napi::Env env, const Napi::Function& constructor, std::shared_ptr<Session> session);
  explicit SessionObject(const Napi::CallbackInfo& info);
  ~SessionObject() override = default;
  void Finalize(Napi::BasicEnv env) override;

 private:
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value round(const Napi::CallbackInfo& info);
  Napi::Value copy_pages(const Napi::CallbackInfo& info);
  void set_profiling(const Napi::CallbackInfo& info);
  Napi::Value profile(const Napi::CallbackInfo& info);
  Napi::Value kv_bytes(const Napi::CallbackInfo& info);
  Napi::Value scratch_bytes(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  // Throws DISPOSED or INTERNAL (a call is pending).
  std::shared_ptr<Session> idle_session(Napi::Env env);
  // Promise of `execute`; the session counts as pending until it settles.
  Napi::Promise start(Napi::Env env, std::function<Status(Session&)> execute, std::function<Napi::Value(Napi::Env)> finish);

  std::shared_ptr<Session> session_;
  std::shared_ptr<bool> is_pending_ = std::make_shared<bool>(false);  // JavaScript thread only
  int64_t reported_bytes_ = 0;
};

}  // namespace qspec::binding
