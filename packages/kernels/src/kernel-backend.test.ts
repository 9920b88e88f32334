import { describeKernelBackend } from '../testing/kernel-backend.case.js';
import { availableCpuIsas, createCpuBackend, createReferenceBackend } from './backend.js';

describeKernelBackend('reference', () => createReferenceBackend({ numThreads: 2 }), createReferenceBackend);

for (const isa of availableCpuIsas()) {
  describeKernelBackend(`cpu ${isa}`, () => createCpuBackend({ isa, numThreads: 2 }), createReferenceBackend);
}
