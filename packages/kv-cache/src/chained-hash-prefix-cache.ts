import { InvariantError } from '@qspec/core';
import { PageList } from './page-list.js';
import { NO_PAGE, type PrefixCache } from './prefix-cache.js';
import { hashNamespace, hashTokens, type TokenHash } from './token-hash.js';

/** What a page's entry looks like while it is not in the cache. */
const ABSENT = -2;

/**
 * Prefix cache over full pages: hash(page) = H(hash(page before), tokens), looked up in a table.
 *
 * A hit needs more than an equal hash: the same tokens AND the same page before it (by induction the same whole prefix, and for a first page
 * the same namespace), so a hash collision costs a comparison and never shares a wrong page.
 *
 * Eviction order. Unused pages form one list. A sequence uses every page of its chain, and lets go of later pages first, so in the list
 * a page always stands behind all pages that build on it: the front is a leaf, and the oldest.
 *
 * Memory: five integers and `pageSize` token ids a page, allocated once.
 */
export class ChainedHashPrefixCache implements PrefixCache {
  readonly #pageSize: number;
  readonly #hash: TokenHash;
  /** hash → first page of its bucket; the rest hang on `#nextInBucket`. */
  readonly #buckets = new Map<number, number>();
  readonly #nextInBucket: Int32Array;
  readonly #hashes: Float64Array;
  readonly #parents: Int32Array;
  /** [numPages, pageSize] */
  readonly #tokens: Int32Array;
  /** Namespaces of first pages. */
  readonly #namespaces = new Map<number, string>();
  readonly #unused: PageList;
  #numPages = 0;

  constructor(numPages: number, pageSize: number, hash: TokenHash = hashTokens) {
    this.#pageSize = pageSize;
    this.#hash = hash;
    this.#nextInBucket = new Int32Array(numPages);
    this.#hashes = new Float64Array(numPages);
    this.#parents = new Int32Array(numPages).fill(ABSENT);
    this.#tokens = new Int32Array(numPages * pageSize);
    this.#unused = new PageList(numPages);
  }

  get numPages(): number {
    return this.#numPages;
  }

  get numUnusedPages(): number {
    return this.#unused.length;
  }

  match(namespace: string, tokens: ArrayLike<number>, maxPages: number, pageIds: number[]): void {
    let parent = NO_PAGE;
    let hash = hashNamespace(namespace);
    for (let index = 0; index < maxPages; index++) {
      hash = this.#hash(hash, tokens, index * this.#pageSize, this.#pageSize);
      parent = this.#find(hash, namespace, parent, tokens, index * this.#pageSize);
      if (parent === NO_PAGE) return;
      pageIds.push(parent);
    }
  }

  insert(namespace: string, parentPageId: number, tokens: ArrayLike<number>, pageId: number): number {
    if (this.has(pageId) || (parentPageId !== NO_PAGE && !this.has(parentPageId))) {
      throw new InvariantError(`Expected new page ${pageId} behind known page ${parentPageId}. Please report this.`, {
        pageId,
        parentPageId,
      });
    }
    const previous = parentPageId === NO_PAGE ? hashNamespace(namespace) : this.#hashes[parentPageId]!;
    const hash = this.#hash(previous, tokens, 0, this.#pageSize);
    const existing = this.#find(hash, namespace, parentPageId, tokens, 0);
    if (existing !== NO_PAGE) return existing;
    this.#hashes[pageId] = hash;
    this.#parents[pageId] = parentPageId;
    for (let i = 0; i < this.#pageSize; i++) this.#tokens[pageId * this.#pageSize + i] = tokens[i]!;
    if (parentPageId === NO_PAGE) this.#namespaces.set(pageId, namespace);
    this.#nextInBucket[pageId] = this.#buckets.get(hash) ?? NO_PAGE;
    this.#buckets.set(hash, pageId);
    this.#numPages += 1;
    return pageId;
  }

  has(pageId: number): boolean {
    return (this.#parents[pageId] ?? ABSENT) !== ABSENT;
  }

  isUnused(pageId: number): boolean {
    return this.#unused.has(pageId);
  }

  markUsed(pageId: number): void {
    if (!this.#unused.has(pageId)) this.#fail(pageId, 'be unused');
    this.#unused.remove(pageId);
  }

  markUnused(pageId: number): void {
    if (!this.has(pageId) || this.#unused.has(pageId)) this.#fail(pageId, 'be cached and used');
    this.#unused.append(pageId);
  }

  evict(): number | undefined {
    const pageId = this.#unused.first;
    if (pageId === NO_PAGE) return undefined;
    this.#unused.remove(pageId);
    this.#removeFromBucket(pageId);
    this.#parents[pageId] = ABSENT;
    this.#namespaces.delete(pageId);
    this.#numPages -= 1;
    return pageId;
  }

  unusedPageIds(): number[] {
    return this.#unused.toArray();
  }

  parentOf(pageId: number): number {
    if (!this.has(pageId)) this.#fail(pageId, 'be cached');
    return this.#parents[pageId]!;
  }

  #find(hash: number, namespace: string, parent: number, tokens: ArrayLike<number>, start: number): number {
    let pageId = this.#buckets.get(hash) ?? NO_PAGE;
    while (pageId !== NO_PAGE && !this.#holds(pageId, namespace, parent, tokens, start)) {
      pageId = this.#nextInBucket[pageId]!;
    }
    return pageId;
  }

  #holds(pageId: number, namespace: string, parent: number, tokens: ArrayLike<number>, start: number): boolean {
    if (this.#parents[pageId] !== parent) return false;
    if (parent === NO_PAGE && this.#namespaces.get(pageId) !== namespace) return false;
    const base = pageId * this.#pageSize;
    for (let i = 0; i < this.#pageSize; i++) {
      if (this.#tokens[base + i] !== tokens[start + i]) return false;
    }
    return true;
  }

  #removeFromBucket(pageId: number): void {
    const hash = this.#hashes[pageId]!;
    const next = this.#nextInBucket[pageId]!;
    const first = this.#buckets.get(hash)!;
    if (first === pageId) {
      if (next === NO_PAGE) this.#buckets.delete(hash);
      else this.#buckets.set(hash, next);
      return;
    }
    let before = first;
    while (this.#nextInBucket[before] !== pageId) before = this.#nextInBucket[before]!;
    this.#nextInBucket[before] = next;
  }

  #fail(pageId: number, expectation: string): never {
    throw new InvariantError(`Expected page ${pageId} to ${expectation}. Please report this.`, { pageId });
  }
}
