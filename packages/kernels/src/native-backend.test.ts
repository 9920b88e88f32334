import { DeviceError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { NativeBackend } from './native-backend.js';
import type { NativeBackendHandle } from './native-types.js';

const DESCRIPTION = { description: 'NVIDIA H100 80GB HBM3 (sm_90, 79 GiB)', arch: 'sm_90', numThreads: 1 };

function backendOver(handle: Partial<NativeBackendHandle>): NativeBackend {
  return new NativeBackend('cuda', handle as NativeBackendHandle, DESCRIPTION);
}

describe('the device of a native backend', () => {
  it('can be described when it is lost, and says so where its free bytes are asked for', () => {
    const { device } = backendOver({
      get freeBytes(): number {
        throw Object.assign(new Error('CUDA call `cudaMemGetInfo` failed.'), { code: 'DEVICE' });
      },
    });
    expect(device.description).toBe(DESCRIPTION.description);
    expect(() => device.freeBytes).toThrow(DeviceError);
  });

  it('tells its free bytes anew at each look', () => {
    let freeBytes = 100;
    const { device } = backendOver({
      get freeBytes() {
        return freeBytes--;
      },
    });
    expect([device.freeBytes, device.freeBytes]).toEqual([100, 99]);
  });
});
