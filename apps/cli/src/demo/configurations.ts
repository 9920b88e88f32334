import type { LlmOptions } from '@qspec/engine';
import type { Recipe } from '@qspec/quantizer';

/** Weights that the demo runs: the original, and three artifacts quantised from it. */
export const ARTIFACTS = {
  'w4-g128': { scheme: 'w4', groupSize: 128 },
  'w4-g128-rotated': { scheme: 'w4', groupSize: 128, hadamardBlock: 128 },
  'nested8-g128-rotated': { scheme: 'nested8', groupSize: 128, hadamardBlock: 128 },
} as const satisfies Record<string, Recipe>;

export type WeightsName = 'original' | keyof typeof ARTIFACTS;

/** One row of the demo's table. */
export interface Configuration {
  readonly name: string;
  readonly weights: WeightsName;
  readonly options: LlmOptions;
  /** Name of the row whose text this one must repeat token for token. */
  readonly target?: string;
}

const TARGET_W4 = 'target W4A16';
const TARGET_W8 = 'target W8A16';

export function configurations(gamma: number): Configuration[] {
  return [
    { name: 'original bf16', weights: 'original', options: { draft: 'none' } },
    { name: TARGET_W4, weights: 'w4-g128-rotated', options: { draft: 'none' } },
    {
      name: 'draft alone W4A4, one scale a token',
      weights: 'w4-g128',
      options: { target: 'w4a4', draft: 'none', draftGranularity: 'token' },
    },
    { name: 'draft alone W4A4, by group', weights: 'w4-g128', options: { target: 'w4a4', draft: 'none' } },
    {
      name: 'draft alone W4A4, rotated, by group',
      weights: 'w4-g128-rotated',
      options: { target: 'w4a4', draft: 'none' },
    },
    { name: 'QSpec W4A4 → W4A16', weights: 'w4-g128-rotated', options: { draft: 'w4a4', gamma }, target: TARGET_W4 },
    { name: TARGET_W8, weights: 'nested8-g128-rotated', options: { draft: 'none' } },
    {
      name: 'QSpec nested W4A8 → W8A16',
      weights: 'nested8-g128-rotated',
      options: { draft: 'w4a8', gamma },
      target: TARGET_W8,
    },
  ];
}
