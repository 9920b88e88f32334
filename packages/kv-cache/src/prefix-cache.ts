/** Stands for "no page before": the parent of a sequence's first page. */
export const NO_PAGE = -1;

/**
 * Which full, committed pages hold which tokens, and in which order unused ones are given up.
 * A page is identified by everything that its contents depend on: the namespace and all tokens from position 0 to its end.
 * Holds no reference counts: the manager keeps one reference for each cached page and says when a page is used.
 */
export interface PrefixCache {
  /** Pages known. */
  readonly numPages: number;
  /** Pages known that no sequence uses: these can be evicted. */
  readonly numUnusedPages: number;

  /** Appends to `pageIds` the pages of the longest known prefix of `tokens`, at most `maxPages`. */
  match(namespace: string, tokens: ArrayLike<number>, maxPages: number, pageIds: number[]): void;
  /**
   * Makes known `pageId`, in use, holding `tokens` (one page of them) behind `parentPageId` (NO_PAGE: first page of `namespace`).
   * @returns `pageId`, or the page that already holds exactly this: then nothing changed.
   */
  insert(namespace: string, parentPageId: number, tokens: ArrayLike<number>, pageId: number): number;
  has(pageId: number): boolean;
  isUnused(pageId: number): boolean;
  /** A sequence took hold of an unused page. */
  markUsed(pageId: number): void;
  /** The last sequence let go of the page. Later pages of a chain must be marked before earlier ones. */
  markUnused(pageId: number): void;
  /** Forgets the least recently used page that nothing unused builds on. @returns its id; undefined when all are in use. */
  evict(): number | undefined;
  /** Unused pages in the order of eviction; for inspection. */
  unusedPageIds(): number[];
  /** The page before this one in its chain, NO_PAGE for a first page; for inspection. */
  parentOf(pageId: number): number;
}
