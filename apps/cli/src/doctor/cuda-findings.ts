import type { CudaReport, NativeReport } from '@qspec/kernels';
import { formatBytes } from '../render.js';
import type { Finding } from './finding.js';

const BUILD =
  'install the CUDA toolkit (12.4 or newer) so that nvcc is on the PATH, then run `npm run build:native` in packages/kernels';

/** CUDA in this build, then a device for it: what is there, or what is missing and what to do about it. */
export function cudaFindings({ isLoaded, cuda }: Pick<NativeReport, 'isLoaded' | 'cuda'>): Finding[] {
  if (!isLoaded) return []; // the missing addon is the finding
  return [kernels(cuda), ...(cuda.isBuilt ? [device(cuda)] : [])];
}

function kernels({ isBuilt, problem, runtimeVersion }: CudaReport): Finding {
  const what = 'cuda kernels';
  if (isBuilt) return { what, state: 'ok', detail: `built in${runtimeVersion ? `, CUDA ${runtimeVersion}` : ''}` };
  return { what, state: 'optional', detail: `not in this build (${problem}): to run on an NVIDIA GPU, ${BUILD}` };
}

function device({ isUsable, problem, name, computeCapability, memoryBytes, driverVersion }: CudaReport): Finding {
  const what = 'cuda device';
  if (!isUsable) return { what, state: 'optional', detail: problem ?? 'none' };
  const facts = [
    name,
    `compute capability ${computeCapability}`,
    formatBytes(memoryBytes ?? 0),
    ...(driverVersion ? [`driver up to CUDA ${driverVersion}`] : []),
  ];
  return { what, state: 'ok', detail: facts.join(', ') };
}
