// The JavaScript object of one backend, whatever its device, with the weights and vectors made so far.
#pragma once
#include <napi.h>

#include <memory>

#include "binding/program_args.h"
#include "session/backend.h"

namespace qspec::binding {

class BackendObject : public Napi::ObjectWrap<BackendObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object create(Napi::Env env, std::shared_ptr<Backend> backend);
  explicit BackendObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

 private:
  Napi::Value create_weight(const Napi::CallbackInfo& info);
  Napi::Value create_vector(const Napi::CallbackInfo& info);
  Napi::Value create_session(const Napi::CallbackInfo& info);
  Napi::Value measure_read_bandwidth(const Napi::CallbackInfo& info);
  Napi::Value describe(const Napi::CallbackInfo& info);
  Napi::Value resident_bytes(const Napi::CallbackInfo& info);
  Napi::Value free_bytes(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  void expect_alive(Napi::Env env) const;

  // Shared with workers: a weight that is still being packed when the backend is disposed is dropped when it is done.
  struct State {
    Residents residents;
    int64_t next_id = 1;
    int64_t resident_bytes = 0;
    bool is_disposed = false;
  };
  static void add_bytes(Napi::Env env, State& state, int64_t bytes);

  std::shared_ptr<const Backend> backend_;  // none once disposed
  std::shared_ptr<State> state_ = std::make_shared<State>();  // JavaScript thread only
};

}  // namespace qspec::binding
