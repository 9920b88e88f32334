import { existsSync } from 'node:fs';
import { describeNative, type SelectedBackend } from '@qspec/kernels';
import type { ModelOptions } from './options.js';

/** What an NVIDIA driver leaves on Linux, WSL and Windows. */
const DRIVER_FILES = [
  '/proc/driver/nvidia/version',
  '/usr/lib/wsl/lib/libcuda.so.1',
  'C:\\Windows\\System32\\nvcuda.dll',
];

/** Did `auto` end at the CPU on a machine whose user may well expect a GPU: an NVIDIA driver is there, or the build has CUDA? */
export function isGpuExpected(
  device: ModelOptions['device'],
  { backend }: SelectedBackend,
  look: { readonly exists: (path: string) => boolean; readonly isCudaBuilt: () => boolean } = MACHINE,
): boolean {
  if (device !== 'auto' || backend.name === 'cuda') return false;
  return DRIVER_FILES.some(look.exists) || look.isCudaBuilt();
}

const MACHINE = { exists: existsSync, isCudaBuilt: () => describeNative().cuda.isBuilt };
