import { describe, expect, it } from 'vitest';
import { CUDA_TRAITS } from '../testing/backend-traits.js';
import { describeKernelBackend } from '../testing/kernel-backend.case.js';
import { createReferenceBackend } from './cpu-backend.js';
import { createCudaBackend } from './cuda-backend.js';
import { describeNative } from './describe.js';

const { cuda } = describeNative();

if (cuda.isUsable) {
  describeKernelBackend('cuda', createCudaBackend, createReferenceBackend, CUDA_TRAITS);

  describe('cuda: the device', () => {
    it('describes itself and its own memory', async () => {
      const backend = await createCudaBackend();
      expect(backend.name).toBe('cuda');
      expect(backend.device).toMatchObject({ arch: `sm_${cuda.computeCapability!.replace('.', '')}`, numThreads: 1 });
      expect(backend.device.description).toContain(cuda.name);
      expect(backend.device.freeBytes).toBeGreaterThan(0);
      expect(backend.device.freeBytes).toBeLessThanOrEqual(cuda.memoryBytes!);
      expect(await backend.measureReadBandwidth()).toBeGreaterThan(1e10);
      backend.dispose();
    });
  });
} else {
  describe('cuda: the backend contract', () => {
    it('runs where there is a GPU', (context) => {
      context.skip(cuda.isBuilt ? cuda.problem : `this build has no CUDA kernels (${cuda.problem})`);
    });
  });
}
