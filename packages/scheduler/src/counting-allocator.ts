import { InvariantError, type KvAllocator } from '@qspec/core';

interface Sequence {
  committedLen: number;
  readonly pageIds: number[];
}

/** The least a {@link KvAllocator} can be: pages lent and given back, nothing shared. For the simulator, examples and tests. */
export class CountingAllocator implements KvAllocator {
  readonly numPages: number;
  readonly pageSize: number;
  readonly #freeIds: number[];
  readonly #sequences = new Map<number, Sequence>();

  constructor(options: { readonly numPages: number; readonly pageSize: number }) {
    this.numPages = options.numPages;
    this.pageSize = options.pageSize;
    this.#freeIds = Array.from({ length: options.numPages }, (_, index) => options.numPages - 1 - index);
  }

  get numAvailablePages(): number {
    return this.#freeIds.length;
  }

  /** Nothing is ever cached: always 0. */
  begin(sequenceId: number, _tokens: ArrayLike<number>): number {
    if (this.#sequences.has(sequenceId))
      throw new InvariantError(`Expected sequence ${sequenceId} to be new.`, { sequenceId });
    this.#sequences.set(sequenceId, { committedLen: 0, pageIds: [] });
    return 0;
  }

  tryReserve(sequenceId: number, length: number): boolean {
    const { pageIds } = this.#get(sequenceId);
    const numMissing = Math.ceil(length / this.pageSize) - pageIds.length;
    if (numMissing > this.#freeIds.length) return false;
    for (let i = 0; i < numMissing; i++) pageIds.push(this.#freeIds.pop()!);
    return true;
  }

  commit(sequenceId: number, tokens: ArrayLike<number>): void {
    const sequence = this.#get(sequenceId);
    sequence.committedLen += tokens.length;
    if (sequence.committedLen > this.capacityLen(sequenceId)) {
      throw new InvariantError(`Expected sequence ${sequenceId} to commit within its capacity.`, { sequenceId });
    }
  }

  rollback(sequenceId: number): void {
    const { pageIds, committedLen } = this.#get(sequenceId);
    while (pageIds.length > Math.ceil(committedLen / this.pageSize)) this.#freeIds.push(pageIds.pop()!);
  }

  release(sequenceId: number): void {
    this.#freeIds.push(...this.#get(sequenceId).pageIds);
    this.#sequences.delete(sequenceId);
  }

  committedLen(sequenceId: number): number {
    return this.#get(sequenceId).committedLen;
  }

  capacityLen(sequenceId: number): number {
    return this.#get(sequenceId).pageIds.length * this.pageSize;
  }

  pageTable(sequenceId: number): Int32Array {
    return Int32Array.from(this.#get(sequenceId).pageIds);
  }

  #get(sequenceId: number): Sequence {
    const sequence = this.#sequences.get(sequenceId);
    if (sequence) return sequence;
    throw new InvariantError(`Expected sequence ${sequenceId} to have begun.`, { sequenceId });
  }
}
