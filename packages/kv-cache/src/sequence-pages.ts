import { PageTable } from './page-table.js';
import { NO_PAGE } from './prefix-cache.js';
import { SpeculativeLengths } from './speculative-lengths.js';

/** One sequence's share of the pool: which pages, how far filled, and the tokens of its last, not yet full page. */
export class SequencePages {
  readonly sequenceId: number;
  readonly namespace: string;
  readonly table = new PageTable();
  readonly lengths: SpeculativeLengths;
  /** [pageSize] committed tokens of the page being filled. */
  readonly tailTokens: Int32Array;
  numTailTokens = 0;

  constructor(sequenceId: number, namespace: string, pageSize: number, cachedPageIds: readonly number[]) {
    this.sequenceId = sequenceId;
    this.namespace = namespace;
    for (const pageId of cachedPageIds) this.table.push(pageId);
    this.lengths = new SpeculativeLengths(cachedPageIds.length * pageSize);
    this.tailTokens = new Int32Array(pageSize);
  }

  /** The page before `index`, NO_PAGE for the first. */
  parentOf(index: number): number {
    return index === 0 ? NO_PAGE : this.table.at(index - 1);
  }
}
