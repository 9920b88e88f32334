import { ConfigError, type ForwardBatch, QSpecError, type RoundBatch, resolveSamplingParams } from '@qspec/core';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chainBatch, forwardAll } from '../testing/drive.js';
import { openTinySession, randomTokens, randomWeight, TINY } from '../testing/tiny-model.js';
import { createCpuBackend } from './cpu-backend.js';
import type { ProfilingSession } from './session.js';

const backend = createCpuBackend({ numThreads: 2 });
let session: ProfilingSession;
beforeAll(async () => {
  session = (await openTinySession(backend)) as ProfilingSession;
});
afterAll(() => {
  session.dispose();
  backend.dispose();
});

const good = (): ForwardBatch => chainBatch(randomTokens(20, 1), 0, [0, 1]);
const goodRound = (): RoundBatch => ({
  pageOffsets: Int32Array.of(0, 2),
  pageIds: Int32Array.of(0, 1),
  tokenOffsets: Int32Array.of(0, 1),
  tokens: Int32Array.of(3),
  startPositions: Int32Array.of(4),
  emit: Uint8Array.of(1),
  gammas: Int32Array.of(2),
  samplers: [{ params: resolveSamplingParams(), stream: 0, history: new Int32Array(0), numPromptTokens: 0 }],
});

describe('bad arguments of forward', () => {
  const cases: Record<string, Partial<Record<keyof ForwardBatch, unknown>>> = {
    'a token beyond the vocabulary': { tokens: new Int32Array(20).fill(TINY.vocabSize) },
    'a negative token': { tokens: new Int32Array(20).fill(-1) },
    'a page beyond the pool': { pageIds: Int32Array.of(0, TINY.numPages) },
    'pages that do not cover a position': { pageIds: Int32Array.of(0), pageOffsets: Int32Array.of(0, 1) },
    'offsets that do not end with the pages': { pageOffsets: Int32Array.of(0, 9) },
    'offsets that fall': { pageOffsets: Int32Array.of(0, 2, 1, 2) },
    'a sequence without pages': { sequences: new Int32Array(20).fill(1) },
    'two rows in one slot': { positions: new Int32Array(20) },
    'too few positions': { positions: new Int32Array(3) },
    'a logit row beyond the rows': { logitRows: Int32Array.of(20) },
    'a label beyond the vocabulary': { labels: new Int32Array(20).fill(1000) },
    'the wrong array type': { tokens: new Float32Array(20) },
    'no array at all': { positions: undefined },
    'ancestor slots out of range': {
      ancestors: {
        maxAncestors: 1,
        ancestorStarts: Int32Array.from({ length: 20 }, (_, i) => i),
        ancestorSlots: new Int32Array(20).fill(1 << 30),
      },
    },
    'ancestors that do not reach the row': {
      ancestors: { maxAncestors: 1, ancestorStarts: new Int32Array(20), ancestorSlots: new Int32Array(20) },
    },
  };
  for (const [name, change] of Object.entries(cases)) {
    it(`refuses ${name}`, async () => {
      await expect(session.forward({ ...good(), ...change } as ForwardBatch)).rejects.toThrow(ConfigError);
    });
  }

  it('works on after all of them', async () => {
    expect((await forwardAll(session, randomTokens(4, 1), 4, [0])).every(Number.isFinite)).toBe(true);
  });
});

describe('bad arguments of round', () => {
  const sampler = goodRound().samplers[0]!;
  const cases: Record<string, Partial<Record<keyof RoundBatch, unknown>>> = {
    'a negative gamma': { gammas: Int32Array.of(-1) },
    'gamma without emission': { emit: Uint8Array.of(0) },
    'gamma beyond the pages': { gammas: Int32Array.of(28) },
    'rows beyond maxRows': { gammas: Int32Array.of(100_000) },
    'a draft token beyond the vocabulary': { draftTokens: Int32Array.of(1, TINY.vocabSize) },
    'too few draft tokens': { draftTokens: Int32Array.of(1) },
    'a negative start': { startPositions: Int32Array.of(-3) },
    'no samplers': { samplers: [] },
    'a NaN temperature': { samplers: [{ ...sampler, params: { ...sampler.params, temperature: Number.NaN } }] },
    'a bias beyond the vocabulary': { samplers: [{ ...sampler, params: { ...sampler.params, logitBias: { 97: 1 } } }] },
    'history beyond the vocabulary': { samplers: [{ ...sampler, history: Int32Array.of(4000) }] },
  };
  for (const [name, change] of Object.entries(cases)) {
    it(`refuses ${name}`, async () => {
      await expect(session.round({ ...goodRound(), ...change } as RoundBatch)).rejects.toThrow(ConfigError);
    });
  }
});

it('answers any integers with a result or a typed error', async () => {
  const ints = fc.array(fc.integer({ min: -3, max: 40 }), { maxLength: 6 }).map((values) => Int32Array.from(values));
  const record = fc.record({
    tokens: ints,
    positions: ints,
    sequences: ints,
    pageOffsets: ints,
    pageIds: ints,
    logitRows: ints,
  });
  await fc.assert(
    fc.asyncProperty(record, fc.boolean(), async (batch, isDraft) => {
      try {
        await session.forward({ ...batch, program: isDraft ? 'draft' : 'target' });
      } catch (error) {
        expect(error).toBeInstanceOf(QSpecError);
      }
    }),
    { numRuns: 300 },
  );
});

it('names the tensor whose arrays have the wrong length', async () => {
  const source = randomWeight('layers.3.up', 32, 64, { kind: 'int4', groupSize: 32, hadamardBlock: 0 }, 1);
  const short = { ...source, hi: new Int32Array(3) } as typeof source;
  await expect(backend.createWeight([short])).rejects.toThrow(/`hi` of layers.3.up to be Int32Array of 256/);
});

it('tells where the time went, when asked', async () => {
  await session.forward(good());
  expect(session.profile()).toEqual([]);
  session.setProfiling(true);
  await session.forward(good());
  const linear = session.profile().find((entry) => entry.op === 'linear');
  expect(linear).toMatchObject({ program: 'target', calls: 4 * TINY.numLayers + 1 });
  expect(linear!.totalMs).toBeGreaterThan(0);
  session.setProfiling(false);
});

it('leaves the event loop free during long forward passes', async () => {
  const reference = createCpuBackend({ isa: 'generic', numThreads: 1 });
  const size = 4096;
  const weight = await reference.createWeight([
    { name: 'w', shape: [size, size], format: { kind: 'dense', dtype: 'f32' }, data: new Uint8Array(size * size * 4) },
  ]);
  const own = await reference.createSession({
    target: {
      name: 'long',
      buffers: [0, 1, 2].map(() => ({ kind: 'float', width: size }) as const),
      ops: [
        { op: 'embedding', table: weight, output: 0 },
        { op: 'gatherRows', input: 0, output: 1 },
        { op: 'linear', weight, plane: 'full', input: 1, output: 2, outputColumn: 0 },
      ],
      logits: 2,
    },
    kv: { format: 'f32', numLayers: 1, numPages: 8, pageSize: 16, numKvHeads: 1, headDim: 16 },
    vocabSize: size,
    maxRows: 64,
    maxLogitRows: 64,
  });
  let numTicks = 0;
  const timer = setInterval(() => numTicks++, 5);
  const start = performance.now();
  while (performance.now() - start < 400) await own.forward(chainBatch(new Int32Array(64), 0, [0, 1, 2, 3]));
  clearInterval(timer);
  expect(numTicks).toBeGreaterThan(8); // at least one each 50 ms
  own.dispose();
  reference.dispose();
});
