import { ARTIFACTS } from '../../../../apps/cli/src/demo/configurations.ts';

/** Weights of the small model, the target that they are, and what may draft for it. */
export const WEIGHTS = [
  { name: 'bf16', target: 'w16a16', drafts: [] },
  { name: 'w4', recipe: ARTIFACTS['w4-g128'], target: 'w4a16', drafts: ['w4a8', 'w4a4'] },
  { name: 'w4-rotated128', recipe: ARTIFACTS['w4-g128-rotated'], target: 'w4a16', drafts: ['w4a8', 'w4a4'] },
  { name: 'nested8', recipe: { scheme: 'nested8', groupSize: 128 }, target: 'w8a16', drafts: ['w4a8', 'w4a4'] },
  { name: 'nested8-rotated128', recipe: ARTIFACTS['nested8-g128-rotated'], target: 'w8a16', drafts: ['w4a8', 'w4a4'] },
  {
    name: 'nested8-rotated64-head',
    recipe: { scheme: 'nested8', groupSize: 64, hadamardBlock: 64, head: 'nested8', embeddings: 'nested8' },
    target: 'w8a16',
    drafts: ['w4a8', 'w4a4'],
  },
];

/** Requests that run at once. */
export const BATCHES = [1, 16];

/** Draft tokens a round; `mixed`: requests of one batch differ. */
export const GAMMAS = [0, 1, 3, 6, 'mixed'];
export const MAX_GAMMA = 6;

const MIXED = [3, 1, 0, 6, 2];

export function gammaOf(gamma, requestIndex) {
  return gamma === 'mixed' ? MIXED[requestIndex % MIXED.length] : gamma;
}

export function kvFormatsOf(backendName) {
  return ['bf16', 'int8', ...(backendName === 'cuda' ? ['int8-nested'] : [])];
}
