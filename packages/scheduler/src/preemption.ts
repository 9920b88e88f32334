import type { KvAllocator } from '@qspec/core';
import type { DecodeSet } from './decode-set.js';
import type { RequestState } from './request-state.js';

/** What happens to those who must give way. Both take the request out of `running` and release its pages. */
export interface PreemptionActions {
  /** Back to waiting; resumed later by recomputing prompt and output. */
  preempt(request: RequestState): void;
  /** It has the whole pool and still doesn't fit. */
  fail(request: RequestState): void;
}

/**
 * Gets pages for up to `numRows` more tokens of `request`, as many as there is room for. When there is not room for one, the most recently
 * arrived running request is preempted until there is; that may be `request` itself, which then gets 0 rows.
 * @returns rows reserved.
 */
export function reserveOrPreempt(
  allocator: KvAllocator,
  running: DecodeSet,
  request: RequestState,
  numRows: number,
  actions: PreemptionActions,
): number {
  for (;;) {
    const fitting = Math.min(numRows, numReachable(allocator, request));
    if (fitting >= 1 && allocator.tryReserve(request.requestId, request.numComputed + fitting)) return fitting;
    const victim = running.last!;
    if (running.size === 1) {
      actions.fail(request);
      return 0;
    }
    actions.preempt(victim);
    if (victim === request) return 0;
  }
}

/** Gets pages for up to `gamma` draft tokens behind the rows already reserved, taking them from nobody. @returns how many fit. */
export function reserveDrafts(allocator: KvAllocator, request: RequestState, numInputs: number, gamma: number): number {
  const fitting = Math.min(gamma, numReachable(allocator, request) - numInputs);
  if (fitting <= 0) return 0;
  return allocator.tryReserve(request.requestId, request.numComputed + numInputs + fitting) ? fitting : 0;
}

/** Tokens behind numComputed that the request's pages and all available ones have room for. */
function numReachable(allocator: KvAllocator, request: RequestState): number {
  const capacityLen = allocator.capacityLen(request.requestId) + allocator.numAvailablePages * allocator.pageSize;
  return capacityLen - request.numComputed;
}
