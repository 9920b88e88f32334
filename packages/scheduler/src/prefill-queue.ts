import type { RequestState } from './request-state.js';

/** Requests without pages, oldest arrival first; a preempted request returns to its place. */
export class PrefillQueue {
  readonly #requests: RequestState[] = [];

  get length(): number {
    return this.#requests.length;
  }

  /** The request whose turn it is. */
  get head(): RequestState | undefined {
    return this.#requests[0];
  }

  /** Tokens that wait, counted up to `limit`. */
  numPending(limit: number): number {
    let total = 0;
    for (let index = 0; index < this.#requests.length && total < limit; index++)
      total += this.#requests[index]!.numPending;
    return Math.min(total, limit);
  }

  /** Arrivals go to the end, preempted requests to where their arrival puts them. */
  insert(request: RequestState): void {
    let index = this.#requests.length;
    while (index > 0 && this.#requests[index - 1]!.arrivalIndex > request.arrivalIndex) index -= 1;
    this.#requests.splice(index, 0, request);
  }

  shift(): RequestState | undefined {
    return this.#requests.shift();
  }

  remove(request: RequestState): void {
    const index = this.#requests.indexOf(request);
    if (index >= 0) this.#requests.splice(index, 1);
  }
}
