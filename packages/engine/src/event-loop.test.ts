import { createCpuBackend } from '@qspec/kernels';
import { expect, it } from 'vitest';
import { TALLY, tallyQuestions } from '../testing/tally.js';
import { LLM } from './llm.js';

/** Longest time between two ticks of a timer while a model loads or decodes. */
const MAX_GAP_MS = 50;

/** Runs `work` beside a timer. @returns the longest pause of the timer in milliseconds. */
async function longestGap(work: () => Promise<unknown>): Promise<number> {
  let last = performance.now();
  let longest = 0;
  const tick = () => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  };
  const timer = setInterval(tick, 1);
  try {
    await work();
  } finally {
    tick();
    clearInterval(timer);
  }
  return longest;
}

// A machine that is busy with other things may take the processor away for longer than that, hence the second and third chance.
it('keeps a timer ticking while a model loads and decodes', { retry: 2 }, async () => {
  const backend = createCpuBackend({ numThreads: 1 });
  let llm!: LLM;
  const loading = await longestGap(async () => {
    llm = await LLM.load(TALLY, { backend });
  });
  const decoding = await longestGap(() =>
    Promise.all(tallyQuestions(8).map((messages) => llm.generate({ messages, temperature: 0, maxTokens: 40 }))),
  );
  const question = 'Add 3 and 4. '.repeat(4000);
  const refusing = await longestGap(() => llm.generate({ prompt: question }).catch(() => undefined));
  await llm.close();
  backend.dispose();
  expect({ loading, decoding, refusing }).toEqual({
    loading: expect.toSatisfy((ms: number) => ms <= MAX_GAP_MS),
    decoding: expect.toSatisfy((ms: number) => ms <= MAX_GAP_MS),
    refusing: expect.toSatisfy((ms: number) => ms <= MAX_GAP_MS),
  });
});
