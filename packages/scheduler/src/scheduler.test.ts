import { ConfigError, ContextLengthError, InvariantError, KvCacheExhaustedError } from '@qspec/core';
import { KvCacheManager } from '@qspec/kv-cache';
import { describe, expect, it } from 'vitest';
import { CountingAllocator } from './counting-allocator.js';
import type { EntryResult, ScheduledBatch } from './scheduled-batch.js';
import { Scheduler } from './scheduler.js';
import type { SchedulerOptions } from './scheduler-options.js';

const range = (length: number, first = 0) => Array.from({ length }, (_, i) => first + i);

function make(options: Partial<SchedulerOptions> = {}): Scheduler {
  const allocator = new CountingAllocator({ numPages: 64, pageSize: 4 });
  return new Scheduler({ allocator, maxBatchedTokens: 32, maxRunning: 4, maxSequenceLen: 100, ...options });
}

/** Emits what is asked for, accepting every draft. */
function acceptAll(batch: ScheduledBatch): EntryResult[] {
  return batch.entries.map(({ emit, gamma }) => ({ tokens: emit ? range(gamma + 1, 500) : [], numAccepted: gamma }));
}

function round(scheduler: Scheduler, results = acceptAll): ScheduledBatch {
  const batch = scheduler.schedule()!;
  scheduler.complete(batch, results(batch));
  return batch;
}

describe('Scheduler', () => {
  it('prefills in chunks within the budget and emits after the last', () => {
    const scheduler = make({ maxBatchedTokens: 8 });
    scheduler.add({ requestId: 1, promptTokens: range(20), maxTokens: 2 });
    const chunks = [round(scheduler), round(scheduler), round(scheduler)].map((batch) => batch.entries[0]!);
    expect(chunks.map((chunk) => [chunk.startPosition, chunk.numInputs, chunk.emit])).toEqual([
      [0, 8, false],
      [8, 8, false],
      [16, 4, true],
    ]);
    expect(scheduler.schedule()!.entries[0]).toMatchObject({ startPosition: 20, numInputs: 1, isPrefill: false });
  });

  it('decodes beside a long prefill, and puts decodes first', () => {
    const scheduler = make({ maxBatchedTokens: 8, gamma: 4 });
    scheduler.add({ requestId: 1, promptTokens: [1], maxTokens: 50 });
    round(scheduler);
    scheduler.add({ requestId: 2, promptTokens: range(40), maxTokens: 1 });
    const { entries, numRows } = scheduler.schedule()!;
    expect(entries.map(({ requestId, isPrefill, gamma }) => [requestId, isPrefill, gamma])).toEqual([
      [1, false, 4],
      [2, true, 0],
    ]);
    expect(numRows).toBe(8);
  });

  it('gives a prefill its rows although speculation would take them all', () => {
    const scheduler = make({ maxBatchedTokens: 16, maxRunning: 4, gamma: 8 });
    for (const requestId of [1, 2, 3]) scheduler.add({ requestId, promptTokens: [1], maxTokens: 90 });
    round(scheduler);
    expect(scheduler.schedule()).toMatchObject({ numRows: 15 });
    const other = make({ maxBatchedTokens: 16, maxRunning: 4, gamma: 8 });
    for (const requestId of [1, 2, 3]) other.add({ requestId, promptTokens: [1], maxTokens: 90 });
    round(other);
    other.add({ requestId: 4, promptTokens: range(50), maxTokens: 1 });
    expect(other.schedule()!.entries.at(-1)).toMatchObject({ requestId: 4, numInputs: 4 });
  });

  it('never drafts beyond what may be emitted or what the context holds', () => {
    const scheduler = make({ gamma: 8, maxSequenceLen: 12 });
    scheduler.add({ requestId: 1, promptTokens: range(8), maxTokens: 100 });
    scheduler.add({ requestId: 2, promptTokens: [1], maxTokens: 3 });
    round(scheduler);
    const batch = scheduler.schedule()!;
    expect(batch.entries.map((entry) => entry.gamma)).toEqual([2, 1]);
    const finished = scheduler.complete(batch, acceptAll(batch));
    expect(finished.map(({ requestId, reason, tokens }) => [requestId, reason, tokens.length])).toEqual([
      [1, 'length', 4],
      [2, 'length', 3],
    ]);
  });

  it('commits the input and the accepted drafts, and gives back the pages of the rest', () => {
    const allocator = new KvCacheManager({ numPages: 16, pageSize: 4 });
    const scheduler = make({ allocator, gamma: 8 });
    scheduler.add({ requestId: 1, promptTokens: [1, 2], maxTokens: 50 });
    round(scheduler);
    const batch = scheduler.schedule()!;
    expect(allocator.capacityLen(1)).toBeGreaterThanOrEqual(2 + 1 + 8);
    scheduler.complete(batch, [{ tokens: [7, 8, 9], numAccepted: 2 }]);
    expect([allocator.committedLen(1), allocator.capacityLen(1)]).toEqual([5, 8]);
    expect([...scheduler.tokensOf(1)]).toEqual([1, 2, 500, 7, 8, 9]);
    expect([...scheduler.schedule()!.entries[0]!.tokens]).toEqual([9]);
  });

  it('commits only tokens that were kept when a stop cuts the round short', () => {
    const committed: number[] = [];
    class Recording extends CountingAllocator {
      override commit(sequenceId: number, tokens: ArrayLike<number>): void {
        committed.push(...Array.from(tokens));
        super.commit(sequenceId, tokens);
      }
    }
    const scheduler = make({ allocator: new Recording({ numPages: 16, pageSize: 4 }), gamma: 4 });
    scheduler.add({ requestId: 1, promptTokens: [1, 2], maxTokens: 50 });
    round(scheduler);
    const batch = scheduler.schedule()!;
    const [finished] = scheduler.complete(batch, [{ tokens: [7, 8], numAccepted: 4, finished: true }]);
    expect(finished).toMatchObject({ reason: 'stop', tokens: Int32Array.from([500, 7, 8]) });
    expect(committed).toEqual([1, 2, 500, 7, 8]);
  });

  it('preempts the most recent arrival when pages run out, and resumes it with its output', () => {
    const allocator = new KvCacheManager({ numPages: 5, pageSize: 4 });
    const scheduler = make({ allocator });
    scheduler.add({ requestId: 1, promptTokens: range(7), maxTokens: 8 });
    scheduler.add({ requestId: 2, promptTokens: range(3, 50), maxTokens: 8 });
    const finished = [];
    while (scheduler.hasWork) {
      const batch = scheduler.schedule()!;
      const results = batch.entries.map(({ emit, startPosition, numInputs }) => ({
        tokens: emit ? [900 + startPosition + numInputs] : [],
        numAccepted: 0,
      }));
      finished.push(...scheduler.complete(batch, results));
    }
    expect(scheduler.stats.numPreemptions).toBeGreaterThan(0);
    expect(finished.map(({ requestId, numPreemptions }) => [requestId, numPreemptions > 0])).toEqual([
      [1, false],
      [2, true],
    ]);
    expect([...finished[1]!.tokens]).toEqual(range(8, 903));
    expect(allocator.numAvailablePages).toBe(5);
  });

  it('fails a request that outgrows the whole pool, and goes on with the others', () => {
    const scheduler = make({ allocator: new CountingAllocator({ numPages: 2, pageSize: 2 }) });
    scheduler.add({ requestId: 1, promptTokens: [1, 2], maxTokens: 50 });
    scheduler.add({ requestId: 2, promptTokens: [1, 2], maxTokens: 1 });
    const failures = [];
    while (scheduler.hasWork) {
      const batch = scheduler.schedule();
      failures.push(...scheduler.takeFailures());
      if (batch) scheduler.complete(batch, acceptAll(batch));
    }
    expect(failures.map(({ requestId, error }) => [requestId, error instanceof KvCacheExhaustedError])).toEqual([
      [1, true],
    ]);
    expect(scheduler.stats).toMatchObject({ numFinished: 1, numFailed: 1 });
  });

  it('keeps the pages of an aborted request until its batch completes', () => {
    const allocator = new CountingAllocator({ numPages: 8, pageSize: 4 });
    const scheduler = make({ allocator });
    scheduler.add({ requestId: 1, promptTokens: range(8), maxTokens: 5 });
    const batch = scheduler.schedule()!;
    expect(scheduler.abort(1)).toBe(true);
    expect(scheduler.abort(1)).toBe(false);
    expect(allocator.numAvailablePages).toBe(6);
    expect(scheduler.complete(batch, acceptAll(batch))).toEqual([]);
    expect([allocator.numAvailablePages, scheduler.hasWork]).toEqual([8, false]);
  });

  it('repeats a discarded batch', () => {
    const scheduler = make();
    scheduler.add({ requestId: 1, promptTokens: range(8), maxTokens: 5 });
    const batch = scheduler.schedule()!;
    scheduler.discard(batch);
    expect(scheduler.schedule()).toEqual(batch);
  });

  it('counts acceptance by request and in all', () => {
    const scheduler = make({ gamma: 3 });
    scheduler.add({ requestId: 1, promptTokens: [1], maxTokens: 50 });
    round(scheduler);
    round(scheduler, () => [{ tokens: [1, 2], numAccepted: 1 }]);
    expect(scheduler.acceptanceOf(1)).toEqual(scheduler.stats.acceptance);
    expect(scheduler.acceptanceOf(1)).toMatchObject({
      numRounds: 1,
      numProposed: 3,
      numAccepted: 1,
      meanAcceptedLen: 2,
    });
  });

  it('honours a request’s own limit on drafts', () => {
    const scheduler = make({ gamma: 5 });
    scheduler.add({ requestId: 1, promptTokens: [1], maxTokens: 50, maxGamma: 0 });
    round(scheduler);
    expect(scheduler.schedule()!.entries[0]!.gamma).toBe(0);
  });

  it.each([
    [{ gamma: -1 }, '`gamma`'],
    [{ gamma: 1.5 }, '`gamma`'],
    [{ gamma: Number.NaN }, '`gamma`'],
    [{ maxRunning: 0 }, '`maxRunning`'],
    [{ maxBatchedTokens: 3 }, '`maxBatchedTokens`'],
    [{ maxSequenceLen: 1 }, '`maxSequenceLen`'],
  ])('rejects options %o', (options, name) => {
    expect(() => make(options)).toThrow(ConfigError);
    expect(() => make(options)).toThrow(name);
  });

  it('rejects bad requests and queues nothing', () => {
    const scheduler = make({ allocator: new CountingAllocator({ numPages: 4, pageSize: 4 }), maxSequenceLen: 20 });
    const add = (request: object) => () => scheduler.add({ requestId: 1, promptTokens: [1], maxTokens: 1, ...request });
    expect(add({ promptTokens: [] })).toThrow(ConfigError);
    expect(add({ maxTokens: 0 })).toThrow(ConfigError);
    expect(add({ maxGamma: -1 })).toThrow(ConfigError);
    expect(add({ requestId: -1 })).toThrow(ConfigError);
    expect(add({ promptTokens: range(20) })).toThrow(ContextLengthError);
    expect(add({ promptTokens: range(17) })).toThrow(KvCacheExhaustedError);
    expect(scheduler.hasWork).toBe(false);
    add({})();
    expect(add({})).toThrow(/to be unused/);
  });

  it('rejects results that do not fit, and a second batch in flight', () => {
    const scheduler = make({ gamma: 2 });
    scheduler.add({ requestId: 1, promptTokens: [1], maxTokens: 50 });
    const batch = scheduler.schedule()!;
    expect(() => scheduler.schedule()).toThrow(InvariantError);
    expect(() => scheduler.complete(batch, [])).toThrow(/1 results/);
    expect(() => scheduler.complete(batch, [{ tokens: [], numAccepted: 0 }])).toThrow(InvariantError);
    expect(() => scheduler.complete(batch, [{ tokens: [1, 2], numAccepted: 1 }])).toThrow(InvariantError);
    expect(() => scheduler.complete(batch, [{ tokens: [1, 2], numAccepted: 0 }])).toThrow(InvariantError);
    scheduler.complete(batch, [{ tokens: [1], numAccepted: 0 }]);
    expect(() => scheduler.complete(batch, [{ tokens: [1], numAccepted: 0 }])).toThrow(InvariantError);
  });
});
