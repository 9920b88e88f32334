import type { AcceptanceStats } from './acceptance.js';

/**
 * Decides how many draft tokens a request's next round is worth. Where the draft tokens come from (draft mode, n-gram) is the engine's
 * business; the scheduler clamps the answer to the budget, the pages, the context and the tokens that may still be emitted.
 */
export interface Drafter {
  readonly name: string;
  /** Draft tokens wanted for this request in this round, an integer ≥ 0. Called once a round for each decoding request. */
  gammaFor(context: DraftContext): number;
}

export interface DraftContext {
  readonly requestId: number;
  /** Tokens in the sequence so far. */
  readonly contextLen: number;
  /** Requests that decode in this round. */
  readonly numDecoding: number;
  /** Of this request. */
  readonly acceptance: AcceptanceStats;
}
