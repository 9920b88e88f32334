import { ConfigError, DeviceError, OutOfMemoryError } from '@qspec/core';
import { loadAddon } from './binding.js';
import { type CpuBackendOptions, createCpuBackend, createReferenceBackend } from './cpu-backend.js';
import { type CudaBackendOptions, createCudaBackend } from './cuda-backend.js';
import type { NativeKernelBackend } from './native-backend.js';
import type { NativeDescription } from './native-types.js';

export type DeviceChoice = 'auto' | 'cpu' | 'reference' | 'cuda';

/** Options of the devices that are not chosen are ignored. */
export interface BackendOptions extends CpuBackendOptions, CudaBackendOptions {
  /** Default `auto`. */
  readonly device?: DeviceChoice;
}

export interface SelectedBackend {
  readonly backend: NativeKernelBackend;
  /** One sentence: which backend this is and why. */
  readonly selection: string;
}

/**
 * The backend for `device`; `auto` takes CUDA where this build and this machine have it, else the CPU, and says why.
 * @throws DeviceError when `cuda` is asked for and is not there; ConfigError; KernelLoadError.
 */
export async function createBackend(options: BackendOptions = {}): Promise<SelectedBackend> {
  const { device = 'auto', ordinal, ...cpuOptions } = options;
  const cudaOptions = ordinal === undefined ? {} : { ordinal };
  switch (device) {
    case 'auto':
      return selectBackend(loadAddon().describe(), {
        cuda: () => createCudaBackend(cudaOptions),
        cpu: () => createCpuBackend(cpuOptions),
      });
    case 'cuda':
      return { backend: await createCudaBackend(cudaOptions), selection: 'cuda, as asked.' };
    case 'cpu':
      return { backend: createCpuBackend(cpuOptions), selection: 'cpu, as asked.' };
    case 'reference':
      return { backend: createReferenceBackend(cpuOptions), selection: 'reference, as asked.' };
  }
  throw new ConfigError(`Expected \`device\` to be auto, cpu, reference or cuda but received ${String(device)}.`, {
    option: 'device',
    received: device,
  });
}

/** `auto`, apart from the machine. A GPU that cannot be used is a reason for the CPU; a wrong option is still an error. */
export async function selectBackend(
  build: Pick<NativeDescription, 'isCudaBuilt' | 'cuda'>,
  open: { readonly cuda: () => Promise<NativeKernelBackend>; readonly cpu: () => NativeKernelBackend },
): Promise<SelectedBackend> {
  if (!build.isCudaBuilt) {
    return { backend: open.cpu(), selection: `cpu: this build has no CUDA kernels (${build.cuda.problem}).` };
  }
  try {
    const backend = await open.cuda();
    return { backend, selection: `cuda: ${backend.device.description}.` };
  } catch (error) {
    if (!(error instanceof DeviceError || error instanceof OutOfMemoryError)) throw error;
    const problem = error.message.replace(/\.$/, '');
    return { backend: open.cpu(), selection: `cpu: no usable CUDA device (${problem}).` };
  }
}
