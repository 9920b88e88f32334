import { ConfigError, DeviceError, InvariantError, OutOfMemoryError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { selectBackend } from './backend.js';
import type { NativeKernelBackend } from './native-backend.js';

const backendNamed = (name: 'cpu' | 'cuda', description: string) =>
  ({ name, device: { description, arch: 'x', numThreads: 1, freeBytes: 0 } }) as NativeKernelBackend;
const cpu = backendNamed('cpu', 'a processor');
const gpu = backendNamed('cuda', 'NVIDIA H100 80GB HBM3 (sm_90, 79 GiB)');

const NOT_BUILT = { isBuilt: false, isUsable: false, problem: 'nvcc was not found when it was built' };
const BUILT = {
  isCudaBuilt: true,
  get cuda(): never {
    throw new Error('the driver was asked though nobody wanted to know');
  },
};

/** What `auto` chooses when opening the GPU ends with `outcome`. */
function auto(outcome: NativeKernelBackend | Error) {
  const cuda = async () => {
    if (outcome instanceof Error) throw outcome;
    return outcome;
  };
  return selectBackend(BUILT, { cuda, cpu: () => cpu });
}

describe('device auto', () => {
  it('takes the CPU in a build without CUDA, and says what was missing', async () => {
    const cuda = () => Promise.reject(new Error('not to be called'));
    expect(await selectBackend({ isCudaBuilt: false, cuda: NOT_BUILT }, { cuda, cpu: () => cpu })).toEqual({
      backend: cpu,
      selection: 'cpu: this build has no CUDA kernels (nvcc was not found when it was built).',
    });
  });

  it('takes CUDA where it is usable', async () => {
    expect(await auto(gpu)).toEqual({ backend: gpu, selection: 'cuda: NVIDIA H100 80GB HBM3 (sm_90, 79 GiB).' });
  });

  it.each([
    new DeviceError('Expected an NVIDIA driver but found none; install one, or use the CPU backend.'),
    new OutOfMemoryError('Expected room for a context but the device has none left.'),
  ])('takes the CPU when the GPU cannot be used, with the reason: $message', async (error) => {
    const { backend, selection } = await auto(error);
    expect(backend).toBe(cpu);
    expect(selection).toBe(`cpu: no usable CUDA device (${error.message.slice(0, -1)}).`);
  });

  it.each([
    new ConfigError('Expected `ordinal` to be in 0..0 but received 7.'),
    new InvariantError('Unexpected failure.'),
    new TypeError('a bug'),
  ])('does not hide an error that is no property of the machine: $message', async (error) => {
    await expect(auto(error)).rejects.toBe(error);
  });
});
