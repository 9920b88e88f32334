import type { SelectedBackend } from '@qspec/kernels';
import { describe, expect, it } from 'vitest';
import { isGpuExpected } from './gpu-expectation.js';

const selected = (name: 'cpu' | 'cuda') => ({ backend: { name }, selection: '' }) as SelectedBackend;
const machine = (hasDriver: boolean, hasCuda: boolean) => ({ exists: () => hasDriver, isCudaBuilt: () => hasCuda });

describe('the remark that a GPU was not used', () => {
  it('is made where a driver is there, or the build has CUDA', () => {
    expect(isGpuExpected('auto', selected('cpu'), machine(true, false))).toBe(true);
    expect(isGpuExpected('auto', selected('cpu'), machine(false, true))).toBe(true);
  });

  it('is not made on a plain machine, nor where the choice was the user’s or the GPU', () => {
    expect(isGpuExpected('auto', selected('cpu'), machine(false, false))).toBe(false);
    expect(isGpuExpected('cpu', selected('cpu'), machine(true, true))).toBe(false);
    expect(isGpuExpected('auto', selected('cuda'), machine(true, true))).toBe(false);
  });
});
