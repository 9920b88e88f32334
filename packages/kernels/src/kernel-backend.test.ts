import { CPU_TRAITS } from '../testing/backend-traits.js';
import { describeKernelBackend } from '../testing/kernel-backend.case.js';
import { availableCpuIsas, createCpuBackend, createReferenceBackend } from './cpu-backend.js';

describeKernelBackend('reference', () => createReferenceBackend({ numThreads: 2 }), createReferenceBackend, CPU_TRAITS);

for (const isa of availableCpuIsas()) {
  describeKernelBackend(
    `cpu ${isa}`,
    () => createCpuBackend({ isa, numThreads: 2 }),
    createReferenceBackend,
    CPU_TRAITS,
  );
}
