import { InvariantError } from '@qspec/core';

/**
 * The four lengths of a sequence, in tokens: cachedLen ≤ committedLen ≤ speculativeLen ≤ capacityLen, asserted after every change.
 * - `cachedLen`: lent by the prefix cache at the start; a multiple of the page size; never written by this sequence.
 * - `committedLen`: entries that stay.
 * - `speculativeLen`: how far the device may have written since the last commit or rollback.
 * - `capacityLen`: slots in the page table.
 */
export class SpeculativeLengths {
  readonly cachedLen: number;
  #committedLen: number;
  #speculativeLen: number;
  #capacityLen: number;

  constructor(cachedLen: number) {
    this.cachedLen = cachedLen;
    this.#committedLen = cachedLen;
    this.#speculativeLen = cachedLen;
    this.#capacityLen = cachedLen;
  }

  get committedLen(): number {
    return this.#committedLen;
  }

  get speculativeLen(): number {
    return this.#speculativeLen;
  }

  get capacityLen(): number {
    return this.#capacityLen;
  }

  /** Writes up to `length` are about to happen, with room for `capacityLen`. */
  reserve(length: number, capacityLen: number): void {
    this.#capacityLen = capacityLen;
    this.#speculativeLen = Math.max(this.#speculativeLen, length);
    this.#assertOrdered();
  }

  /** `numTokens` more entries stay. */
  commit(numTokens: number): void {
    this.#committedLen += numTokens;
    this.#assertOrdered();
  }

  /** What lies beyond committedLen is forgotten; `capacityLen` is what was kept. */
  rollback(capacityLen: number): void {
    this.#speculativeLen = this.#committedLen;
    this.#capacityLen = capacityLen;
    this.#assertOrdered();
  }

  #assertOrdered(): void {
    const { cachedLen, committedLen, speculativeLen, capacityLen } = this;
    if (cachedLen <= committedLen && committedLen <= speculativeLen && speculativeLen <= capacityLen) return;
    throw new InvariantError(
      `Expected cachedLen ≤ committedLen ≤ speculativeLen ≤ capacityLen but received ${cachedLen}, ${committedLen}, ${speculativeLen}, ${capacityLen}. Please report this.`,
      { cachedLen, committedLen, speculativeLen, capacityLen },
    );
  }
}
