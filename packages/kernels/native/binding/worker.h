// Work off the JavaScript thread, as a promise. `execute` touches no JavaScript; `finish` makes the result on the JavaScript thread.
#pragma once
#include <napi.h>

#include <exception>
#include <functional>
#include <new>

#include "binding/errors.h"

namespace qspec::binding {

class Worker : public Napi::AsyncWorker {
 public:
  using Execution = std::function<Status()>;
  using Finish = std::function<Napi::Value(Napi::Env)>;

  // Starts at once. What the lambdas capture lives until the promise is settled; `keep` is an object that must, too.
  static Napi::Promise start(Napi::Env env, Execution execute, Finish finish, Napi::Value keep = {}) {
    auto* const worker = new Worker(env, std::move(execute), std::move(finish));
    if (!keep.IsEmpty()) worker->keep_ = Napi::Persistent(keep.As<Napi::Object>());
    const Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();
    return promise;
  }

 protected:
  void Execute() override {
    try {
      status_ = execute_();
    } catch (const std::bad_alloc&) {
      status_ = {StatusCode::kOutOfMemory, "Expected memory for this call but the system has none left."};
    } catch (const std::exception& error) {
      status_ = {StatusCode::kInternal, std::string("Unexpected exception in native code: ") + error.what() + "."};
    }
  }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (!status_.is_ok()) return deferred_.Reject(to_error(Env(), status_).Value());
    try {
      deferred_.Resolve(finish_(Env()));
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    }
  }

 private:
  Worker(Napi::Env env, Execution execute, Finish finish)
      : Napi::AsyncWorker(env, "qspec"), deferred_(Napi::Promise::Deferred::New(env)), execute_(std::move(execute)), finish_(std::move(finish)) {}

  Napi::Promise::Deferred deferred_;
  Execution execute_;
  Finish finish_;
  Napi::ObjectReference keep_;
  Status status_;
};

}  // namespace qspec::binding
