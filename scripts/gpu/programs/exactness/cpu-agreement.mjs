import { LLM, Model } from '@qspec/engine';
import { createBackend } from '@qspec/kernels';
import { numSame } from './compare.mjs';
import { generateAll } from './text.mjs';

/** Reported, not checked: devices round differently, so a close call between two tokens may go the other way. */
export async function reportCpuAgreement(path, weights, requests, results, report) {
  const { backend } = await createBackend({ device: 'cpu' });
  try {
    await using model = await Model.load(path, { backend });
    await using llm = await LLM.create(model, { target: weights.target, draft: 'none' });
    const isGreedy = (_, i) => requests[i].kind === 'greedy';
    const onCpu = await generateAll(llm, requests.filter(isGreedy), 0);
    const same = numSame(onCpu, results.filter(isGreedy));
    report.note(`${weights.name}: greedy text as on the CPU for ${same} of ${onCpu.length} problems`);
  } finally {
    backend.dispose();
  }
}
