import type { KvAllocator } from '@qspec/core';
import { checkIntegrity, KvCacheManager } from '@qspec/kv-cache';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CountingAllocator } from './counting-allocator.js';
import type { EntryResult, ScheduledBatch } from './scheduled-batch.js';
import { Scheduler } from './scheduler.js';
import { SyntheticDevice } from './synthetic-device.js';

interface Scenario {
  readonly pageSize: number;
  readonly numPages: number;
  readonly maxRunning: number;
  readonly spareRows: number;
  readonly gamma: number;
  readonly acceptance: number;
  readonly seed: number;
  readonly isShared: boolean;
  readonly requests: readonly RequestSpec[];
}

interface RequestSpec {
  readonly arrivalRound: number;
  readonly promptLen: number;
  readonly maxTokens: number;
  /** End by `finished` after this many tokens. */
  readonly stopAfter: number | undefined;
  /** Abort in this round after arrival; odd numbers while the batch is in flight. */
  readonly abortAfter: number | undefined;
  readonly sharesPrompt: boolean;
}

const request: fc.Arbitrary<RequestSpec> = fc.record({
  arrivalRound: fc.integer({ min: 0, max: 20 }),
  promptLen: fc.integer({ min: 1, max: 40 }),
  maxTokens: fc.integer({ min: 1, max: 30 }),
  stopAfter: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined, freq: 2 }),
  abortAfter: fc.option(fc.integer({ min: 0, max: 12 }), { nil: undefined, freq: 2 }),
  sharesPrompt: fc.boolean(),
});

const scenario: fc.Arbitrary<Scenario> = fc.record({
  pageSize: fc.constantFrom(1, 4, 8),
  numPages: fc.integer({ min: 2, max: 40 }),
  maxRunning: fc.integer({ min: 1, max: 6 }),
  spareRows: fc.integer({ min: 0, max: 30 }),
  gamma: fc.integer({ min: 0, max: 8 }),
  acceptance: fc.constantFrom(0, 0.5, 0.9, 1),
  seed: fc.integer(),
  isShared: fc.boolean(),
  requests: fc.array(request, { minLength: 1, maxLength: 12 }),
});

const MAX_SEQUENCE_LEN = 60;

/** Plays one scenario to its end, checking everything that must hold after every step. */
class Play {
  readonly spec: Scenario;
  readonly allocator: KvAllocator;
  readonly manager: KvCacheManager | undefined;
  readonly scheduler: Scheduler;
  readonly device: SyntheticDevice;
  readonly maxBatchedTokens: number;
  /** requestId → tokens received so far. */
  readonly received = new Map<number, number[]>();
  readonly ended = new Map<number, 'stop' | 'length' | 'aborted' | 'failed' | 'rejected'>();
  round = 0;

  constructor(spec: Scenario) {
    this.spec = spec;
    const { numPages, pageSize, maxRunning } = spec;
    this.manager = spec.isShared ? new KvCacheManager({ numPages, pageSize }) : undefined;
    this.allocator = this.manager ?? new CountingAllocator({ numPages, pageSize });
    this.maxBatchedTokens = maxRunning + spec.spareRows;
    this.scheduler = new Scheduler({
      allocator: this.allocator,
      maxBatchedTokens: this.maxBatchedTokens,
      maxRunning,
      maxSequenceLen: MAX_SEQUENCE_LEN,
      gamma: spec.gamma,
    });
    this.device = new SyntheticDevice({
      targetMs: () => 1,
      draftMs: () => 1,
      acceptance: spec.acceptance,
      seed: spec.seed,
    });
  }

  run(): void {
    const lastArrival = Math.max(...this.spec.requests.map((each) => each.arrivalRound));
    while (this.round <= lastArrival || this.scheduler.hasWork) {
      this.arrive();
      this.abortDue(0);
      this.step();
      this.round += 1;
      expect(this.round).toBeLessThan(this.maxRounds());
    }
    expect(this.ended.size).toBe(this.spec.requests.length);
    expect(this.allocator.numAvailablePages).toBe(this.spec.numPages);
    expect(this.scheduler.stats).toMatchObject({ numWaiting: 0, numPrefilling: 0, numDecoding: 0 });
  }

  /** No starvation: one request after another, one row a round, each preempted by every other, would be done by then. */
  maxRounds(): number {
    const rows = this.spec.requests.reduce((total, each) => total + each.promptLen + each.maxTokens, 0);
    return 50 + rows * (1 + this.spec.requests.length);
  }

  prompt(requestId: number): number[] {
    const { promptLen, sharesPrompt } = this.spec.requests[requestId]!;
    return Array.from({ length: promptLen }, (_, i) => (sharesPrompt ? i : i + 1000 * (requestId + 1)));
  }

  expected(requestId: number): number[] {
    const { promptLen, maxTokens } = this.spec.requests[requestId]!;
    const length = Math.min(maxTokens, MAX_SEQUENCE_LEN - promptLen);
    return Array.from({ length }, (_, i) => SyntheticDevice.tokenAt(requestId, promptLen + i));
  }

  arrive(): void {
    this.spec.requests.forEach((each, requestId) => {
      if (each.arrivalRound !== this.round) return;
      const add = () =>
        this.scheduler.add({ requestId, promptTokens: this.prompt(requestId), maxTokens: each.maxTokens });
      if (each.promptLen > this.spec.numPages * this.spec.pageSize) {
        expect(add).toThrow(/to fit the KV cache/);
        this.ended.set(requestId, 'rejected');
        return;
      }
      add();
      this.received.set(requestId, []);
    });
  }

  abortDue(parity: 0 | 1): void {
    this.spec.requests.forEach(({ arrivalRound, abortAfter }, requestId) => {
      if (abortAfter === undefined || abortAfter % 2 !== parity || arrivalRound + abortAfter !== this.round) return;
      if (this.ended.has(requestId)) {
        expect(this.scheduler.abort(requestId)).toBe(false);
        return;
      }
      expect(this.scheduler.abort(requestId)).toBe(true);
      this.ended.set(requestId, 'aborted');
    });
  }

  step(): void {
    const batch = this.scheduler.schedule();
    for (const { requestId, error } of this.scheduler.takeFailures()) {
      expect(error.code).toBe('KV_CACHE_EXHAUSTED');
      const numTokens = this.spec.requests[requestId]!.promptLen + this.received.get(requestId)!.length;
      expect(numTokens).toBeGreaterThan(this.spec.numPages * this.spec.pageSize);
      this.ended.set(requestId, 'failed');
    }
    if (!batch) {
      expect(this.scheduler.hasWork).toBe(false);
      return;
    }
    this.checkBatch(batch);
    this.abortDue(1);
    if (this.round % 7 === 6) this.scheduler.discard(batch);
    else this.complete(batch);
    this.checkMemory();
  }

  complete(batch: ScheduledBatch): void {
    const { results } = this.device.run(batch);
    const cut = results.map((result, index) => this.cut(batch.entries[index]!.requestId, result));
    batch.entries.forEach(({ requestId }, index) => {
      if (!this.ended.has(requestId)) this.received.get(requestId)!.push(...Array.from(cut[index]!.tokens));
    });
    for (const finished of this.scheduler.complete(batch, cut)) {
      const { requestId, reason } = finished;
      expect(this.ended.has(requestId)).toBe(false);
      this.ended.set(requestId, reason);
      const expected = this.expected(requestId);
      const { stopAfter } = this.spec.requests[requestId]!;
      const isStop = stopAfter !== undefined && stopAfter <= expected.length;
      expect(reason).toBe(isStop ? 'stop' : 'length');
      expect([...finished.tokens]).toEqual(isStop ? expected.slice(0, stopAfter) : expected);
      expect(this.received.get(requestId)).toEqual([...finished.tokens]);
    }
  }

  /** What an engine does at a stop token: drop what follows it and say so. */
  cut(requestId: number, result: EntryResult): EntryResult {
    const { stopAfter } = this.spec.requests[requestId]!;
    const numLeft = (stopAfter ?? Number.POSITIVE_INFINITY) - this.received.get(requestId)!.length;
    if (result.tokens.length < numLeft) return result;
    return { ...result, tokens: Array.from(result.tokens).slice(0, numLeft), finished: true };
  }

  checkBatch(batch: ScheduledBatch): void {
    const rows = batch.entries.reduce((total, entry) => total + entry.numInputs + entry.gamma, 0);
    expect(batch.numRows).toBe(rows);
    expect(rows).toBeLessThanOrEqual(this.maxBatchedTokens);
    expect(batch.entries.length).toBeLessThanOrEqual(this.spec.maxRunning);
    const order = batch.entries.map((entry) => entry.isPrefill);
    expect(order).toEqual([...order].sort((a, b) => Number(a) - Number(b)));
    for (const entry of batch.entries) {
      const { requestId, startPosition, numInputs, gamma, emit } = entry;
      const known = [...this.prompt(requestId), ...this.received.get(requestId)!];
      expect([...entry.tokens]).toEqual(known.slice(startPosition, startPosition + numInputs));
      expect(this.allocator.committedLen(requestId)).toBe(startPosition);
      expect(this.allocator.capacityLen(requestId)).toBeGreaterThanOrEqual(startPosition + numInputs + gamma);
      expect(startPosition + numInputs + gamma).toBeLessThan(MAX_SEQUENCE_LEN);
      expect(emit).toBe(startPosition + numInputs === known.length);
      if (gamma > 0) expect([numInputs, emit]).toEqual([1, true]);
      expect(known.length + gamma + 1).toBeLessThanOrEqual(
        this.prompt(requestId).length + Math.max(1, this.expected(requestId).length),
      );
    }
    this.checkProgress(batch);
  }

  /** The oldest request that runs is in the batch, and every decoding request but the preempted ones. */
  checkProgress(batch: ScheduledBatch): void {
    const { numDecoding } = this.scheduler.stats;
    expect(batch.entries.filter((entry) => !entry.isPrefill).length).toBe(numDecoding);
    const alive = [...this.received.keys()].filter((requestId) => !this.ended.has(requestId));
    const oldest = alive.sort((a, b) => this.arrivalOrder(a) - this.arrivalOrder(b))[0]!;
    expect(batch.entries.map((entry) => entry.requestId)).toContain(oldest);
  }

  arrivalOrder(requestId: number): number {
    return this.spec.requests[requestId]!.arrivalRound * 100 + requestId;
  }

  checkMemory(): void {
    if (this.manager) checkIntegrity(this.manager);
    for (const requestId of this.received.keys()) {
      if (this.ended.has(requestId)) expect(this.scheduler.has(requestId)).toBe(false);
    }
  }
}

describe('Scheduler, random arrivals, aborts, page shortage and acceptance', () => {
  it('gives every request exactly its tokens, within budget, leaking nothing, starving no one', () => {
    fc.assert(
      fc.property(scenario, (spec) => new Play(spec).run()),
      { numRuns: 300 },
    );
  });
});
