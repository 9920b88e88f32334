import { InvariantError } from '@qspec/core';
import { AcceptanceStats } from './speculation/acceptance.js';

/**
 * waiting → prefill → decode → finished; prefill and decode may fall back to waiting (preempted). Every state may go to finished.
 * A waiting request holds no pages.
 */
export type RequestPhase = 'waiting' | 'prefill' | 'decode' | 'finished';

const ALLOWED: Readonly<Record<RequestPhase, readonly RequestPhase[]>> = {
  waiting: ['prefill', 'finished'],
  prefill: ['decode', 'waiting', 'finished'],
  decode: ['waiting', 'finished'],
  finished: [],
};

/** One request: its tokens so far, how many of them the KV cache holds, and where it stands. */
export class RequestState {
  readonly requestId: number;
  /** Order of arrival; never changes, also not by preemption. */
  readonly arrivalIndex: number;
  readonly numPromptTokens: number;
  /** Most tokens to emit: what was asked for, or what the context leaves. */
  readonly maxTokens: number;
  /** This request's own limit on draft tokens a round. */
  readonly maxGamma: number;
  readonly acceptance = new AcceptanceStats();
  /** Leading tokens that are in the KV cache for good. */
  numComputed = 0;
  /** Prompt tokens that the prefix cache lent at first admission. */
  cachedLen = 0;
  numPreemptions = 0;
  #phase: RequestPhase = 'waiting';
  #tokens: Int32Array;
  #numTokens: number;

  constructor(
    requestId: number,
    arrivalIndex: number,
    promptTokens: ArrayLike<number>,
    maxTokens: number,
    maxGamma: number,
  ) {
    this.requestId = requestId;
    this.arrivalIndex = arrivalIndex;
    this.numPromptTokens = promptTokens.length;
    this.maxTokens = maxTokens;
    this.maxGamma = maxGamma;
    this.#tokens = new Int32Array(promptTokens.length + Math.min(maxTokens, 256));
    this.#tokens.set(promptTokens);
    this.#numTokens = promptTokens.length;
  }

  get phase(): RequestPhase {
    return this.#phase;
  }

  /** Prompt and emitted tokens. */
  get numTokens(): number {
    return this.#numTokens;
  }

  get numEmitted(): number {
    return this.#numTokens - this.numPromptTokens;
  }

  /** Tokens that may still be emitted. */
  get numRemaining(): number {
    return this.maxTokens - this.numEmitted;
  }

  /** Known tokens that are not in the KV cache; 1 while decoding. */
  get numPending(): number {
    return this.#numTokens - this.numComputed;
  }

  /** Borrowed view of tokens [start, end); valid until more are appended. */
  tokens(start = 0, end = this.#numTokens): Int32Array {
    return this.#tokens.subarray(start, end);
  }

  append(tokens: ArrayLike<number>): void {
    const numTokens = this.#numTokens + tokens.length;
    if (numTokens > this.#tokens.length) {
      const grown = new Int32Array(Math.max(numTokens, this.#tokens.length * 2));
      grown.set(this.tokens());
      this.#tokens = grown;
    }
    this.#tokens.set(tokens, this.#numTokens);
    this.#numTokens = numTokens;
  }

  /** waiting → prefill, with the first `cachedLen` tokens in the cache already. */
  startPrefill(cachedLen: number): void {
    this.moveTo('prefill');
    this.numComputed = cachedLen;
    if (this.numPreemptions === 0) this.cachedLen = cachedLen;
  }

  /** Back to waiting: nothing of it is in the cache any more, as far as it knows. */
  preempt(): void {
    this.moveTo('waiting');
    this.numComputed = 0;
    this.numPreemptions += 1;
  }

  /** @throws InvariantError for a transition that is not allowed. */
  moveTo(phase: RequestPhase): void {
    if (!ALLOWED[this.#phase].includes(phase)) {
      throw new InvariantError(
        `Expected request ${this.requestId} to go from ${this.#phase} to one of [${ALLOWED[this.#phase].join(', ')}] but received ${phase}. Please report this.`,
        { requestId: this.requestId, from: this.#phase, to: phase },
      );
    }
    this.#phase = phase;
  }
}
