// createBackend of src/native-types.ts.
#pragma once
#include <napi.h>

namespace qspec::binding {

// { kind: 'reference' | 'cpu', isa, numThreads }: the backend. { kind: 'cuda', deviceOrdinal }: a promise of it, since making a device's
// context may take a second.
Napi::Value create_backend(const Napi::CallbackInfo& info);

}  // namespace qspec::binding
