import { readFileSync } from 'node:fs';
import { createCpuBackend } from '@qspec/kernels';
import { expect, it } from 'vitest';
import { TALLY, tallyQuestions } from '../testing/tally.js';
import { LLM } from './llm.js';

/** Longest stretch that this thread may compute between two ticks of a timer. */
const MAX_BUSY_MS = 50;
/** Longest pause of the timer by the clock. Looser: on a shared machine other processes take the core for longer than we ever do. */
const MAX_PAUSE_MS = 300;

/** Milliseconds that this thread has computed; where the system does not tell, the clock has to do. */
function threadMs(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  } catch {
    return performance.now();
  }
}

/** Runs `work` beside a timer. @returns the longest stretch of computing and the longest pause between two ticks. */
async function longestGap(work: () => Promise<unknown>) {
  const longest = { busyMs: 0, pauseMs: 0 };
  let last = { busy: threadMs(), clock: performance.now() };
  const tick = () => {
    const now = { busy: threadMs(), clock: performance.now() };
    longest.busyMs = Math.max(longest.busyMs, now.busy - last.busy);
    longest.pauseMs = Math.max(longest.pauseMs, now.clock - last.clock);
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

const isShort = {
  busyMs: expect.toSatisfy((ms: number) => ms <= MAX_BUSY_MS),
  pauseMs: expect.toSatisfy((ms: number) => ms <= MAX_PAUSE_MS),
};

it('would show a thread that is kept busy', async () => {
  const { busyMs } = await longestGap(async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    for (const start = threadMs(); threadMs() - start < 80; );
  });
  expect(busyMs).toBeGreaterThan(70);
});

it('keeps a timer ticking while a model loads and decodes', async () => {
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
  expect({ loading, decoding, refusing }).toEqual({ loading: isShort, decoding: isShort, refusing: isShort });
});
