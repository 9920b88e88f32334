export {
  availableCpuIsas,
  type BackendOptions,
  type CpuBackendOptions,
  type CpuIsa,
  createBackend,
  createCpuBackend,
  createReferenceBackend,
  type DeviceChoice,
  type SelectedBackend,
} from './backend.js';
export { describeNative, type NativeReport } from './describe.js';
export type { NativeKernelBackend } from './native-backend.js';
export type { OpProfile } from './native-types.js';
export { defaultNumThreads } from './physical-cores.js';
export type { ProfilingSession } from './session.js';
