// The CUDA runtime API, or what the emulator offers of it.
#pragma once
#if defined(QSPEC_CUDA_EMULATED)
#include "emulator/runtime.h"
#else
#include <cuda_runtime_api.h>
#endif
