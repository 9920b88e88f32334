import type { RequestState } from './request-state.js';

/** Requests that hold pages (prefilling or decoding), oldest arrival first. */
export class DecodeSet {
  readonly #requests: RequestState[] = [];

  get size(): number {
    return this.#requests.length;
  }

  /** The most recent arrival: the one to preempt. */
  get last(): RequestState | undefined {
    return this.#requests.at(-1);
  }

  get decoding(): RequestState[] {
    return this.#requests.filter((request) => request.phase === 'decode');
  }

  get prefilling(): RequestState[] {
    return this.#requests.filter((request) => request.phase === 'prefill');
  }

  add(request: RequestState): void {
    let index = this.#requests.length;
    while (index > 0 && this.#requests[index - 1]!.arrivalIndex > request.arrivalIndex) index -= 1;
    this.#requests.splice(index, 0, request);
  }

  remove(request: RequestState): void {
    const index = this.#requests.indexOf(request);
    if (index >= 0) this.#requests.splice(index, 1);
  }

  has(request: RequestState): boolean {
    return this.#requests.includes(request);
  }

  [Symbol.iterator](): IterableIterator<RequestState> {
    return [...this.#requests][Symbol.iterator]();
  }
}
