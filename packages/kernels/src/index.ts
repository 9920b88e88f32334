export { type BackendOptions, createBackend, type DeviceChoice, type SelectedBackend } from './backend.js';
export {
  availableCpuIsas,
  type CpuBackendOptions,
  type CpuIsa,
  createCpuBackend,
  createReferenceBackend,
} from './cpu-backend.js';
export { type CudaBackendOptions, createCudaBackend } from './cuda-backend.js';
export { describeNative, type NativeReport } from './describe.js';
export type { NativeKernelBackend } from './native-backend.js';
export type { NativeCudaDescription as CudaReport, OpProfile } from './native-types.js';
export { defaultNumThreads } from './physical-cores.js';
export type { ProfilingSession } from './session.js';
