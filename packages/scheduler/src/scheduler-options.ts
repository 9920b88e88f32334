import { ConfigError, ContextLengthError, expectInteger, type KvAllocator, KvCacheExhaustedError } from '@qspec/core';
import type { Drafter } from './speculation/drafter.js';
import { FixedGamma, MAX_GAMMA } from './speculation/fixed-gamma.js';

const MAX_INT32 = 2 ** 31 - 1;

export interface SchedulerOptions {
  /** KV memory. The scheduler begins, reserves, commits and releases its sequences; sequenceId = requestId. */
  readonly allocator: KvAllocator;
  /** Most rows a round (input and draft tokens of all requests together); at least `maxRunning`. */
  readonly maxBatchedTokens: number;
  /** Most requests that hold pages at a time. */
  readonly maxRunning: number;
  /** Most tokens of one sequence, prompt and output together. */
  readonly maxSequenceLen: number;
  /** Draft tokens a round, or who decides. 0 = plain decoding. Default 0. */
  readonly gamma?: number | Drafter;
}

export interface NewRequest {
  /** Unique among unfinished requests; names the sequence in the allocator. */
  readonly requestId: number;
  /** At least one. */
  readonly promptTokens: ArrayLike<number>;
  /** Most tokens to emit, at least 1; the context may allow fewer. */
  readonly maxTokens: number;
  /** This request's own upper limit on draft tokens a round. Default: none. */
  readonly maxGamma?: number;
}

export interface ResolvedSchedulerOptions {
  readonly allocator: KvAllocator;
  readonly maxBatchedTokens: number;
  readonly maxRunning: number;
  readonly maxSequenceLen: number;
  readonly drafter: Drafter;
}

/** @throws ConfigError naming the option. */
export function resolveSchedulerOptions(options: SchedulerOptions): ResolvedSchedulerOptions {
  const { allocator, maxBatchedTokens, maxRunning, maxSequenceLen, gamma = 0 } = options;
  expectInteger('maxBatchedTokens', maxBatchedTokens, 1, MAX_INT32);
  expectInteger('maxRunning', maxRunning, 1, MAX_INT32);
  expectInteger('maxSequenceLen', maxSequenceLen, 2, MAX_INT32);
  if (maxBatchedTokens < maxRunning) {
    throw new ConfigError(
      `Expected \`maxBatchedTokens\` to be at least \`maxRunning\` (${maxRunning}) but received ${maxBatchedTokens}. Every running request needs a row.`,
      { option: 'maxBatchedTokens', received: maxBatchedTokens, maxRunning },
    );
  }
  const drafter = typeof gamma === 'object' && gamma !== null ? gamma : new FixedGamma(gamma);
  return { allocator, maxBatchedTokens, maxRunning, maxSequenceLen, drafter };
}

/** @throws ConfigError, ContextLengthError, KvCacheExhaustedError */
export function checkRequest(request: NewRequest, options: ResolvedSchedulerOptions): void {
  const { requestId, promptTokens, maxTokens, maxGamma } = request;
  expectInteger('requestId', requestId, 0, Number.MAX_SAFE_INTEGER);
  expectInteger('maxTokens', maxTokens, 1, Number.MAX_SAFE_INTEGER);
  if (maxGamma !== undefined) expectInteger('maxGamma', maxGamma, 0, MAX_GAMMA);
  const numPromptTokens = promptTokens.length;
  if (numPromptTokens === 0) {
    throw new ConfigError(
      'Expected `promptTokens` to hold at least one token but received none. Begin with the BOS token.',
      {
        option: 'promptTokens',
        requestId,
      },
    );
  }
  if (numPromptTokens >= options.maxSequenceLen) {
    throw new ContextLengthError(
      `Expected a prompt shorter than the context of ${options.maxSequenceLen} tokens but received ${numPromptTokens}. Shorten the prompt or raise \`maxSequenceLen\`.`,
      { requestId, numPromptTokens, maxSequenceLen: options.maxSequenceLen },
    );
  }
  const { numPages, pageSize } = options.allocator;
  if (numPromptTokens > numPages * pageSize) throw exhausted(requestId, numPromptTokens, options.allocator);
}

/** The error of a request that has the whole pool to itself and still doesn't fit. */
export function exhausted(requestId: number, numTokens: number, allocator: KvAllocator): KvCacheExhaustedError {
  const numSlots = allocator.numPages * allocator.pageSize;
  return new KvCacheExhaustedError(
    `Expected request ${requestId} to fit the KV cache of ${numSlots} tokens but received ${numTokens}. Give the cache more pages or shorten the request.`,
    { requestId, numTokens, numPages: allocator.numPages, pageSize: allocator.pageSize },
  );
}
