import { describe, expect, it } from 'vitest';
import { ConfigError } from './errors/index.js';
import { needsTokenHistory, resolveSamplingParams, type SamplingParams } from './sampling-params.js';

describe('resolveSamplingParams', () => {
  it('fills in defaults that change nothing about the distribution', () => {
    expect(resolveSamplingParams()).toEqual({
      temperature: 1,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      logitBias: {},
      seed: 0,
      logprobs: undefined,
    });
  });

  const bad: [string, SamplingParams][] = [
    ['temperature', { temperature: Number.NaN }],
    ['temperature', { temperature: -0.1 }],
    ['temperature', { temperature: 'hot' as unknown as number }],
    ['topK', { topK: -1 }],
    ['topK', { topK: 1.5 }],
    ['topP', { topP: 0 }],
    ['topP', { topP: 1.01 }],
    ['minP', { minP: Number.NaN }],
    ['repetitionPenalty', { repetitionPenalty: 0 }],
    ['presencePenalty', { presencePenalty: Number.POSITIVE_INFINITY }],
    ['frequencyPenalty', { frequencyPenalty: Number.NaN }],
    ['seed', { seed: -1 }],
    ['seed', { seed: 2 ** 32 }],
    ['logprobs', { logprobs: 21 }],
    ['logitBias', { logitBias: { [-1]: 0 } }],
    ['logitBias', { logitBias: { 5: Number.NaN } }],
  ];
  for (const [option, params] of bad) {
    it(`names \`${option}\` and what came for ${JSON.stringify(params, (_, v) => (typeof v === 'number' ? String(v) : v))}`, () => {
      expect(() => resolveSamplingParams(params)).toThrow(ConfigError);
      expect(() => resolveSamplingParams(params)).toThrow(new RegExp(`\`${option}`));
    });
  }

  it('wants the history of tokens only for penalties', () => {
    expect(needsTokenHistory(resolveSamplingParams({ temperature: 0.7, topP: 0.9 }))).toBe(false);
    for (const params of [{ repetitionPenalty: 1.1 }, { presencePenalty: 0.5 }, { frequencyPenalty: -0.5 }]) {
      expect(needsTokenHistory(resolveSamplingParams(params))).toBe(true);
    }
  });
});
