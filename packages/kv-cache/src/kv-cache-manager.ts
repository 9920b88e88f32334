import { ConfigError, InvariantError, type KvAllocator } from '@qspec/core';
import { ChainedHashPrefixCache } from './chained-hash-prefix-cache.js';
import { PagePool } from './page-pool.js';
import type { PrefixCache } from './prefix-cache.js';
import { SequencePages } from './sequence-pages.js';

export interface KvCacheManagerOptions {
  /** Pages of the pool. numPages · pageSize must fit a signed 32-bit integer (slots are int32 on the device). */
  readonly numPages: number;
  /** Slots a page. The kernels want a power of two from 16 to 64; bookkeeping takes any positive integer. */
  readonly pageSize: number;
  /** `false` shares nothing; an instance replaces the built-in one. Default true. */
  readonly prefixCache?: boolean | PrefixCache;
}

export interface BeginOptions {
  /** Sequences share pages only within a namespace: put in it whatever else the cache's contents depend on (model, adapter, tenant). Default ''. */
  readonly namespace?: string;
}

/** Counters since construction, and where the pages are now (free + used + cached = numPages). */
export interface KvCacheStats {
  /** Calls of `begin`. */
  readonly lookups: number;
  /** Calls of `begin` that were lent at least one page. */
  readonly hits: number;
  /** Tokens asked for and lent, over all `begin` calls. */
  readonly lookupTokens: number;
  readonly hitTokens: number;
  /** Cached pages given up to make room. */
  readonly evictions: number;
  readonly numFreePages: number;
  /** Pages that at least one sequence holds. */
  readonly numUsedPages: number;
  /** Pages that only the prefix cache holds. */
  readonly numCachedPages: number;
}

/**
 * Pages of one pool lent to sequences: paged capacity, shared prefixes, speculative lengths. Integers only; no device memory is touched.
 * A page is shared once it is full and committed; from then on it is never written, since writes begin at committedLen.
 * Time: `begin` and `commit` are linear in the tokens given, everything else in the pages touched.
 */
export class KvCacheManager implements KvAllocator {
  readonly pageSize: number;
  readonly pool: PagePool;
  readonly prefixCache: PrefixCache | undefined;
  readonly #sequences = new Map<number, SequencePages>();
  #lookups = 0;
  #hits = 0;
  #lookupTokens = 0;
  #hitTokens = 0;
  #evictions = 0;

  /** @throws ConfigError */
  constructor(options: KvCacheManagerOptions) {
    const { numPages, pageSize, prefixCache = true } = options;
    if (!Number.isInteger(pageSize) || pageSize < 1) {
      throw new ConfigError(`Expected \`pageSize\` to be a positive integer but received ${String(pageSize)}.`, {
        option: 'pageSize',
        received: pageSize,
      });
    }
    if (numPages * pageSize >= 2 ** 31) {
      throw new ConfigError(
        `Expected \`numPages\` · \`pageSize\` to be below 2^31 but received ${numPages} · ${pageSize}. Use fewer pages.`,
        { option: 'numPages', received: numPages, pageSize },
      );
    }
    this.pageSize = pageSize;
    this.pool = new PagePool(numPages);
    if (prefixCache === true) this.prefixCache = new ChainedHashPrefixCache(numPages, pageSize);
    else this.prefixCache = prefixCache === false ? undefined : prefixCache;
  }

  get numPages(): number {
    return this.pool.numPages;
  }

  get numAvailablePages(): number {
    return this.pool.numFree + (this.prefixCache?.numUnusedPages ?? 0);
  }

  begin(sequenceId: number, tokens: ArrayLike<number>, options: BeginOptions = {}): number {
    if (this.#sequences.has(sequenceId)) {
      throw new InvariantError(`Expected sequence ${sequenceId} to be new. Release it first.`, { sequenceId });
    }
    const { namespace = '' } = options;
    const pageIds: number[] = [];
    const maxPages = Math.max(0, Math.floor((tokens.length - 1) / this.pageSize));
    this.prefixCache?.match(namespace, tokens, maxPages, pageIds);
    for (const pageId of pageIds) this.#retainCached(pageId);
    const sequence = new SequencePages(sequenceId, namespace, this.pageSize, pageIds);
    this.#sequences.set(sequenceId, sequence);
    const { cachedLen } = sequence.lengths;
    this.#lookups += 1;
    this.#lookupTokens += tokens.length;
    if (cachedLen > 0) this.#hits += 1;
    this.#hitTokens += cachedLen;
    return cachedLen;
  }

  tryReserve(sequenceId: number, length: number): boolean {
    const { table, lengths } = this.#get(sequenceId);
    const numMissing = Math.ceil(length / this.pageSize) - table.length;
    if (numMissing > this.numAvailablePages) return false;
    for (let i = 0; i < numMissing; i++) table.push(this.#alloc());
    lengths.reserve(length, table.length * this.pageSize);
    this.#expectWritable(sequenceId);
    return true;
  }

  /** @throws InvariantError when `tokens` reach beyond what was reserved. */
  commit(sequenceId: number, tokens: ArrayLike<number>): void {
    const sequence = this.#get(sequenceId);
    sequence.lengths.commit(tokens.length);
    const firstLen = sequence.lengths.committedLen - tokens.length;
    for (let i = 0; i < tokens.length; i++) {
      sequence.tailTokens[sequence.numTailTokens] = tokens[i]!;
      sequence.numTailTokens += 1;
      if (sequence.numTailTokens < this.pageSize) continue;
      sequence.numTailTokens = 0;
      this.#share(sequence, Math.floor((firstLen + i) / this.pageSize));
    }
  }

  rollback(sequenceId: number): void {
    const { table, lengths } = this.#get(sequenceId);
    const numKept = Math.ceil(lengths.committedLen / this.pageSize);
    while (table.length > numKept) this.#release(table.pop());
    lengths.rollback(table.length * this.pageSize);
  }

  release(sequenceId: number): void {
    const { table } = this.#get(sequenceId);
    while (table.length > 0) this.#release(table.pop());
    this.#sequences.delete(sequenceId);
  }

  /** Forgets every cached page that no sequence uses. @returns how many. */
  clearPrefixCache(): number {
    let numEvicted = 0;
    while (this.#tryEvict()) numEvicted += 1;
    return numEvicted;
  }

  cachedLen(sequenceId: number): number {
    return this.#get(sequenceId).lengths.cachedLen;
  }

  committedLen(sequenceId: number): number {
    return this.#get(sequenceId).lengths.committedLen;
  }

  speculativeLen(sequenceId: number): number {
    return this.#get(sequenceId).lengths.speculativeLen;
  }

  capacityLen(sequenceId: number): number {
    return this.#get(sequenceId).lengths.capacityLen;
  }

  pageTable(sequenceId: number): Int32Array {
    return this.#get(sequenceId).table.view();
  }

  has(sequenceId: number): boolean {
    return this.#sequences.has(sequenceId);
  }

  /** The running sequences; for inspection ({@link checkIntegrity}). */
  sequences(): IterableIterator<SequencePages> {
    return this.#sequences.values();
  }

  get stats(): KvCacheStats {
    const numCachedPages = this.prefixCache?.numUnusedPages ?? 0;
    return {
      lookups: this.#lookups,
      hits: this.#hits,
      lookupTokens: this.#lookupTokens,
      hitTokens: this.#hitTokens,
      evictions: this.#evictions,
      numFreePages: this.pool.numFree,
      numUsedPages: this.pool.numUsed - numCachedPages,
      numCachedPages,
    };
  }

  /** Page `index` of the sequence is full: make it known, or take the known page of equal contents instead and give back this one. */
  #share(sequence: SequencePages, index: number): void {
    if (!this.prefixCache) return;
    const { table, namespace, tailTokens } = sequence;
    const own = table.at(index);
    const known = this.prefixCache.insert(namespace, sequence.parentOf(index), tailTokens, own);
    if (known === own) {
      this.pool.retain(own);
      return;
    }
    this.#retainCached(known);
    table.replace(index, known);
    this.#release(own);
  }

  #retainCached(pageId: number): void {
    this.pool.retain(pageId);
    if (this.prefixCache!.isUnused(pageId)) this.prefixCache!.markUsed(pageId);
  }

  #release(pageId: number): void {
    const numLeft = this.pool.release(pageId);
    if (numLeft === 1 && this.prefixCache?.has(pageId)) this.prefixCache.markUnused(pageId);
  }

  #alloc(): number {
    if (this.pool.numFree === 0) this.#tryEvict();
    const pageId = this.pool.tryAlloc();
    if (pageId === undefined) {
      throw new InvariantError('Expected an available page but there is none. Please report this.', { ...this.stats });
    }
    return pageId;
  }

  #tryEvict(): boolean {
    const pageId = this.prefixCache?.evict();
    if (pageId === undefined) return false;
    const numLeft = this.pool.release(pageId);
    if (numLeft !== 0) {
      throw new InvariantError(`Expected evicted page ${pageId} to be unused. Please report this.`, {
        pageId,
        numLeft,
      });
    }
    this.#evictions += 1;
    return true;
  }

  /** The page that holds position committedLen, where writes begin, belongs to this sequence alone. */
  #expectWritable(sequenceId: number): void {
    const { table, lengths } = this.#get(sequenceId);
    const index = Math.floor(lengths.committedLen / this.pageSize);
    if (index >= table.length) return;
    const pageId = table.at(index);
    if (this.pool.refCount(pageId) === 1 && !this.prefixCache?.has(pageId)) return;
    throw new InvariantError(`Expected page ${pageId} of sequence ${sequenceId} to be unshared. Please report this.`, {
      pageId,
      sequenceId,
    });
  }

  #get(sequenceId: number): SequencePages {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence) return sequence;
    throw new InvariantError(`Expected sequence ${sequenceId} to have begun. Please report this.`, { sequenceId });
  }
}
