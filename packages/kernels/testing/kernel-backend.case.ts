import {
  ConfigError,
  DisposedError,
  InvariantError,
  type KernelBackend,
  type KvFormat,
  type Session,
  UnsupportedFormatError,
} from '@qspec/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BackendTraits } from './backend-traits.js';
import { chainBatch, forwardAll, generate, newSequence, roundOf } from './drive.js';
import { openTinySession, randomTokens, randomWeight, TINY, type TinyFormat } from './tiny-model.js';

const PAGES = [5, 1, 7, 3] as const;
const SAMPLERS = {
  greedy: { temperature: 0 },
  sampled: { temperature: 0.9, topK: 40, topP: 0.95, minP: 0.01, seed: 11 },
  penalised: {
    temperature: 0.8,
    seed: 3,
    repetitionPenalty: 1.3,
    presencePenalty: 0.4,
    frequencyPenalty: 0.2,
    logitBias: { 5: 1.5, 9: -100 },
  },
} as const;

type Create = () => KernelBackend | Promise<KernelBackend>;

/**
 * What every implementation of {@link KernelBackend} must do, exactly whatever its precision; logits are compared with `expected`, the
 * reference's, as closely as `traits` say.
 */
export function describeKernelBackend(name: string, create: Create, expected: Create, traits: BackendTraits): void {
  const [kvFormat, ...otherKvFormats] = traits.kvFormats;
  describe(`${name}: the backend contract`, () => {
    let backend: KernelBackend;
    let session: Session;
    beforeAll(async () => {
      backend = await create();
      session = await openTinySession(backend, { kvFormat });
    });
    afterAll(() => {
      session.dispose();
      backend.dispose();
    });

    for (const format of ['dense', 'int4', 'nested8'] as const satisfies TinyFormat[]) {
      it(`gives the reference's logits (${format})`, async () => {
        await expectSameLogits(await create(), await expected(), format, traits);
      });
    }

    it('forwards in chunks of any size bit for bit as in one piece', async () => {
      const tokens = randomTokens(57, 1);
      const whole = await forwardAll(session, tokens, 57, PAGES);
      for (const chunk of [1, 3, 16, 23, 56]) {
        expect(Buffer.compare(bytes(await forwardAll(session, tokens, chunk, PAGES)), bytes(whole))).toBe(0);
      }
    });

    it('gives a row the same bits whatever its neighbours are', async () => {
      const tokens = randomTokens(20, 2);
      const alone = await forwardAll(session, tokens, 20, [0, 1]);
      const other = randomTokens(44, 3);
      const mixed = await session.forward({
        program: 'target',
        tokens: Int32Array.from([...other, ...tokens]),
        positions: Int32Array.from([...other.keys(), ...tokens.keys()]),
        sequences: Int32Array.from([...other.map(() => 0), ...tokens.map(() => 1)]),
        pageOffsets: Int32Array.of(0, 3, 5),
        pageIds: Int32Array.of(10, 11, 12, 13, 14),
        logitRows: Int32Array.from(tokens, (_, i) => other.length + i),
      });
      expect(Buffer.compare(bytes(mixed.logits!), bytes(alone))).toBe(0);
    });

    it('gives a tree row the bits of a plain decode, wherever its ancestors lie', async () => {
      const prompt = randomTokens(10, 4);
      const branch = randomTokens(4, 5);
      const whole = await forwardAll(session, Int32Array.from([...prompt, ...branch]), 14, [0]);
      await forwardAll(session, prompt, 10, [2]);
      // Two branches of four under one root position, interleaved; their entries lie in pages 8 and 9, out of order.
      const slots = [8 * 16 + 3, 9 * 16 + 1, 8 * 16 + 0, 9 * 16 + 15];
      const others = [8 * 16 + 8, 8 * 16 + 9, 8 * 16 + 10, 8 * 16 + 11];
      const rows = branch.length * 2;
      const ancestorSlots = new Int32Array(rows * 4);
      for (let depth = 0; depth < 4; depth++) {
        ancestorSlots.set(slots.slice(0, depth + 1), depth * 2 * 4);
        ancestorSlots.set(others.slice(0, depth + 1), (depth * 2 + 1) * 4);
      }
      const result = await session.forward({
        program: 'target',
        tokens: Int32Array.from([...branch].flatMap((token) => [token, (token + 1) % TINY.vocabSize])),
        positions: Int32Array.from({ length: rows }, (_, i) => 10 + (i >> 1)),
        sequences: new Int32Array(rows),
        pageOffsets: Int32Array.of(0, 1),
        pageIds: Int32Array.of(2),
        ancestors: { maxAncestors: 4, ancestorStarts: new Int32Array(rows).fill(10), ancestorSlots },
        logitRows: Int32Array.of(0, 2, 4, 6),
      });
      expect(Buffer.compare(bytes(result.logits!), bytes(whole.subarray(10 * TINY.vocabSize)))).toBe(0);
    });

    it('gives the log-probability of labels', async () => {
      const tokens = randomTokens(9, 6);
      const { logits, argmax } = await session.forward(chainBatch(tokens, 0, PAGES));
      const labels = Int32Array.from(tokens, (token) => (token * 7) % TINY.vocabSize);
      const labelled = await session.forward({ ...chainBatch(tokens, 0, PAGES), labels });
      expect(labelled.logits).toBeUndefined();
      expect(labelled.argmax).toEqual(argmax);
      labels.forEach((label, row) => {
        const values = [...logits!.subarray(row * TINY.vocabSize, (row + 1) * TINY.vocabSize)];
        const max = Math.max(...values);
        const lse = max + Math.log(values.reduce((sum, value) => sum + Math.exp(value - max), 0));
        expect(labelled.logprobs![row]).toBeCloseTo(values[label]! - lse, 9);
        expect(argmax[row]).toBe(values.indexOf(max));
      });
    });

    for (const [kind, params] of Object.entries(SAMPLERS)) {
      it(`emits the same tokens for every gamma, ${kind}`, async () => {
        const run = (gamma: number) => generate(session, threeSequences(params), 24, gamma);
        const plain = await run(0);
        expect(plain.numRounds).toBe(24);
        for (const gamma of [1, 2, 3, 5, 8]) {
          const speculative = await run(gamma);
          expect(speculative.outputs).toEqual(plain.outputs);
          expect(speculative.numRounds).toBeLessThan(24);
        }
      });

      it(`emits the same tokens whatever is proposed, ${kind}`, async () => {
        const { outputs } = await generate(session, threeSequences(params), 20, 0);
        const right = (s: { output: number[]; stream: number }, gamma: number) =>
          Array.from({ length: gamma }, (_, i) => outputs[s.stream]![s.output.length + i] ?? 0);
        const sequences = threeSequences(params);
        await roundOf(session, sequences, 0);
        const first = await roundOf(session, sequences, 4, right);
        expect([...first.numAccepted]).toEqual([4, 4, 4]);
        expect(sequences.map((s) => s.output)).toEqual(outputs.map((output) => output.slice(0, 6)));
        const proposals = {
          wrong: (_: unknown, gamma: number) => Array.from({ length: gamma }, (_, i) => (i * 31) % TINY.vocabSize),
          // A right one, then draft mode continues, then a given one again.
          mixed: (s: { output: number[]; stream: number }, gamma: number) =>
            right(s, gamma).map((token, i) => (i === 0 || i === 3 ? token : -1)),
        };
        for (const propose of Object.values(proposals)) {
          expect((await generate(session, threeSequences(params), 20, 5, propose)).outputs).toEqual(outputs);
        }
      });
    }

    it('mixes prefill chunks without emission into a round', async () => {
      const decoding = newSequence(randomTokens(12, 20), [0, 1, 2], { temperature: 0 });
      const expectedTokens = (
        await generate(session, [newSequence(decoding.prompt, [0, 1, 2], { temperature: 0 })], 6, 0)
      ).outputs[0]!;
      await roundOf(session, [decoding], 0);
      const result = await session.round({
        pageOffsets: Int32Array.of(0, 3, 5),
        pageIds: Int32Array.of(0, 1, 2, 8, 9),
        tokenOffsets: Int32Array.of(0, 1, 31),
        tokens: Int32Array.from([decoding.output[0]!, ...randomTokens(30, 21)]),
        startPositions: Int32Array.of(12, 0),
        emit: Uint8Array.of(1, 0),
        gammas: Int32Array.of(3, 0),
        samplers: [decoding, decoding].map(({ params }) => ({
          params,
          stream: 0,
          history: new Int32Array(0),
          numPromptTokens: 0,
        })),
      });
      expect([...result.tokenOffsets]).toEqual([0, result.numAccepted[0]! + 1, result.numAccepted[0]! + 1]);
      expect(result.numAccepted[1]).toBe(0);
      expect([...result.tokens]).toEqual(expectedTokens.slice(1, 1 + result.tokens.length));
    });

    it('reports log-probabilities of the raw logits', async () => {
      const [asked, silent] = [
        newSequence(randomTokens(8, 30), [0, 1], { temperature: 0.7, logprobs: 3, logitBias: { 4: 5 } }),
        newSequence(randomTokens(8, 31), [2, 3], { temperature: 0 }),
      ];
      const logits = await forwardAll(session, asked!.prompt, 8, [6]);
      const result = await roundOf(session, [asked!, silent!], 0);
      expect(result.logprobs[1]).toBeUndefined();
      const { token, logprob, top } = result.logprobs[0]![0]!;
      const row = [...logits.subarray(7 * TINY.vocabSize)];
      const lse = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
      expect(token).toBe(result.tokens[0]);
      expect(logprob).toBeCloseTo(row[token]! - lse, 5);
      const best = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 3);
      expect(top.map((entry) => entry.token)).toEqual(best);
      top.forEach((entry) => {
        expect(entry.logprob).toBeCloseTo(row[entry.token]! - lse, 4);
      });
    });

    it('copies pages: a copied sequence continues as the original', async () => {
      const original = newSequence(randomTokens(20, 40), [0, 1], { temperature: 0 });
      await roundOf(session, [original], 0);
      const twin = { ...original, pages: [20, 21], output: [...original.output] };
      await session.copyPages(Int32Array.of(0, 1), Int32Array.of(20, 21));
      const [a, b] = [await generate(session, [original], 8, 2), await generate(session, [twin], 8, 2)];
      expect(b.outputs).toEqual(a.outputs);
    });

    for (const format of otherKvFormats) {
      it(`keeps the exactness rule with a cache of format ${format}`, async () => {
        const other = await openTinySession(backend, { kvFormat: format });
        expect(other.kvBytes).toBeLessThan(session.kvBytes);
        const plain = await generate(other, threeSequences(SAMPLERS.sampled), 16, 0);
        expect((await generate(other, threeSequences(SAMPLERS.sampled), 16, 4)).outputs).toEqual(plain.outputs);
        const tokens = randomTokens(40, 50);
        const whole = await forwardAll(other, tokens, 40, PAGES);
        expect(Buffer.compare(bytes(await forwardAll(other, tokens, 7, PAGES)), bytes(whole))).toBe(0);
        other.dispose();
      });
    }

    for (const format of traits.refusedKvFormats) {
      it(`refuses a cache of format ${format}, naming the option`, async () => {
        const opened = openTinySession(backend, { kvFormat: format });
        await expect(opened).rejects.toThrow(UnsupportedFormatError);
        await expect(opened).rejects.toThrow(/`kv.format`/);
      });
    }

    it(`${traits.keepsDenseF32 ? 'keeps' : 'rounds to bfloat16'} dense float32 weights`, async () => {
      const [original, rounded] = await Promise.all(
        [false, true].map(async (hasBf16Embedding) => {
          const own = await openTinySession(backend, { kvFormat, hasBf16Embedding });
          const logits = await forwardAll(own, randomTokens(9, 70), 9, PAGES);
          own.dispose();
          return bytes(logits);
        }),
      );
      expect(Buffer.compare(original!, rounded!) !== 0).toBe(traits.keepsDenseF32);
    });

    it('refuses a second call while one is pending, and everything after dispose', async () => {
      const own = await openTinySession(backend, { kvFormat });
      const first = own.forward(chainBatch(randomTokens(40, 60), 0, PAGES));
      await expect(own.copyPages(Int32Array.of(0), Int32Array.of(1))).rejects.toThrow(InvariantError);
      expect(() => own.dispose()).toThrow(InvariantError);
      await first;
      own.dispose();
      own.dispose();
      await expect(own.forward(chainBatch(randomTokens(4, 60), 0, PAGES))).rejects.toThrow(DisposedError);
    });

    it('refuses handles of another backend and inconsistent programs', async () => {
      const other = await create();
      const foreign = await other
        .createWeight([randomWeight('w', 16, 32, { kind: 'dense', dtype: 'f32' }, 1) as never])
        .catch((error: Error) => error);
      expect(foreign).toBeInstanceOf(Error); // bf16 bytes are half of what f32 needs
      other.dispose();
      await expect(openWith(backend, kvFormat, (ops) => ops.slice(1))).rejects.toThrow(/written before it is read/);
      await expect(openWith(backend, kvFormat, (ops) => ops.filter((op) => op.op !== 'gatherRows'))).rejects.toThrow(
        ConfigError,
      );
      await expect(
        openWith(backend, kvFormat, (ops) => ops.map((op) => (op.op === 'siluMul' ? { ...op, width: 95 } : op))),
      ).rejects.toThrow(/op 8 \(siluMul\)/);
      await expect(
        openWith(backend, kvFormat, (ops) => ops.map((op) => (op.op === 'linear' ? { ...op, output: 77 } : op))),
      ).rejects.toThrow(/buffer from 0 to 9/);
    });
  });
}

async function openWith(
  backend: KernelBackend,
  kvFormat: KvFormat,
  change: (ops: readonly { op: string }[]) => readonly object[],
) {
  const spy: KernelBackend = Object.create(backend, {
    createSession: {
      value: (options: Parameters<KernelBackend['createSession']>[0]) =>
        backend.createSession({
          ...options,
          target: { ...options.target, ops: change(options.target.ops) as typeof options.target.ops },
        }),
    },
    createWeight: { value: backend.createWeight.bind(backend) },
    createVector: { value: backend.createVector.bind(backend) },
  });
  return openTinySession(spy, { kvFormat, hasDraft: false });
}

async function expectSameLogits(
  actual: KernelBackend,
  expected: KernelBackend,
  format: TinyFormat,
  traits: BackendTraits,
): Promise<void> {
  const options = { format, kvFormat: traits.kvFormats[0], hasBf16Embedding: !traits.keepsDenseF32 };
  const tokens = randomTokens(70, 9);
  const pages = [3, 1, 4, 15, 9];
  for (const program of ['target', 'draft'] as const) {
    const logits = [];
    for (const backend of [actual, expected]) {
      const session = await openTinySession(backend, options);
      logits.push((await session.forward({ ...chainBatch(tokens, 0, pages), program })).logits!);
      session.dispose();
    }
    // Integer activations round differently where float sums differ in the last bit, so a draft agrees on the whole only.
    expect(1 - cosine(logits[0]!, logits[1]!)).toBeLessThan(traits.cosineGap[program]);
    if (program === 'target') expect(worstDifference(logits[0]!, logits[1]!)).toBeLessThan(traits.logitTolerance);
  }
  actual.dispose();
  expected.dispose();
}

function threeSequences(params: object) {
  return [
    newSequence(randomTokens(5, 101), [0, 1, 2, 3], params, 0),
    newSequence(randomTokens(17, 102), [4, 5, 6, 7], params, 1),
    newSequence(randomTokens(1, 103), [11, 10, 9, 8], params, 2),
  ];
}

function bytes(array: Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [dot, aa, bb] = [0, 0, 0];
  a.forEach((value, i) => {
    dot += value * b[i]!;
    aa += value * value;
    bb += b[i]! * b[i]!;
  });
  return dot / Math.sqrt(aa * bb);
}

/** Largest difference, as a share of the largest of `expected`. */
function worstDifference(actual: Float32Array, expected: Float32Array): number {
  const largest = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return actual.reduce((worst, value, i) => Math.max(worst, Math.abs(value - expected[i]!)), 0) / largest;
}
