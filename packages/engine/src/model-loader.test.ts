import {
  ConfigError,
  type ModelConfig,
  ShapeMismatchError,
  UnsupportedFormatError,
  type WeightFormat,
  type WeightSource,
} from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { FakeBackend } from '../testing/fake-backend.js';
import { FAKE_CONFIG } from '../testing/fake-model.js';
import { resolveLlmOptions } from './config.js';
import { loadModel, type TensorProvider } from './model-loader.js';

const DENSE = { kind: 'dense', dtype: 'bf16' } as const;
const INT4 = { kind: 'int4', groupSize: 32, hadamardBlock: 0 } as const;

/** Remembers what was asked of it. */
class RecordingBackend extends FakeBackend {
  readonly weights: string[][] = [];
  readonly vectors: Float32Array[] = [];

  override async createWeight(parts: readonly WeightSource[] = []) {
    this.weights.push(parts.map((part) => part.name));
    return super.createWeight();
  }

  override createVector(values: Float32Array = new Float32Array(0)) {
    this.vectors.push(values);
    return super.createVector();
  }
}

function tensors(formatOf: (name: string) => WeightFormat = () => DENSE, wrong = ''): TensorProvider {
  return {
    vector: async (name) => new Float32Array(name === wrong ? 7 : 32).fill(name.includes('.k_proj') ? 2 : 1),
    weight: async (name) => {
      const numRows = /embed|lm_head/.test(name) ? 1000 : name === wrong ? 7 : 32;
      return { name, shape: [numRows, 32], format: formatOf(name), data: new Uint8Array(0) } as unknown as WeightSource;
    },
  };
}

describe('loadModel', () => {
  it('stacks q, k, v and gate, up into one weight each', async () => {
    const backend = new RecordingBackend();
    const model = await loadModel(backend, FAKE_CONFIG, tensors());
    const short = backend.weights.map((names) => names.map((name) => name.split('.').at(-2)));
    expect(short).toEqual([
      ['embed_tokens'],
      ['q_proj', 'k_proj', 'v_proj'],
      ['o_proj'],
      ['gate_proj', 'up_proj'],
      ['down_proj'],
      ['lm_head'],
    ]);
    expect(model.layers[0]!.qkv).toHaveLength(1);
  });

  it('keeps projections of different formats apart, each in its columns', async () => {
    const formatOf = (name: string) => (name.includes('v_proj') || name.includes('up_proj') ? INT4 : DENSE);
    const model = await loadModel(new FakeBackend(), FAKE_CONFIG, tensors(formatOf));
    expect(model.layers[0]!.qkv.map((linear) => linear.outputColumn)).toEqual([0, 64]);
    expect(model.layers[0]!.gateUp.map((linear) => linear.outputColumn)).toEqual([0, 32]);
  });

  it('joins the biases of a stacked weight', async () => {
    const backend = new RecordingBackend();
    await loadModel(backend, { ...FAKE_CONFIG, qkvBias: true }, tensors());
    const joined = backend.vectors.find((values) => values.length === 96)!;
    expect([joined[0], joined[32], joined[64]]).toEqual([1, 2, 1]);
  });

  it('uses one weight for tied embeddings and head', async () => {
    const backend = new RecordingBackend();
    const model = await loadModel(backend, { ...FAKE_CONFIG, tieWordEmbeddings: true }, tensors());
    expect(model.head.weight).toBe(model.embedding);
    expect(backend.weights.flat()).not.toContain('lm_head.weight');
  });

  it('reports progress up to the last tensor', async () => {
    const steps: number[] = [];
    let total = 0;
    await loadModel(new FakeBackend(), FAKE_CONFIG, tensors(), {
      onProgress: ({ numLoaded, numTotal }) => {
        steps.push(numLoaded);
        total = numTotal;
      },
    });
    expect(steps).toEqual(Array.from({ length: total }, (_, i) => i + 1));
  });

  it('stops between two tensors when told to', async () => {
    const controller = new AbortController();
    const loading = loadModel(new FakeBackend(), FAKE_CONFIG, tensors(), {
      signal: controller.signal,
      onProgress: ({ numLoaded }) => numLoaded === 3 && controller.abort(new Error('stop')),
    });
    await expect(loading).rejects.toThrow('stop');
  });

  it.each(['model.layers.0.self_attn.o_proj.weight', 'model.norm.weight'])(
    'names %s when its shape is wrong',
    async (name) => {
      const loading = loadModel(new FakeBackend(), FAKE_CONFIG, tensors(undefined, name));
      await expect(loading).rejects.toThrow(ShapeMismatchError);
      await expect(loading).rejects.toThrow(name);
    },
  );

  it('refuses an architecture that it does not know', async () => {
    const config = { ...FAKE_CONFIG, architecture: 'mamba' } as unknown as ModelConfig;
    await expect(loadModel(new FakeBackend(), config, tensors())).rejects.toThrow(UnsupportedFormatError);
  });
});

describe('resolveLlmOptions', () => {
  it('chooses modes by what the weights are', () => {
    expect(resolveLlmOptions({}, 'dense')).toMatchObject({ target: 'w16a16', draft: undefined, gamma: 0 });
    expect(resolveLlmOptions({}, 'int4')).toMatchObject({ target: 'w4a16', draft: undefined, gamma: 0 });
    expect(resolveLlmOptions({}, 'nested8')).toMatchObject({ target: 'w8a16', draft: 'w4a8', gamma: 3 });
    expect(resolveLlmOptions({}, 'dense').maxBatchedTokens).toBe(256);
    expect(resolveLlmOptions({}, 'dense', 'cuda').maxBatchedTokens).toBe(1024);
    expect(resolveLlmOptions({ maxRunning: 512 }, 'nested8', 'cuda').maxBatchedTokens).toBe(2048);
  });

  it('refuses a draft for dense weights and says what to do', () => {
    expect(() => resolveLlmOptions({ draft: 'w4a4' }, 'dense')).toThrow(ConfigError);
    expect(() => resolveLlmOptions({ draft: 'w4a4' }, 'dense')).toThrow(/Quantise the checkpoint first/);
  });

  it.each([-1, 1.5, Number.NaN, 65])('refuses γ = %d', (gamma) => {
    expect(() => resolveLlmOptions({ draft: 'w4a4', gamma }, 'int4')).toThrow(/`gamma`/);
  });
});
