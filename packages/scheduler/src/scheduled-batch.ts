import type { KvCacheExhaustedError } from '@qspec/core';
import type { AcceptanceSummary } from './speculation/acceptance.js';

/** What one request does in one round. */
export interface ScheduledEntry {
  readonly requestId: number;
  /** Position of the first input token: everything before it is in the KV cache. */
  readonly startPosition: number;
  /** Input tokens: a chunk of the prompt (or of prompt and output, after a preemption), or the last emitted token. */
  readonly numInputs: number;
  /** [numInputs] borrowed view, valid until the batch is completed. */
  readonly tokens: Int32Array;
  /** Sample after the last input: false only for a chunk that more chunks follow. */
  readonly emit: boolean;
  /** Draft tokens to propose; > 0 only with one input and `emit`. */
  readonly gamma: number;
  readonly isPrefill: boolean;
}

/** One round: decode entries first, then prefill chunks. Pages reach startPosition + numInputs + gamma of every entry. */
export interface ScheduledBatch {
  readonly entries: readonly ScheduledEntry[];
  /** Σ numInputs + gamma, at most `maxBatchedTokens`. */
  readonly numRows: number;
}

/** What came of one entry. */
export interface EntryResult {
  /**
   * Without `emit` none; else accepted draft tokens, then the target's own: numAccepted + 1. A caller that ends the request (`finished`)
   * may cut the list after the token that ended it; at least one stays.
   */
  readonly tokens: ArrayLike<number>;
  /** Draft tokens that equalled the target's pick, before any cut. */
  readonly numAccepted: number;
  /** The request ends here (end-of-sequence token, stop string). */
  readonly finished?: boolean;
}

export interface FinishedRequest {
  readonly requestId: number;
  /** `stop`: the caller said so. `length`: `maxTokens` emitted, or the context is full. */
  readonly reason: 'stop' | 'length';
  /** Emitted tokens. */
  readonly tokens: Int32Array;
  /** Prompt tokens that the prefix cache lent at first admission. */
  readonly cachedLen: number;
  readonly numPreemptions: number;
  readonly acceptance: AcceptanceSummary;
}

export interface FailedRequest {
  readonly requestId: number;
  readonly error: KvCacheExhaustedError;
}
