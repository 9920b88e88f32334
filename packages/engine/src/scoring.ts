import { ConfigError, KvCacheExhaustedError, type Session } from '@qspec/core';
import type { KvCacheManager } from '@qspec/kv-cache';

export interface ScoreOptions {
  /** Which program computes. Default `target`. */
  readonly program?: 'target' | 'draft';
}

interface ScoreContext {
  readonly session: Session;
  readonly kvCache: KvCacheManager;
  /** Rows of one forward pass. */
  readonly maxRows: number;
}

/**
 * Natural log-probability of each token given those before it: [tokens.length - 1], the first token has none. Takes KV pages of its own
 * for the time of the call and shares none.
 * @throws KvCacheExhaustedError when they are not to be had.
 */
export async function scoreSequence(
  context: ScoreContext,
  sequenceId: number,
  tokens: Int32Array,
  options: ScoreOptions = {},
): Promise<Float64Array> {
  if (tokens.length < 2) {
    throw new ConfigError(`Expected at least 2 tokens to score but received ${tokens.length}.`, { option: 'tokens' });
  }
  const { kvCache } = context;
  const numInputs = tokens.length - 1;
  kvCache.begin(sequenceId, tokens.subarray(0, 1)); // one token matches no cached page
  try {
    if (!kvCache.tryReserve(sequenceId, numInputs)) throw noPages(kvCache, numInputs);
    const scores = new Float64Array(numInputs);
    for (let start = 0; start < numInputs; start += context.maxRows) {
      const end = Math.min(start + context.maxRows, numInputs);
      scores.set(await scoreChunk(context, sequenceId, tokens, start, end, options.program ?? 'target'), start);
    }
    return scores;
  } finally {
    kvCache.release(sequenceId);
  }
}

async function scoreChunk(
  { session, kvCache }: ScoreContext,
  sequenceId: number,
  tokens: Int32Array,
  start: number,
  end: number,
  program: 'target' | 'draft',
): Promise<Float64Array> {
  const pageIds = kvCache.pageTable(sequenceId).slice();
  const numRows = end - start;
  const result = await session.forward({
    program,
    tokens: tokens.slice(start, end),
    positions: Int32Array.from({ length: numRows }, (_, i) => start + i),
    sequences: new Int32Array(numRows),
    pageOffsets: Int32Array.of(0, pageIds.length),
    pageIds,
    logitRows: Int32Array.from({ length: numRows }, (_, i) => i),
    labels: tokens.slice(start + 1, end + 1),
  });
  return result.logprobs!;
}

function noPages(kvCache: KvCacheManager, numTokens: number): KvCacheExhaustedError {
  const available = kvCache.numAvailablePages * kvCache.pageSize;
  return new KvCacheExhaustedError(
    `Expected KV pages for ${numTokens} tokens but ${available} tokens' worth are free. Score when fewer requests run, or raise \`kvCacheTokens\`.`,
    { numTokens, available },
  );
}

export interface PerplexityOptions extends ScoreOptions {
  /** Tokens a window; windows follow one another without overlap and a rest shorter than this is left out. Default: the context, at most 1024. */
  readonly windowLen?: number;
  /** Default: all. */
  readonly maxWindows?: number;
  readonly onWindow?: (progress: {
    readonly numDone: number;
    readonly numWindows: number;
    readonly perplexity: number;
  }) => void;
}

export interface PerplexityResult {
  /** exp of the mean negative log-likelihood. */
  readonly perplexity: number;
  readonly meanNegativeLogLikelihood: number;
  readonly numPredictions: number;
  readonly numWindows: number;
}

/** Windows one after another, windowLen - 1 predictions each. */
export async function windowedPerplexity(
  tokens: Int32Array,
  windowLen: number,
  options: PerplexityOptions,
  score: (window: Int32Array) => Promise<Float64Array>,
): Promise<PerplexityResult> {
  const numWindows = Math.min(Math.floor(tokens.length / windowLen), options.maxWindows ?? Number.POSITIVE_INFINITY);
  if (numWindows < 1) {
    throw new ConfigError(`Expected at least one window of ${windowLen} tokens but received ${tokens.length} tokens.`, {
      option: 'windowLen',
      received: tokens.length,
    });
  }
  let sum = 0;
  for (let window = 0; window < numWindows; window++) {
    const scores = await score(tokens.subarray(window * windowLen, (window + 1) * windowLen));
    for (const logprob of scores) sum -= logprob;
    const mean = sum / ((window + 1) * (windowLen - 1));
    options.onWindow?.({ numDone: window + 1, numWindows, perplexity: Math.exp(mean) });
  }
  const numPredictions = numWindows * (windowLen - 1);
  const mean = sum / numPredictions;
  return { perplexity: Math.exp(mean), meanNegativeLogLikelihood: mean, numPredictions, numWindows };
}
