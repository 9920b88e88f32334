import { copyFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { vectorPath } from '../../testing/paths.js';
import { validateModelTensors } from '../model-tensors.js';
import { openCheckpoint } from '../open-checkpoint.js';
import { readRegion } from '../region.js';
import { openSafetensors } from '../safetensors.js';

const MATRICES = ['model.layers.0.self_attn.q_proj.weight', 'model.layers.0.mlp.down_proj.weight'];

describe.each(['Q8_0', 'Q4_0', 'Q4_1'])('a GGUF of %s', (type) => {
  const folder = vectorPath('formats', `gguf-${type}`);

  it('dequantises to the bits that llama.cpp gives, rows in Hugging Face order', async () => {
    await using checkpoint = await openCheckpoint(folder);
    const expected = await openSafetensors(join(folder, 'expected.safetensors'));
    for (const name of MATRICES) {
      const region = expected.entries.get(name)!.region;
      const golden = new Uint32Array((await readRegion(region)).buffer);
      const actual = new Uint32Array((await checkpoint.readRowsFloat32(name, 0, 32)).buffer);
      expect(actual).toEqual(golden);
      const whole = await checkpoint.readFloat32(name);
      expect(new Uint32Array(whole.buffer, 0, golden.length)).toEqual(golden);
    }
    await expected.file.close();
  });

  it('reads any rows as the whole matrix has them', async () => {
    await using checkpoint = await openCheckpoint(folder);
    for (const name of checkpoint.tensorNames) {
      const [numRows] = checkpoint.tensorInfo(name).shape;
      const whole = await checkpoint.readFloat32(name);
      const rowLength = whole.length / numRows!;
      for (const [begin, end] of [
        [0, 1],
        [3, 70],
        [numRows! - 1, numRows!],
        [5, 5],
      ] as const) {
        const rows = await checkpoint.readRowsFloat32(name, begin, end);
        const same = whole.slice(begin * rowLength, end * rowLength);
        expect(Buffer.from(rows.buffer).equals(Buffer.from(same.buffer)), `${name} [${begin}, ${end})`).toBe(true);
      }
    }
  });

  it('describes the model without a config.json', async () => {
    await using checkpoint = await openCheckpoint(folder);
    expect(checkpoint.kind).toBe('gguf');
    expect(checkpoint.config).toEqual({
      architecture: 'llama',
      hiddenSize: 256,
      intermediateSize: 512,
      numLayers: 1,
      numHeads: 4,
      numKvHeads: 2,
      headDim: 64,
      vocabSize: 320,
      maxPositionEmbeddings: 512,
      rmsNormEps: 1e-5,
      ropeTheta: 10000,
      tieWordEmbeddings: false,
      qkvBias: false,
      oBias: false,
      mlpBias: false,
      qkNorm: false,
      slidingWindows: [0],
      eosTokenIds: [],
    });
    validateModelTensors(checkpoint);
  });

  it('hands matrices out as dense float32', async () => {
    await using checkpoint = await openCheckpoint(folder);
    const source = await checkpoint.weightSource(MATRICES[0]!);
    expect(source).toMatchObject({ shape: [256, 256], format: { kind: 'dense', dtype: 'f32' } });
    expect(checkpoint.tensorInfo(MATRICES[0]!).dtype).toBe(type.toLowerCase());
  });
});

describe('a GGUF beside a config.json', () => {
  let folder = '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qspec-gguf-'));
    await copyFile(vectorPath('formats', 'gguf-Q8_0', 'model.gguf'), join(folder, 'model.gguf'));
    await copyFile(vectorPath('formats', 'base', 'config.json'), join(folder, 'config.json'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('takes the configuration from it, by folder or by file', async () => {
    for (const path of [folder, join(folder, 'model.gguf')]) {
      await using checkpoint = await openCheckpoint(path);
      expect(checkpoint.kind).toBe('gguf');
      expect(checkpoint.config).toMatchObject({ bosTokenId: 1, eosTokenIds: [2] });
    }
  });
});
