import {
  ConfigError,
  expectInteger,
  type ResolvedSamplingParams,
  resolveSamplingParams,
  type SamplingParams,
} from '@qspec/core';
import type { ChatMessage } from '@qspec/tokenizer';

/** One thing to generate: exactly one of `prompt`, `messages` and `tokens`, sampling parameters, and when to end. */
export interface GenerateRequest extends SamplingParams {
  /** Text to continue, encoded with the tokenizer's special tokens (BOS where the model wants one). */
  prompt?: string;
  /** A conversation, put through the model's chat template. */
  messages?: readonly ChatMessage[];
  /** Further variables of the chat template, e.g. `{ enable_thinking: false }`. */
  templateVariables?: Readonly<Record<string, unknown>>;
  /** JSON schemas of functions, for templates that can show them. */
  tools?: readonly object[];
  /** Token ids, taken as they are. */
  tokens?: ArrayLike<number>;
  /** Most tokens to emit. Default: what the context leaves. */
  maxTokens?: number;
  /** The output ends before the first of these. */
  stop?: string | readonly string[];
  /** Token ids that end the output besides the model's end-of-sequence ids; they are in `tokenIds`, not in `text`. */
  stopTokenIds?: readonly number[];
  /** Go on past end-of-sequence tokens. Default false. */
  ignoreEos?: boolean;
  /** Independent samples of one prompt, from random streams 0 … n-1. Default 1. */
  n?: number;
  /** Most draft tokens a round for this request; 0 = plain decoding. Never changes the text. */
  gamma?: number;
  /** Ends the request between two rounds. */
  signal?: AbortSignal;
}

/** A request with every default filled in and every field checked, its prompt still as it came. */
export interface ResolvedRequest {
  readonly sampling: ResolvedSamplingParams;
  readonly maxTokens: number | undefined;
  readonly stopStrings: readonly string[];
  readonly stopTokenIds: ReadonlySet<number>;
  readonly n: number;
  readonly maxGamma: number | undefined;
  readonly signal: AbortSignal | undefined;
}

const MAX_SAMPLES = 128;
const MAX_INT32 = 2 ** 31 - 1;

/** @throws ConfigError naming the field, what is allowed and what came. */
export function resolveRequest(request: GenerateRequest, eosTokenIds: readonly number[]): ResolvedRequest {
  const given = [request.prompt, request.messages, request.tokens].filter((source) => source !== undefined);
  if (given.length !== 1) {
    throw new ConfigError(
      `Expected exactly one of \`prompt\`, \`messages\` and \`tokens\` but received ${given.length}.`,
      { option: 'prompt' },
    );
  }
  const { maxTokens, n = 1, gamma, ignoreEos = false, stopTokenIds = [] } = request;
  if (maxTokens !== undefined) expectInteger('maxTokens', maxTokens, 1, MAX_INT32);
  if (gamma !== undefined) expectInteger('gamma', gamma, 0, 64);
  expectInteger('n', n, 1, MAX_SAMPLES);
  for (const id of stopTokenIds) expectInteger('stopTokenIds', id, 0, MAX_INT32);
  return {
    sampling: resolveSamplingParams(request),
    maxTokens,
    stopStrings: resolveStopStrings(request.stop),
    stopTokenIds: new Set([...(ignoreEos ? [] : eosTokenIds), ...stopTokenIds]),
    n,
    maxGamma: gamma,
    signal: request.signal,
  };
}

function resolveStopStrings(stop: GenerateRequest['stop']): readonly string[] {
  const list = stop === undefined ? [] : typeof stop === 'string' ? [stop] : stop;
  if (!Array.isArray(list)) throw badStop(list);
  for (const item of list) if (typeof item !== 'string' || item === '') throw badStop(item);
  return list;
}

function badStop(received: unknown): ConfigError {
  return new ConfigError(`Expected \`stop\` to hold non-empty strings but received ${JSON.stringify(received)}.`, {
    option: 'stop',
    received,
  });
}
