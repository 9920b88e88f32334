import { ConfigError } from './errors/config-error.js';

/** What a caller may ask of the sampler. All optional; see {@link resolveSamplingParams} for defaults and limits. */
export interface SamplingParams {
  /** 0 = greedy. Default 1. */
  temperature?: number;
  /** Keep the k most likely tokens; 0 = all. Default 0. */
  topK?: number;
  /** Keep the smallest set of tokens whose probabilities sum to at least this, in (0, 1]. Default 1. */
  topP?: number;
  /** Keep tokens at least this share as likely as the most likely one, in [0, 1]. Default 0. */
  minP?: number;
  /** Divides (positive) or multiplies (negative) logits of tokens in prompt or output; 1 = off. Default 1. */
  repetitionPenalty?: number;
  /** Subtracted once from tokens that occurred in the output. Default 0. */
  presencePenalty?: number;
  /** Subtracted per occurrence in the output. Default 0. */
  frequencyPenalty?: number;
  /** Added to logits, by token id. */
  logitBias?: Readonly<Record<number, number>>;
  /** Random stream, an unsigned 32-bit integer. Default 0. */
  seed?: number;
  /** Report log-probabilities of the chosen token and this many alternatives (0-20) from the target's raw logits. Absent = none. */
  logprobs?: number;
}

export type ResolvedSamplingParams = Required<Omit<SamplingParams, 'logprobs'>> & {
  readonly logprobs: number | undefined;
};

export const MAX_LOGPROBS = 20;

/** Fills in defaults and checks every field. @throws ConfigError naming the option, what is allowed and what came. */
export function resolveSamplingParams(params: SamplingParams = {}): ResolvedSamplingParams {
  const resolved: ResolvedSamplingParams = {
    temperature: params.temperature ?? 1,
    topK: params.topK ?? 0,
    topP: params.topP ?? 1,
    minP: params.minP ?? 0,
    repetitionPenalty: params.repetitionPenalty ?? 1,
    presencePenalty: params.presencePenalty ?? 0,
    frequencyPenalty: params.frequencyPenalty ?? 0,
    logitBias: params.logitBias ?? {},
    seed: params.seed ?? 0,
    logprobs: params.logprobs,
  };
  expectRange('temperature', resolved.temperature, 0, 100);
  expectInteger('topK', resolved.topK, 0, 2 ** 31 - 1);
  expectRange('topP', resolved.topP, Number.MIN_VALUE, 1, 'in (0, 1]');
  expectRange('minP', resolved.minP, 0, 1);
  expectRange('repetitionPenalty', resolved.repetitionPenalty, 1e-6, 1e6, 'positive');
  expectRange('presencePenalty', resolved.presencePenalty, -100, 100);
  expectRange('frequencyPenalty', resolved.frequencyPenalty, -100, 100);
  expectInteger('seed', resolved.seed, 0, 2 ** 32 - 1);
  if (resolved.logprobs !== undefined) expectInteger('logprobs', resolved.logprobs, 0, MAX_LOGPROBS);
  for (const [id, bias] of Object.entries(resolved.logitBias)) {
    expectInteger('logitBias key', Number(id), 0, 2 ** 31 - 1);
    if (typeof bias !== 'number' || Number.isNaN(bias)) {
      throw new ConfigError(`Expected \`logitBias[${id}]\` to be a number but received ${bias}.`, {
        option: 'logitBias',
        received: bias,
      });
    }
  }
  return resolved;
}

/** Does the sampler need to know which tokens came before? */
export function needsTokenHistory(params: ResolvedSamplingParams): boolean {
  return params.repetitionPenalty !== 1 || params.presencePenalty !== 0 || params.frequencyPenalty !== 0;
}

/** @throws ConfigError unless `value` is a finite number in [min, max]. */
export function expectRange(option: string, value: unknown, min: number, max: number, words?: string): void {
  if (typeof value !== 'number' || !(value >= min && value <= max)) {
    throw new ConfigError(
      `Expected \`${option}\` to be ${words ?? `a number from ${min} to ${max}`} but received ${String(value)}.`,
      {
        option,
        received: value,
      },
    );
  }
}

/** @throws ConfigError unless `value` is an integer in [min, max]. */
export function expectInteger(option: string, value: unknown, min: number, max: number): void {
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
    throw new ConfigError(
      `Expected \`${option}\` to be an integer from ${min} to ${max} but received ${String(value)}.`,
      {
        option,
        received: value,
      },
    );
  }
}
