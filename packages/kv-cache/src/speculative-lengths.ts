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
    this.#set(this.#committedLen, Math.max(this.#speculativeLen, length), capacityLen);
  }

  /** `numTokens` more entries stay. */
  commit(numTokens: number): void {
    this.#set(this.#committedLen + numTokens, this.#speculativeLen, this.#capacityLen);
  }

  /** What lies beyond committedLen is forgotten; `capacityLen` is what was kept. */
  rollback(capacityLen: number): void {
    this.#set(this.#committedLen, this.#committedLen, capacityLen);
  }

  /** Asserts, then assigns: a refused change changes nothing. */
  #set(committedLen: number, speculativeLen: number, capacityLen: number): void {
    const { cachedLen } = this;
    if (!(cachedLen <= committedLen && committedLen <= speculativeLen && speculativeLen <= capacityLen)) {
      throw new InvariantError(
        `Expected cachedLen ≤ committedLen ≤ speculativeLen ≤ capacityLen but received ${cachedLen}, ${committedLen}, ${speculativeLen}, ${capacityLen}. Please report this.`,
        { cachedLen, committedLen, speculativeLen, capacityLen },
      );
    }
    this.#committedLen = committedLen;
    this.#speculativeLen = speculativeLen;
    this.#capacityLen = capacityLen;
  }
}
