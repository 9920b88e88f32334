// Whether this build has CUDA: the one place of the binding that knows. Without it everything answers, and says what is missing.
#pragma once
#include <napi.h>

#include <memory>

#include "session/backend.h"

namespace qspec::binding {

constexpr bool kIsCudaBuilt = QSPEC_HAS_CUDA != 0;

// On a worker thread. kDevice, with the remedy, in a build without CUDA.
Status create_cuda_backend(int ordinal, std::shared_ptr<Backend>* out);

// NativeCudaDescription of src/native-types.ts, of device 0. Asks the driver; never throws.
Napi::Value describe_cuda(const Napi::CallbackInfo& info);

}  // namespace qspec::binding
