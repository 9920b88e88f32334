/**
 * What the scheduler needs to know of KV memory, in plain numbers. `kv-cache` implements it; the simulator and tests may too.
 * Lengths are tokens. For every sequence: cachedLen ≤ committedLen ≤ speculativeLen ≤ capacityLen.
 */
export interface KvAllocator {
  readonly pageSize: number;
  /** Pages of the whole pool. */
  readonly numPages: number;
  /** Pages that could be had right now: free ones and evictable cached ones. */
  readonly numAvailablePages: number;

  /**
   * Starts a sequence and lends it the pages of the longest cached prefix of `tokens` (never all of them: at least one token is left
   * to compute). Allocates nothing new.
   * @returns cachedLen, a multiple of pageSize.
   */
  begin(sequenceId: number, tokens: ArrayLike<number>): number;
  /** Makes capacityLen ≥ `length` or changes nothing. @returns whether it did. */
  tryReserve(sequenceId: number, length: number): boolean;
  /** Moves committedLen forward: `tokens` are now in the cache for good, behind the current committedLen. Full pages become shareable. */
  commit(sequenceId: number, tokens: ArrayLike<number>): void;
  /** Gives back capacity beyond committedLen. */
  rollback(sequenceId: number): void;
  /** Ends the sequence; its full pages stay cached until evicted. */
  release(sequenceId: number): void;
  committedLen(sequenceId: number): number;
  capacityLen(sequenceId: number): number;
  /** Borrowed view of the sequence's page ids in order of position; valid until the next call that changes the sequence. */
  pageTable(sequenceId: number): Int32Array;
}
