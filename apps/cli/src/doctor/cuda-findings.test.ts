import type { CudaReport } from '@qspec/kernels';
import { describe, expect, it } from 'vitest';
import { cudaFindings } from './cuda-findings.js';

const of = (cuda: CudaReport) => cudaFindings({ isLoaded: true, cuda });

describe('what doctor says of CUDA', () => {
  it('is what was missing when it was built, and how to build it', () => {
    const [finding, ...rest] = of({ isBuilt: false, isUsable: false, problem: 'nvcc was not found when it was built' });
    expect(rest).toEqual([]);
    expect(finding).toMatchObject({ what: 'cuda kernels', state: 'optional' });
    expect(finding!.detail).toMatch(
      /nvcc was not found.*install the CUDA toolkit \(12\.4 or newer\).*`npm run build:native`/,
    );
  });

  it('is the driver’s or the device’s sentence when the build has it', () => {
    const problem = 'Expected an NVIDIA driver but found none; install one, or use the CPU backend.';
    expect(of({ isBuilt: true, isUsable: false, problem, runtimeVersion: '12.6' })).toEqual([
      { what: 'cuda kernels', state: 'ok', detail: 'built in, CUDA 12.6' },
      { what: 'cuda device', state: 'optional', detail: problem },
    ]);
  });

  it('is the device when all is there', () => {
    const device = { name: 'NVIDIA H100', computeCapability: '9.0', memoryBytes: 79 * 2 ** 30, driverVersion: '12.8' };
    const [, finding] = of({ isBuilt: true, isUsable: true, ...device });
    expect(finding).toMatchObject({ what: 'cuda device', state: 'ok' });
    expect(finding!.detail).toMatch(/^NVIDIA H100, compute capability 9\.0, .*, driver up to CUDA 12\.8$/);
  });

  it('is nothing when the addon itself is missing', () => {
    const cuda = { isBuilt: false, isUsable: false, problem: 'the native addon is missing' };
    expect(cudaFindings({ isLoaded: false, cuda })).toEqual([]);
  });
});
