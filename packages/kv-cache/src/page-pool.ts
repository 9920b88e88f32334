import { ConfigError, InvariantError } from '@qspec/core';

const MAX_INT32 = 2 ** 31 - 1;

/** The pages of one device, by number: a free list and a reference count a page. Knows nothing of tokens. */
export class PagePool {
  readonly numPages: number;
  /** [numPages] holders of each page; 0 = free. */
  readonly #refCounts: Int32Array;
  /** [numPages] stack of free ids, the top at `#numFree - 1`. */
  readonly #freeIds: Int32Array;
  #numFree: number;

  /** @throws ConfigError unless `numPages` is a positive 32-bit integer. */
  constructor(numPages: number) {
    if (!Number.isInteger(numPages) || numPages < 1 || numPages > MAX_INT32) {
      throw new ConfigError(`Expected \`numPages\` to be a positive 32-bit integer but received ${String(numPages)}.`, {
        option: 'numPages',
        received: numPages,
      });
    }
    this.numPages = numPages;
    this.#refCounts = new Int32Array(numPages);
    this.#freeIds = Int32Array.from({ length: numPages }, (_, index) => numPages - 1 - index);
    this.#numFree = numPages;
  }

  get numFree(): number {
    return this.#numFree;
  }

  get numUsed(): number {
    return this.numPages - this.#numFree;
  }

  /** Takes a free page with one reference; undefined when there is none. */
  tryAlloc(): number | undefined {
    if (this.#numFree === 0) return undefined;
    this.#numFree -= 1;
    const pageId = this.#freeIds[this.#numFree]!;
    if (this.#refCounts[pageId] !== 0) {
      throw new InvariantError(`Expected free page ${pageId} to have no references. Please report this.`, { pageId });
    }
    this.#refCounts[pageId] = 1;
    return pageId;
  }

  /** Adds a reference to a page that has one. @throws InvariantError for a free or unknown page. */
  retain(pageId: number): void {
    this.#expectHeld(pageId, 'retain');
    this.#refCounts[pageId]! += 1;
  }

  /** Drops a reference; the last one frees the page. @returns references left. @throws InvariantError on a double free. */
  release(pageId: number): number {
    this.#expectHeld(pageId, 'release');
    const left = (this.#refCounts[pageId]! -= 1);
    if (left === 0) {
      this.#freeIds[this.#numFree] = pageId;
      this.#numFree += 1;
    }
    return left;
  }

  refCount(pageId: number): number {
    return this.#refCounts[pageId] ?? 0;
  }

  /** Copy of the free list, for inspection. */
  freePageIds(): Int32Array {
    return this.#freeIds.slice(0, this.#numFree);
  }

  /** @throws InvariantError naming the pages that are still held. For use when everything should have been given back. */
  expectNoLeaks(): void {
    if (this.#numFree === this.numPages) return;
    const held = [...this.#refCounts.entries()].filter(([, count]) => count > 0).map(([pageId]) => pageId);
    throw new InvariantError(
      `Expected every page to be free but ${held.length} of ${this.numPages} are held: ${held.slice(0, 16).join(', ')}${held.length > 16 ? ', …' : ''}. Please report this.`,
      { held },
    );
  }

  #expectHeld(pageId: number, verb: string): void {
    if (this.refCount(pageId) > 0) return;
    throw new InvariantError(
      `Expected page ${pageId} to be held at ${verb} but it is free or unknown. Please report this.`,
      {
        pageId,
        verb,
      },
    );
  }
}
