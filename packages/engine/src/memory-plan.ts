import { type KvCacheShape, type KvFormat, kvBytesPerToken, type ModelConfig, OutOfMemoryError } from '@qspec/core';

export interface MemoryRequest {
  readonly config: Pick<ModelConfig, 'numLayers' | 'numKvHeads' | 'headDim'>;
  readonly kvFormat: KvFormat;
  /** Tokens a page. */
  readonly pageSize: number;
  /** Longest sequence, in tokens. */
  readonly maxContext: number;
  /** The caller asked for `maxContext`; otherwise it may be lowered to what fits. */
  readonly isContextFixed: boolean;
  /** Sequences that run at once. */
  readonly maxRunning: number;
  /** Tokens that a round may write beyond a sequence's committed length. */
  readonly maxDraftLen: number;
  /** Bytes that may still be allocated. */
  readonly freeBytes: number;
  /** A pool that nobody chose the size of doesn't grow beyond this, unless one sequence needs more. Default {@link KV_DEFAULT_BYTES}. */
  readonly defaultKvBytes?: number;
  /** Size of the pool in tokens, where the caller wants to choose it. */
  readonly kvCacheTokens?: number | undefined;
}

export interface MemoryPlan {
  readonly kv: KvCacheShape;
  readonly kvBytes: number;
  readonly maxContext: number;
}

/** Share of the free memory that the KV pool takes at most when nobody chose its size; the rest is for scratch and for others. */
export const KV_MEMORY_SHARE = 0.5;
/** What is enough for a machine that also does other things. */
export const KV_DEFAULT_BYTES = 2 ** 30;

/**
 * How many KV pages there are: as many as `maxRunning` sequences of `maxContext` tokens can use, within `defaultKvBytes` and a share of the
 * free memory; or `kvCacheTokens` exactly.
 * @throws OutOfMemoryError when not even one sequence of `maxContext` tokens fits.
 */
export function planMemory(request: MemoryRequest): MemoryPlan {
  const { pageSize, maxRunning, maxDraftLen, freeBytes, defaultKvBytes = KV_DEFAULT_BYTES } = request;
  const { numLayers, numKvHeads, headDim } = request.config;
  const shape = { format: request.kvFormat, numLayers, numKvHeads, headDim };
  const pageBytes = kvBytesPerToken(shape) * pageSize;
  const pagesFor = (tokens: number) => Math.ceil(tokens / pageSize);
  const pagesOfOne = pagesFor(request.maxContext + maxDraftLen);
  const affordable = Math.floor((freeBytes * (request.kvCacheTokens ? 1 : KV_MEMORY_SHARE)) / pageBytes);
  const wanted = request.kvCacheTokens
    ? pagesFor(request.kvCacheTokens)
    : Math.min(maxRunning * pagesOfOne, Math.max(pagesOfOne, Math.floor(defaultKvBytes / pageBytes)));
  const numPages = request.kvCacheTokens ? wanted : Math.min(wanted, affordable);
  if (numPages > affordable || numPages < 1) throw tooLarge(request, Math.max(wanted, 1) * pageBytes);
  let { maxContext } = request;
  if (numPages < pagesOfOne) {
    if (request.isContextFixed) throw tooLarge(request, pagesOfOne * pageBytes, numPages * pageSize);
    maxContext = numPages * pageSize - maxDraftLen;
    if (maxContext < 1) throw tooLarge(request, pagesOfOne * pageBytes, numPages * pageSize);
  }
  return { kv: { ...shape, numPages, pageSize }, kvBytes: numPages * pageBytes, maxContext };
}

function tooLarge(request: MemoryRequest, askedBytes: number, poolTokens?: number): OutOfMemoryError {
  const { freeBytes, kvCacheTokens, maxContext } = request;
  const have = poolTokens === undefined ? `${mib(freeBytes)} are free` : `the pool holds ${poolTokens} tokens`;
  return new OutOfMemoryError(
    `Expected the KV cache to fit but a context of ${maxContext} tokens${kvCacheTokens ? ` (\`kvCacheTokens\` ${kvCacheTokens})` : ''} ` +
      `needs ${mib(askedBytes)} and ${have}. Lower \`maxContext\`${kvCacheTokens ? ' or change `kvCacheTokens`' : ''}, ` +
      'or choose a smaller `kvFormat`.',
    { askedBytes, freeBytes, maxContext, kvCacheTokens },
  );
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
