import { createCpuBackend } from '@qspec/kernels';
import { expect, it } from 'vitest';
import { MAX_BUSY_MS, MAX_PAUSE_MS, repeatedGaps } from '../../core/testing/event-loop-gaps.js';
import { TALLY, tallyQuestions } from '../testing/tally.js';
import { LLM } from './llm.js';

const isShort = {
  busyMs: expect.toSatisfy((ms: number) => ms <= MAX_BUSY_MS),
  pauseMs: expect.toSatisfy((ms: number) => ms <= MAX_PAUSE_MS),
};

it('keeps a timer ticking while a model loads and decodes', async () => {
  const backend = createCpuBackend({ numThreads: 1 });
  let llm!: LLM;
  const loading = await repeatedGaps(async () => {
    await llm?.close();
    llm = await LLM.load(TALLY, { backend });
  });
  const decoding = await repeatedGaps(() =>
    Promise.all(tallyQuestions(8).map((messages) => llm.generate({ messages, temperature: 0, maxTokens: 40 }))),
  );
  const question = 'Add 3 and 4. '.repeat(4000);
  const refusing = await repeatedGaps(() => llm.generate({ prompt: question }).catch(() => undefined));
  await llm.close();
  backend.dispose();
  expect({ loading, decoding, refusing }).toEqual({ loading: isShort, decoding: isShort, refusing: isShort });
});
