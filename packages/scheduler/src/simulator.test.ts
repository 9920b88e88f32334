import { describe, expect, it } from 'vitest';
import { CountingAllocator } from './counting-allocator.js';
import { simulate } from './simulator.js';
import { SyntheticDevice } from './synthetic-device.js';

/** A memory-bound device: a pass costs the same for any few rows, a draft step a quarter of it. */
function run(gamma: number, acceptance: number) {
  return simulate({
    scheduler: {
      allocator: new CountingAllocator({ numPages: 256, pageSize: 16 }),
      maxBatchedTokens: 128,
      maxRunning: 4,
      maxSequenceLen: 512,
      gamma,
    },
    device: { targetMs: (rows) => Math.max(10, rows / 8), draftMs: () => 2.5, acceptance },
    requests: [0, 1, 2, 3, 4, 5].map((requestId) => ({
      requestId,
      promptTokens: new Int32Array(50),
      maxTokens: 100,
      arrivalMs: requestId * 20,
    })),
  });
}

describe('simulate', () => {
  it('finishes every request with the device’s tokens', () => {
    const { outcomes, failedIds, stats } = run(4, 0.8);
    expect(failedIds).toEqual([]);
    expect(stats.numFinished).toBe(6);
    for (const { requestId, tokens, firstTokenMs, totalMs } of outcomes) {
      expect(tokens).toEqual(Int32Array.from({ length: 100 }, (_, i) => SyntheticDevice.tokenAt(requestId, 50 + i)));
      expect(firstTokenMs).toBeGreaterThan(0);
      expect(firstTokenMs).toBeLessThan(totalMs);
    }
  });

  it('shows that drafts pay when they are right, and cost when they are wrong', () => {
    const plain = run(0, 0).tokensPerSecond;
    expect(run(4, 0.9).tokensPerSecond).toBeGreaterThan(1.5 * plain);
    expect(run(4, 0).tokensPerSecond).toBeLessThan(0.7 * plain);
  });

  it('measures the acceptance that the device was given', () => {
    const { positions } = run(3, 0.8).stats.acceptance;
    for (const { conditionalRate } of positions) expect(Math.abs(conditionalRate - 0.8)).toBeLessThan(0.1);
  });
});
