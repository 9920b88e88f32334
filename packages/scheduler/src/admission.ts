import type { KvAllocator } from '@qspec/core';
import type { DecodeSet } from './decode-set.js';
import type { RequestState } from './request-state.js';

/**
 * Who may start. A waiting request is let in when the pages for all of its tokens can be had now, on top of what running prefills still need
 * and one page of growth for each running request: so that it is not preempted the moment it starts. With nothing running it is always let in.
 */
export class Admission {
  readonly #allocator: KvAllocator;
  /** Pages there were when the head of the queue was last refused; undefined: not refused since something changed. */
  #refusedAt: number | undefined;

  constructor(allocator: KvAllocator) {
    this.#allocator = allocator;
  }

  /** Asking again is pointless: no page has come free since the last refusal. */
  isBlocked(running: DecodeSet): boolean {
    return running.size > 0 && this.#refusedAt !== undefined && this.#allocator.numAvailablePages <= this.#refusedAt;
  }

  /** The queue or the running set changed: ask again. */
  reset(): void {
    this.#refusedAt = undefined;
  }

  /** Begins the request's sequence if it may start. @returns its cachedLen, undefined when refused (then nothing changed). */
  tryBegin(request: RequestState, running: DecodeSet): number | undefined {
    if (this.isBlocked(running)) return undefined;
    const allocator = this.#allocator;
    const numBefore = allocator.numAvailablePages;
    const cachedLen = allocator.begin(request.requestId, request.tokens());
    if (running.size === 0) return cachedLen;
    const promised = [...running].reduce((total, other) => total + 1 + this.#numPagesMissing(other), 0);
    if (this.#numPagesMissing(request) + promised <= allocator.numAvailablePages) return cachedLen;
    allocator.release(request.requestId);
    this.#refusedAt = numBefore;
    return undefined;
  }

  /** Pages that the request's known tokens and the next one need beyond those it has. */
  #numPagesMissing(request: RequestState): number {
    const { pageSize } = this.#allocator;
    const needed = Math.ceil((request.numTokens + 1) / pageSize);
    return Math.max(0, needed - this.#allocator.capacityLen(request.requestId) / pageSize);
  }
}
