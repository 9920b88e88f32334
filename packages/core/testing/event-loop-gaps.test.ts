import { describe, expect, it } from 'vitest';
import { longestGaps, MAX_BUSY_MS, repeatedGaps, threadMs } from './event-loop-gaps.js';

async function pause(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 10));
}

/** Computes for `ms` at once. */
async function keepBusy(ms: number): Promise<void> {
  await pause();
  for (const start = threadMs(); threadMs() - start < ms; );
  await pause();
}

describe('gaps of the event loop', () => {
  it('show a thread that is kept busy', async () => {
    expect((await longestGaps(() => keepBusy(80))).busyMs).toBeGreaterThan(70);
  });

  it('show what keeps it busy in every run, and not what did once', async () => {
    expect((await repeatedGaps(() => keepBusy(80))).busyMs).toBeGreaterThan(70);
    let run = 0;
    expect((await repeatedGaps(() => keepBusy(run++ === 0 ? 80 : 1))).busyMs).toBeLessThan(MAX_BUSY_MS);
  });
});
