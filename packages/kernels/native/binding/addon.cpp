// Export table of qspec.node; the TypeScript side of the contract is src/native-types.ts.
#include <napi.h>

#include "binding/addon_data.h"
#include "binding/backend_object.h"
#include "binding/create_backend.h"
#include "binding/cuda_support.h"
#include "binding/isa_names.h"
#include "binding/session_object.h"

namespace qspec::binding {

namespace {

// Raised whenever the exports, their fields or their order change; NATIVE_ABI_VERSION in src/native-types.ts must equal it.
constexpr int kNativeAbiVersion = 3;

#define QSPEC_TEXT_OF(x) #x
#define QSPEC_TEXT(x) QSPEC_TEXT_OF(x)
#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#elif defined(_MSC_VER)
constexpr const char* kCompiler = "msvc " QSPEC_TEXT(_MSC_VER);
#else
constexpr const char* kCompiler = "unknown";
#endif

Napi::Value describe(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("isa", isa_name(detect_cpu_isa()));
  result.Set("compiler", kCompiler);
  result.Set("buildType", QSPEC_BUILD_TYPE);
  result.Set("isCudaBuilt", kIsCudaBuilt);
  // An accessor: whoever does not look at it never wakes the driver.
  result.DefineProperty(Napi::PropertyDescriptor::Accessor<describe_cuda>("cuda", napi_enumerable));
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* const data = new AddonData();
  data->backend_class = Napi::Persistent(BackendObject::define(env));
  data->session_class = Napi::Persistent(SessionObject::define(env));
  env.SetInstanceData(data);
  exports.Set("abiVersion", kNativeAbiVersion);
  exports.Set("describe", Napi::Function::New<describe>(env, "describe"));
  exports.Set("createBackend", Napi::Function::New<create_backend>(env, "createBackend"));
  return exports;
}

}  // namespace

NODE_API_MODULE(qspec, init)

}  // namespace qspec::binding
