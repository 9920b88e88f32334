import { InvariantError } from '@qspec/core';
import type { KvCacheManager } from './kv-cache-manager.js';
import { NO_PAGE } from './prefix-cache.js';
import type { SequencePages } from './sequence-pages.js';

/**
 * Recounts everything: each page is free, owned, or cached, exactly once; reference counts add up; lengths fit their tables; what may still be
 * written is owned by one sequence; cached chains are whole and are evicted from the end. Linear in pages and table entries: for tests and `doctor`.
 * @throws InvariantError describing the first thing that does not hold.
 */
export function checkIntegrity(manager: KvCacheManager): void {
  const numHolders = new Int32Array(manager.numPages);
  for (const sequence of manager.sequences()) checkSequence(manager, sequence, numHolders);
  checkPages(manager, numHolders);
  checkUnused(manager, numHolders);
}

function checkSequence(manager: KvCacheManager, sequence: SequencePages, numHolders: Int32Array): void {
  const { sequenceId, lengths, table } = sequence;
  const { pageSize, prefixCache } = manager;
  const where = `sequence ${sequenceId}`;
  const { cachedLen, committedLen, speculativeLen, capacityLen } = lengths;
  const isOrdered = cachedLen <= committedLen && committedLen <= speculativeLen && speculativeLen <= capacityLen;
  expect(isOrdered, `lengths of ${where} are ${cachedLen}, ${committedLen}, ${speculativeLen}, ${capacityLen}`);
  expect(cachedLen % pageSize === 0, `cachedLen ${cachedLen} of ${where} is no multiple of ${pageSize}`);
  expect(capacityLen === table.length * pageSize, `${where} has ${table.length} pages for capacityLen ${capacityLen}`);
  const pageIds = table.view();
  expect(new Set(pageIds).size === pageIds.length, `${where} holds a page twice: ${pageIds.join(', ')}`);
  const numFullPages = Math.floor(committedLen / pageSize);
  pageIds.forEach((pageId, index) => {
    expect(pageId >= 0 && pageId < manager.numPages, `${where} holds unknown page ${pageId}`);
    numHolders[pageId]! += 1;
    const isKnown = prefixCache?.has(pageId) ?? false;
    const isFull = index < numFullPages;
    expect(isFull || !isKnown, `page ${pageId} of ${where} may be written but is cached`);
    if (!prefixCache || !isFull) return;
    expect(isKnown, `page ${pageId} of ${where} is full and committed but not cached`);
    const parent = index === 0 ? NO_PAGE : pageIds[index - 1];
    expect(
      prefixCache.parentOf(pageId) === parent,
      `page ${pageId} of ${where} does not follow page ${parent} in the cache`,
    );
  });
}

function checkPages(manager: KvCacheManager, numHolders: Int32Array): void {
  const { pool, prefixCache } = manager;
  const isFree = new Uint8Array(manager.numPages);
  for (const pageId of pool.freePageIds()) {
    expect(isFree[pageId] === 0, `page ${pageId} is twice in the free list`);
    isFree[pageId] = 1;
  }
  let numKnown = 0;
  numHolders.forEach((holders, pageId) => {
    const isKnown = prefixCache?.has(pageId) ?? false;
    numKnown += isKnown ? 1 : 0;
    const expected = holders + (isKnown ? 1 : 0);
    const refCount = pool.refCount(pageId);
    expect(
      refCount === expected,
      `page ${pageId} has ${refCount} references but ${holders} sequences and ${isKnown ? 'the' : 'no'} cache hold it`,
    );
    expect(
      (isFree[pageId] === 1) === (refCount === 0),
      `page ${pageId} with ${refCount} references is ${isFree[pageId] ? '' : 'not '}free`,
    );
    expect(isKnown || holders <= 1, `page ${pageId} is shared by ${holders} sequences but not cached`);
  });
  expect(
    numKnown === (prefixCache?.numPages ?? 0),
    `cache counts ${prefixCache?.numPages} pages but knows ${numKnown}`,
  );
}

function checkUnused(manager: KvCacheManager, numHolders: Int32Array): void {
  const { prefixCache } = manager;
  if (!prefixCache) return;
  const order = new Map(prefixCache.unusedPageIds().map((pageId, index) => [pageId, index]));
  expect(
    order.size === prefixCache.numUnusedPages,
    `${order.size} unused pages in the list, ${prefixCache.numUnusedPages} counted`,
  );
  numHolders.forEach((holders, pageId) => {
    if (!prefixCache.has(pageId)) {
      expect(!order.has(pageId), `page ${pageId} is listed as unused but not cached`);
      return;
    }
    expect(
      order.has(pageId) === (holders === 0),
      `cached page ${pageId} with ${holders} holders is ${order.has(pageId) ? '' : 'not '}listed as unused`,
    );
    const parent = prefixCache.parentOf(pageId);
    if (parent === NO_PAGE) return;
    expect(prefixCache.has(parent), `cached page ${pageId} follows page ${parent}, which is not cached`);
    const parentOrder = order.get(parent) ?? Number.POSITIVE_INFINITY;
    expect(
      (order.get(pageId) ?? Number.POSITIVE_INFINITY) <= parentOrder,
      `page ${parent} would be evicted before page ${pageId}, which builds on it`,
    );
  });
}

function expect(condition: boolean, problem: string): void {
  if (!condition) throw new InvariantError(`KV cache is inconsistent: ${problem}. Please report this.`, { problem });
}
