import { readFileSync } from 'node:fs';
import type { RopeScaling } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { ropeTable } from './rope.js';

interface GoldenCase {
  name: string;
  headDim: number;
  ropeTheta: number;
  parameters: Record<string, number | string | boolean> | null;
  inverseFrequencies: number[];
  attentionFactor: number;
}

const golden = JSON.parse(readFileSync(new URL('../testing/vectors/rope.json', import.meta.url), 'utf8')) as {
  cases: GoldenCase[];
};

/** float32 frequencies that were computed in float32 there and in float64 here. */
const MAX_RELATIVE_ERROR = 2e-6;

function scalingOf(parameters: GoldenCase['parameters']): RopeScaling | undefined {
  if (!parameters) return undefined;
  const number = (key: string, fallback?: number) => (parameters[key] ?? fallback) as number;
  const type = parameters['rope_type'];
  if (type === 'linear') return { type, factor: number('factor') };
  const originalMaxPositionEmbeddings = number('original_max_position_embeddings');
  if (type === 'llama3') {
    const frequencies = { lowFreqFactor: number('low_freq_factor'), highFreqFactor: number('high_freq_factor') };
    return { type, factor: number('factor'), ...frequencies, originalMaxPositionEmbeddings };
  }
  return {
    type: 'yarn',
    factor: number('factor'),
    betaFast: number('beta_fast', 32),
    betaSlow: number('beta_slow', 1),
    originalMaxPositionEmbeddings,
    ...('attention_factor' in parameters ? { attentionFactor: number('attention_factor') } : {}),
    ...('mscale' in parameters ? { mscale: number('mscale'), mscaleAllDim: number('mscale_all_dim') } : {}),
    ...('truncate' in parameters ? { truncate: parameters['truncate'] as boolean } : {}),
  };
}

describe('ropeTable', () => {
  for (const { name, headDim, ropeTheta, parameters, inverseFrequencies, attentionFactor } of golden.cases) {
    it(`gives the frequencies of transformers for ${name}`, () => {
      const ropeScaling = scalingOf(parameters);
      const table = ropeTable({ headDim, ropeTheta, ...(ropeScaling ? { ropeScaling } : {}) });
      expect(table.inverseFrequencies).toHaveLength(headDim / 2);
      table.inverseFrequencies.forEach((frequency, i) => {
        const expected = inverseFrequencies[i]!;
        expect(Math.abs(frequency - expected) / expected, `frequency ${i}`).toBeLessThan(MAX_RELATIVE_ERROR);
      });
      expect(table.attentionFactor).toBeCloseTo(attentionFactor, 6);
    });
  }

  it('covers all four types', () => {
    expect(new Set(golden.cases.map((c) => c.parameters?.['rope_type']))).toEqual(
      new Set([undefined, 'linear', 'llama3', 'yarn']),
    );
  });
});
