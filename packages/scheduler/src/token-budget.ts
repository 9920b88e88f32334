import { InvariantError } from '@qspec/core';

/**
 * The share of a round's rows that pending prefill may count on: speculation shrinks before it does. Plain decode rows come before both,
 * and are never more than `maxRunning` ≤ `maxBatchedTokens`.
 */
export const PREFILL_SHARE = 1 / 4;

/** Rows of one round: every input token and every draft token is one. */
export class TokenBudget {
  readonly max: number;
  #used = 0;

  constructor(max: number) {
    this.max = max;
  }

  get used(): number {
    return this.#used;
  }

  get left(): number {
    return this.max - this.#used;
  }

  take(numRows: number): void {
    this.#used += numRows;
    if (this.#used > this.max) {
      throw new InvariantError(
        `Expected at most ${this.max} rows a round but received ${this.#used}. Please report this.`,
        {
          max: this.max,
          used: this.#used,
        },
      );
    }
  }

  giveBack(numRows: number): void {
    this.#used -= numRows;
  }
}

/** Most draft tokens for each of `numDecoding` requests, alike, that leaves pending prefill its share. */
export function gammaWithin(maxRows: number, numDecoding: number, numPendingPrefill: number): number {
  if (numDecoding === 0) return 0;
  const spare = maxRows - numDecoding;
  const promised = Math.min(numPendingPrefill, Math.max(1, Math.floor(maxRows * PREFILL_SHARE)), spare);
  return Math.floor((spare - promised) / numDecoding);
}
