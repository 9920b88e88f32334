// What the addon keeps for each JavaScript environment (the main thread, each worker_thread). There are no other globals.
#pragma once
#include <napi.h>

namespace qspec::binding {

struct AddonData {
  Napi::FunctionReference backend_class;
  Napi::FunctionReference session_class;
  static AddonData& of(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }
};

}  // namespace qspec::binding
