import { ConfigError, InvariantError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { checkIntegrity } from './integrity.js';
import { KvCacheManager } from './kv-cache-manager.js';

const range = (length: number, first = 0) => Array.from({ length }, (_, i) => first + i);

/** Begins a sequence, computes all of `tokens`, and leaves it running. @returns cachedLen. */
function fill(manager: KvCacheManager, sequenceId: number, tokens: number[], namespace = ''): number {
  const cachedLen = manager.begin(sequenceId, tokens, { namespace });
  expect(manager.tryReserve(sequenceId, tokens.length)).toBe(true);
  manager.commit(sequenceId, tokens.slice(cachedLen));
  checkIntegrity(manager);
  return cachedLen;
}

describe('KvCacheManager', () => {
  it('lends the full pages of a shared prefix while their owner still runs', () => {
    const manager = new KvCacheManager({ numPages: 16, pageSize: 4 });
    fill(manager, 1, range(10));
    expect(fill(manager, 2, [...range(9), 77, 78])).toBe(8);
    expect([...manager.pageTable(2)].slice(0, 2)).toEqual([...manager.pageTable(1)].slice(0, 2));
    expect(manager.pageTable(2)[2]).not.toBe(manager.pageTable(1)[2]);
    expect(manager.stats).toMatchObject({ lookups: 2, hits: 1, lookupTokens: 21, hitTokens: 8, numUsedPages: 4 });
  });

  it('always leaves at least one token to compute', () => {
    const manager = new KvCacheManager({ numPages: 16, pageSize: 4 });
    fill(manager, 1, range(8));
    manager.release(1);
    expect(manager.begin(2, range(8))).toBe(4);
    expect(manager.begin(3, range(9))).toBe(8);
    expect(manager.begin(4, [0])).toBe(0);
    expect(manager.begin(5, [])).toBe(0);
    checkIntegrity(manager);
  });

  it('does not share across namespaces', () => {
    const manager = new KvCacheManager({ numPages: 16, pageSize: 4 });
    fill(manager, 1, range(10), 'adapter-a');
    expect(fill(manager, 2, range(10), 'adapter-b')).toBe(0);
    expect(fill(manager, 3, range(10), 'adapter-a')).toBe(8);
  });

  it('does not share what was drafted and rolled back', () => {
    const manager = new KvCacheManager({ numPages: 16, pageSize: 4 });
    manager.begin(1, range(3));
    manager.tryReserve(1, 9);
    manager.commit(1, range(3));
    manager.rollback(1);
    expect([manager.committedLen(1), manager.speculativeLen(1), manager.capacityLen(1)]).toEqual([3, 3, 4]);
    expect(manager.begin(2, range(9))).toBe(0);
    checkIntegrity(manager);
  });

  it('keeps one copy when two sequences compute the same page at once', () => {
    const manager = new KvCacheManager({ numPages: 16, pageSize: 4 });
    manager.begin(1, range(9));
    manager.begin(2, range(9));
    for (const sequenceId of [1, 2]) manager.tryReserve(sequenceId, 9);
    expect(manager.stats.numUsedPages).toBe(6);
    manager.commit(1, range(9));
    manager.commit(2, range(9));
    expect(manager.stats.numUsedPages).toBe(4);
    expect([...manager.pageTable(1)].slice(0, 2)).toEqual([...manager.pageTable(2)].slice(0, 2));
    checkIntegrity(manager);
  });

  it('evicts the least recently used chain from its end', () => {
    const manager = new KvCacheManager({ numPages: 6, pageSize: 2 });
    fill(manager, 1, range(6));
    manager.release(1);
    fill(manager, 2, range(6, 100));
    manager.release(2);
    expect(manager.stats).toMatchObject({ numFreePages: 0, numCachedPages: 6, numUsedPages: 0 });
    manager.begin(3, [50, 51, 52]);
    manager.tryReserve(3, 4);
    expect(manager.stats.evictions).toBe(2);
    checkIntegrity(manager);
    expect(manager.begin(4, range(7))).toBe(2);
    expect(manager.begin(5, range(7, 100))).toBe(6);
    checkIntegrity(manager);
  });

  it('changes nothing when a reservation does not fit', () => {
    const manager = new KvCacheManager({ numPages: 4, pageSize: 2 });
    fill(manager, 1, range(4));
    manager.begin(2, [9, 9]);
    const before = manager.stats;
    expect(manager.tryReserve(2, 5)).toBe(false);
    expect(manager.stats).toEqual(before);
    expect(manager.capacityLen(2)).toBe(0);
    expect(manager.tryReserve(2, 4)).toBe(true);
  });

  it('shares nothing without a prefix cache', () => {
    const manager = new KvCacheManager({ numPages: 8, pageSize: 2, prefixCache: false });
    fill(manager, 1, range(5));
    expect(fill(manager, 2, range(5))).toBe(0);
    manager.release(1);
    manager.release(2);
    expect(manager.stats).toMatchObject({ numFreePages: 8, numCachedPages: 0 });
  });

  it('forgets unused pages on request, and only those', () => {
    const manager = new KvCacheManager({ numPages: 8, pageSize: 2 });
    fill(manager, 1, range(4));
    fill(manager, 2, range(4, 50));
    manager.release(2);
    expect(manager.clearPrefixCache()).toBe(2);
    expect(manager.begin(3, range(5))).toBe(4);
    manager.release(1);
    manager.release(3);
    manager.clearPrefixCache();
    manager.pool.expectNoLeaks();
  });

  it('reports misuse as InvariantError and changes nothing', () => {
    const manager = new KvCacheManager({ numPages: 8, pageSize: 2 });
    manager.begin(1, [1, 2, 3]);
    expect(() => manager.begin(1, [1])).toThrow(InvariantError);
    expect(() => manager.commit(2, [1])).toThrow(/sequence 2 to have begun/);
    expect(() => manager.commit(1, [1])).toThrow(InvariantError);
    expect(() => manager.release(9)).toThrow(InvariantError);
    expect(() => manager.tryReserve(1, Number.NaN)).toThrow(InvariantError);
    checkIntegrity(manager);
    expect(manager.committedLen(1)).toBe(0);
  });

  it.each([
    [{ numPages: 0, pageSize: 16 }, /`numPages`/],
    [{ numPages: 4, pageSize: 0 }, /`pageSize`/],
    [{ numPages: 4, pageSize: 2.5 }, /`pageSize`/],
    [{ numPages: Number.NaN, pageSize: 16 }, /`numPages`/],
    [{ numPages: 2 ** 27, pageSize: 16 }, /below 2\^31/],
  ])('rejects %o', (options, message) => {
    expect(() => new KvCacheManager(options)).toThrow(ConfigError);
    expect(() => new KvCacheManager(options)).toThrow(message);
  });

  it('takes time proportional to the tokens given, in a large pool too', () => {
    const time = (numPages: number) => {
      const manager = new KvCacheManager({ numPages, pageSize: 16 });
      const prompts = range(20).map((i) => Int32Array.from(range(2048, i * 5000)));
      const started = performance.now();
      for (let i = 0; i < 200; i++) {
        const prompt = prompts[i % 20]!;
        const cachedLen = manager.begin(i, prompt);
        manager.tryReserve(i, 2048);
        manager.commit(i, prompt.subarray(cachedLen));
        manager.release(i);
      }
      return performance.now() - started;
    };
    time(4096);
    const small = Math.min(time(4096), time(4096), time(4096));
    const large = Math.min(time(262_144), time(262_144), time(262_144));
    // 64 times the pages: anything linear in the pool would show.
    expect(large).toBeLessThan(small * 8 + 50);
  });
});
