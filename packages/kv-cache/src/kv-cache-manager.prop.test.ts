import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ChainedHashPrefixCache } from './chained-hash-prefix-cache.js';
import { checkIntegrity } from './integrity.js';
import { KvCacheManager } from './kv-cache-manager.js';

const NUM_PAGES = 12;

/** What must be true of one sequence, kept the simple way: as a list of tokens. */
interface ModelSequence {
  readonly namespace: string;
  readonly tokens: number[];
  readonly cachedLen: number;
  reserved: number;
}

/**
 * The slow truth: sequences are token lists, and the "device" is an array that remembers which (namespace, prefix, token) was last written
 * to each slot. If the manager ever shares a wrong page, reuses a page in use, or lends bytes that were overwritten, `read` differs.
 */
class Model {
  readonly sequences = new Map<number, ModelSequence>();
  readonly device = new Map<number, string>();

  write(
    manager: KvCacheManager,
    sequenceId: number,
    position: number,
    tokens: readonly number[],
    namespace: string,
  ): void {
    const table = manager.pageTable(sequenceId);
    const slot = table[Math.floor(position / manager.pageSize)]! * manager.pageSize + (position % manager.pageSize);
    this.device.set(slot, contents(namespace, tokens, position));
  }

  read(manager: KvCacheManager, sequenceId: number, position: number): string | undefined {
    const table = manager.pageTable(sequenceId);
    return this.device.get(
      table[Math.floor(position / manager.pageSize)]! * manager.pageSize + (position % manager.pageSize),
    );
  }
}

function contents(namespace: string, tokens: readonly number[], position: number): string {
  return `${namespace}:${tokens.slice(0, position + 1).join(',')}`;
}

type Run = (model: Model, manager: KvCacheManager) => void;

const token = fc.integer({ min: 0, max: 1 });
const id = fc.integer({ min: 0, max: 4 });
const namespace = fc.constantFrom('', 'adapter');

const begin: fc.Arbitrary<Run> = fc
  .tuple(id, fc.array(token, { minLength: 1, maxLength: 20 }), namespace)
  .map(([sequenceId, tokens, space]) => (model, manager) => {
    if (model.sequences.has(sequenceId)) {
      expect(() => manager.begin(sequenceId, tokens)).toThrow(/to be new/);
      return;
    }
    const availableBefore = manager.numAvailablePages;
    const cachedLen = manager.begin(sequenceId, tokens, { namespace: space });
    expect(cachedLen % manager.pageSize).toBe(0);
    expect(cachedLen).toBeLessThan(tokens.length);
    expect(manager.numAvailablePages).toBeLessThanOrEqual(availableBefore);
    model.sequences.set(sequenceId, {
      namespace: space,
      tokens: tokens.slice(0, cachedLen),
      cachedLen,
      reserved: cachedLen,
    });
  });

const reserve: fc.Arbitrary<Run> = fc
  .tuple(id, fc.integer({ min: 0, max: 14 }))
  .map(([sequenceId, extra]) => (model, manager) => {
    const sequence = model.sequences.get(sequenceId);
    if (!sequence) {
      expect(() => manager.tryReserve(sequenceId, extra)).toThrow(/to have begun/);
      return;
    }
    const length = sequence.tokens.length + extra;
    const before = { capacity: manager.capacityLen(sequenceId), available: manager.numAvailablePages };
    const isPossible = length <= before.capacity + before.available * manager.pageSize;
    expect(manager.tryReserve(sequenceId, length)).toBe(isPossible);
    if (!isPossible) {
      expect(manager.capacityLen(sequenceId)).toBe(before.capacity);
      expect(manager.numAvailablePages).toBe(before.available);
      return;
    }
    expect(manager.capacityLen(sequenceId)).toBeGreaterThanOrEqual(length);
    sequence.reserved = Math.max(sequence.reserved, length);
    // The drafts scribble over everything reserved; commit writes what stays.
    for (let position = sequence.tokens.length; position < length; position++) {
      model.write(manager, sequenceId, position, [-1 - sequenceId], `draft of ${sequenceId}`);
    }
  });

const commit: fc.Arbitrary<Run> = fc
  .tuple(id, fc.array(token, { maxLength: 10 }))
  .map(([sequenceId, tokens]) => (model, manager) => {
    const sequence = model.sequences.get(sequenceId);
    if (!sequence) return;
    if (sequence.tokens.length + tokens.length > sequence.reserved) return;
    for (const next of tokens) {
      sequence.tokens.push(next);
      model.write(manager, sequenceId, sequence.tokens.length - 1, sequence.tokens, sequence.namespace);
    }
    manager.commit(sequenceId, tokens);
  });

const rollback: fc.Arbitrary<Run> = id.map((sequenceId) => (model, manager) => {
  const sequence = model.sequences.get(sequenceId);
  if (!sequence) return;
  manager.rollback(sequenceId);
  sequence.reserved = sequence.tokens.length;
  expect(manager.capacityLen(sequenceId) - sequence.tokens.length).toBeLessThan(manager.pageSize);
});

const release: fc.Arbitrary<Run> = id.map((sequenceId) => (model, manager) => {
  if (!model.sequences.delete(sequenceId)) return;
  manager.release(sequenceId);
});

const clear: fc.Arbitrary<Run> = fc.constant((_, manager) => {
  manager.clearPrefixCache();
  expect(manager.stats.numCachedPages).toBe(0);
});

const commands = fc.array(
  fc.oneof(
    { arbitrary: begin, weight: 4 },
    { arbitrary: reserve, weight: 6 },
    { arbitrary: commit, weight: 6 },
    { arbitrary: rollback, weight: 2 },
    { arbitrary: release, weight: 3 },
    { arbitrary: clear, weight: 1 },
  ),
  { maxLength: 80, size: 'max' },
);

function check(model: Model, manager: KvCacheManager): void {
  checkIntegrity(manager);
  const { numFreePages, numUsedPages, numCachedPages } = manager.stats;
  expect(numFreePages + numUsedPages + numCachedPages).toBe(NUM_PAGES);
  for (const [sequenceId, sequence] of model.sequences) {
    expect(manager.committedLen(sequenceId)).toBe(sequence.tokens.length);
    expect(manager.cachedLen(sequenceId)).toBe(sequence.cachedLen);
    for (let position = 0; position < sequence.tokens.length; position++) {
      const read = model.read(manager, sequenceId, position);
      const written = contents(sequence.namespace, sequence.tokens, position);
      // A plain comparison: `expect` costs too much a million times over.
      if (read !== written)
        throw new Error(`Position ${position} of sequence ${sequenceId} reads ${read}, not ${written}`);
    }
  }
}

describe('KvCacheManager against a model', () => {
  const variants = {
    'with the built-in hash': () => true as const,
    'with a hash where everything collides': (pageSize: number) =>
      new ChainedHashPrefixCache(NUM_PAGES, pageSize, () => 0),
    'without prefix cache': () => false as const,
  };
  for (const [name, makeCache] of Object.entries(variants)) {
    it(`reads back what each sequence committed, ${name}`, () => {
      fc.assert(
        fc.property(commands, fc.constantFrom(1, 2, 4), (runs, pageSize) => {
          const manager = new KvCacheManager({ numPages: NUM_PAGES, pageSize, prefixCache: makeCache(pageSize) });
          const model = new Model();
          for (const run of runs) {
            run(model, manager);
            check(model, manager);
          }
          for (const sequenceId of model.sequences.keys()) manager.release(sequenceId);
          manager.clearPrefixCache();
          manager.pool.expectNoLeaks();
        }),
        { numRuns: 300 },
      );
    });
  }
});
