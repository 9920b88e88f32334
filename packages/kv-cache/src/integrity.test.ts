import { InvariantError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { checkIntegrity } from './integrity.js';
import { KvCacheManager } from './kv-cache-manager.js';

function running(): KvCacheManager {
  const manager = new KvCacheManager({ numPages: 8, pageSize: 2 });
  manager.begin(1, [1, 2, 3, 4, 5]);
  manager.tryReserve(1, 7);
  manager.commit(1, [1, 2, 3, 4, 5]);
  return manager;
}

describe('checkIntegrity', () => {
  it('accepts a healthy cache', () => {
    expect(() => checkIntegrity(running())).not.toThrow();
  });

  it('finds a reference too many', () => {
    const manager = running();
    manager.pool.retain(manager.pageTable(1)[0]!);
    expect(() => checkIntegrity(manager)).toThrow(/page \d+ has 3 references but 1 sequences and the cache hold it/);
  });

  it('finds a leaked page', () => {
    const manager = running();
    manager.pool.tryAlloc();
    expect(() => checkIntegrity(manager)).toThrow(/has 1 references but 0 sequences and no cache/);
  });

  it('finds a page freed while in use', () => {
    const manager = running();
    manager.pool.release(manager.pageTable(1)[3]!);
    expect(() => checkIntegrity(manager)).toThrow(InvariantError);
  });

  it('finds a page that is in a table twice', () => {
    const manager = running();
    const [sequence] = manager.sequences();
    sequence!.table.replace(3, sequence!.table.at(2));
    expect(() => checkIntegrity(manager)).toThrow(/holds a page twice/);
  });

  it('finds a full page that is not the cached one', () => {
    const manager = running();
    const [sequence] = manager.sequences();
    sequence!.table.replace(1, 7);
    expect(() => checkIntegrity(manager)).toThrow(/page 7 of sequence 1 is full and committed but not cached/);
  });

  it('finds a used page listed as evictable', () => {
    const manager = running();
    manager.prefixCache!.markUnused(manager.pageTable(1)[1]!);
    expect(() => checkIntegrity(manager)).toThrow(/with 1 holders is listed as unused/);
  });

  it('finds a page that would be evicted before what builds on it', () => {
    const manager = running();
    const [first] = manager.pageTable(1);
    manager.release(1);
    manager.prefixCache!.markUsed(first!);
    manager.prefixCache!.markUnused(first!);
    expect(() => checkIntegrity(manager)).not.toThrow();
    const last = manager.prefixCache!.unusedPageIds()[0]!;
    manager.prefixCache!.markUsed(last);
    manager.prefixCache!.markUnused(last);
    expect(() => checkIntegrity(manager)).toThrow(/would be evicted before page/);
  });
});
