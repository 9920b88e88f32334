import { fileURLToPath } from 'node:url';
import { openCheckpoint } from '@qspec/checkpoint';
import type { KernelBackend, ModelConfig } from '@qspec/core';
import { createCpuBackend, createReferenceBackend } from '@qspec/kernels';
import { afterAll, describe, expect, it } from 'vitest';
import { forwardLogits } from '../testing/forward.js';
import { compareLogits, readGolden, vectorPath } from '../testing/golden.js';
import { checkpointTensors, Model } from './model.js';
import { loadModel } from './model-loader.js';

/** Largest |difference| over the row's largest |logit|: weights are bfloat16 on both sides, sums float32. Measured: at most 2e-6. */
const MAX_RELATIVE_ERROR = 1e-4;
const MIN_COSINE = 0.999999;

const CASES = [
  'llama-llama3-rope-tied',
  'llama-bias-linear-rope',
  'llama-yarn',
  'mistral-sliding',
  'qwen2-bias-tied',
  'qwen3-qk-norm',
];

const backends: [string, KernelBackend][] = [
  ['reference', createReferenceBackend({ numThreads: 2 })],
  ['cpu', createCpuBackend({ numThreads: 2 })],
];

afterAll(() => {
  for (const [, backend] of backends) backend.dispose();
});

describe.each(backends)('logits on the %s backend', (_, backend) => {
  it.each(CASES)('equal those of transformers in float32 for %s', async (name) => {
    await using model = await Model.load(vectorPath(name), { backend });
    for (const prompt of readGolden(`${name}/expected.json`)) {
      for (const chunkLen of [prompt.tokens.length, 37]) {
        const logits = await forwardLogits(backend, model.resident, { mode: 'w16a16' }, prompt, chunkLen);
        const error = compareLogits(logits, prompt.logits, model.config.vocabSize);
        expect(error.relativeToLargest, error.worst).toBeLessThan(MAX_RELATIVE_ERROR);
        expect(error.cosine).toBeGreaterThan(MIN_COSINE);
      }
    }
  });
});

/** Traits left out one at a time, and the checkpoint that must notice. */
const MUTATIONS: [string, string, (config: ModelConfig) => ModelConfig][] = [
  ['llama3 rope scaling', 'llama-llama3-rope-tied', ({ ropeScaling: _, ...config }) => config],
  ['linear rope scaling', 'llama-bias-linear-rope', ({ ropeScaling: _, ...config }) => config],
  ['qkv biases', 'llama-bias-linear-rope', (config) => ({ ...config, qkvBias: false })],
  ['the o bias', 'llama-bias-linear-rope', (config) => ({ ...config, oBias: false })],
  ['mlp biases', 'llama-bias-linear-rope', (config) => ({ ...config, mlpBias: false })],
  ['yarn scaling', 'llama-yarn', ({ ropeScaling: _, ...config }) => config],
  ['the sliding window', 'mistral-sliding', (config) => ({ ...config, slidingWindows: [0, 0] })],
  ['norms of q and k', 'qwen3-qk-norm', (config) => ({ ...config, architecture: 'llama' })],
];

describe('the vectors', () => {
  it.each(MUTATIONS)('would show if %s were left out', async (_, name, mutate) => {
    const [, backend] = backends[1]!;
    await using checkpoint = await openCheckpoint(vectorPath(name));
    const model = await loadModel(backend, mutate(checkpoint.config), checkpointTensors(checkpoint));
    const prompt = readGolden(`${name}/expected.json`).at(-1)!;
    const logits = await forwardLogits(backend, model, { mode: 'w16a16' }, prompt, 150);
    const error = compareLogits(logits, prompt.logits, model.config.vocabSize);
    expect(error.relativeToLargest).toBeGreaterThan(100 * MAX_RELATIVE_ERROR);
  });
});

it('logits of tally-10m equal those of transformers in float32', async () => {
  const [, backend] = backends[1]!;
  const path = fileURLToPath(new URL('../../../models/tally-10m', import.meta.url));
  await using model = await Model.load(path, { backend });
  for (const prompt of readGolden('tally-10m.json')) {
    const logits = await forwardLogits(backend, model.resident, { mode: 'w16a16' }, prompt, 256);
    const error = compareLogits(logits, prompt.logits, model.config.vocabSize);
    expect(error.relativeToLargest, error.worst).toBeLessThan(MAX_RELATIVE_ERROR);
    expect(error.cosine).toBeGreaterThan(MIN_COSINE);
  }
});
