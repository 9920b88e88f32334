import { expectInteger } from '@qspec/core';
import { loadAddon } from './binding.js';
import { NativeBackend, type NativeKernelBackend } from './native-backend.js';
import { guard } from './native-errors.js';

export interface CudaBackendOptions {
  /** Which GPU, as CUDA counts those that it may see. Default 0. */
  readonly ordinal?: number;
}

const MAX_ORDINAL = 1023;

/**
 * The backend of an NVIDIA GPU. Its context is made off the JavaScript thread.
 * @throws DeviceError saying what is missing (CUDA in this build, driver, device, compute capability) and the remedy; ConfigError for an
 * `ordinal` that is no device; KernelLoadError when the addon is missing.
 */
export async function createCudaBackend(options: CudaBackendOptions = {}): Promise<NativeKernelBackend> {
  const { ordinal = 0 } = options;
  expectInteger('ordinal', ordinal, 0, MAX_ORDINAL);
  const handle = await guard(() => loadAddon().createBackend({ kind: 'cuda', deviceOrdinal: ordinal }));
  return new NativeBackend('cuda', handle, handle.describe());
}
