import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCheckpoint } from '@qspec/checkpoint';
import {
  bf16ToFloat,
  CheckpointError,
  ConfigError,
  floatToBf16,
  isQuantized,
  RequestAbortedError,
  UnsupportedFormatError,
} from '@qspec/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TinyTensors, tinyTensors, writeTinyCheckpoint } from '../testing/tiny-checkpoint.js';
import type { QuantizeEvent } from './events.js';
import { type QuantizeOptions, quantize } from './quantize.js';
import { quantizeWeight } from './quantize-weight.js';
import type { Recipe } from './recipe.js';

const DOWN = 'model.layers.1.mlp.down_proj.weight';
let folder: string;
let original: string;
let output: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qspec-quantize-'));
  original = join(folder, 'original');
  output = join(folder, 'output');
});

afterEach(() => rm(folder, { recursive: true, force: true }));

async function run(tensors: TinyTensors, recipe: Recipe, options: Partial<QuantizeOptions> = {}, config: object = {}) {
  await writeTinyCheckpoint(original, tensors, config);
  await using checkpoint = await openCheckpoint(original);
  return await quantize({ checkpoint, recipe, outputPath: output, numWorkers: 0, ...options });
}

/** Everything in the folder apart from the original: what a failure must leave empty. */
const leftovers = async () => (await readdir(folder)).filter((name) => name !== 'original');

async function contents(path: string): Promise<Record<string, string>> {
  const names = (await readdir(path)).sort();
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, (await readFile(join(path, name))).toString('base64')])),
  );
}

describe('quantize', () => {
  it.each([
    { scheme: 'w4', groupSize: 32 },
    { scheme: 'w4', groupSize: 64, hadamardBlock: 64 },
    { scheme: 'nested8', groupSize: 32, hadamardBlock: 32, radix: 9, head: 'nested8', embeddings: 'nested8' },
  ] as const)('writes what quantizeWeight computes, for %j', async (recipe) => {
    const tensors = tinyTensors();
    const { report, artifact } = await run(tensors, recipe);
    expect(artifact.path).toBe(output);
    await using written = await openCheckpoint(output);
    await using source = await openCheckpoint(original);
    expect(written.tensorNames).toEqual(source.tensorNames);
    for (const layer of report.layers) {
      const { format } = written.tensorInfo(layer.name);
      const dense = await source.weightSource(layer.name);
      if (!format || !isQuantized(format) || !('data' in dense)) throw new Error(`${layer.name} is not quantised`);
      const expected = quantizeWeight(dense, format);
      expect(await written.weightSource(layer.name)).toEqual(expected.source);
      expect(layer).toMatchObject(expected.error);
      expect(format).toMatchObject({ groupSize: recipe.groupSize });
    }
    expect(report.layers.length).toBe('head' in recipe ? 16 : 14);
  });

  it('keeps what is not quantised exactly, and 32-bit values as bf16 only where that loses nothing', async () => {
    const tensors = tinyTensors();
    const values = tensors['model.embed_tokens.weight']!.values;
    const lossless = values.map((value) => bf16ToFloat(floatToBf16(value)));
    tensors['model.embed_tokens.weight'] = { dtype: 'F32', shape: [96, 64], values: lossless };
    tensors['lm_head.weight'] = { dtype: 'F32', shape: [96, 64], values };
    tensors['model.norm.weight'] = { ...tensors['model.norm.weight']!, dtype: 'F16' };
    const { report } = await run(tensors, { groupSize: 64 });
    await using written = await openCheckpoint(output);
    await using source = await openCheckpoint(original);
    const dtypes = [
      'model.embed_tokens.weight',
      'lm_head.weight',
      'model.norm.weight',
      'model.layers.0.input_layernorm.weight',
    ];
    expect(dtypes.map((name) => written.tensorInfo(name).dtype)).toEqual(['bf16', 'f32', 'f16', 'bf16']);
    const quantised = new Set(report.layers.map(({ name }) => name));
    for (const name of written.tensorNames.filter((candidate) => !quantised.has(candidate))) {
      expect(await written.readFloat32(name)).toEqual(await source.readFloat32(name));
    }
    expect(report.numKeptWeights).toBe(2 * 96 * 64 + 5 * 64);
  });

  it('nests a tied matrix once, for both of its uses', async () => {
    const { report } = await run(
      tinyTensors(true),
      { groupSize: 64, head: 'nested8', headGroupSize: 32 },
      {},
      { tie_word_embeddings: true },
    );
    const tied = report.layers.find(({ name }) => name === 'model.embed_tokens.weight');
    expect(tied).toMatchObject({ format: 'nested8', groupSize: 32, radix: 12 });
  });

  it('copies tokeniser files and writes the report into the artifact', async () => {
    const { report } = await run(tinyTensors(), { groupSize: 64 });
    const files = await readdir(output);
    expect(files).toEqual(
      expect.arrayContaining(['config.json', 'qspec.json', 'tokenizer.json', 'tokenizer_config.json']),
    );
    await using written = await openCheckpoint(output);
    expect(JSON.stringify(written.manifest)).toContain(JSON.stringify(report.total));
  });

  it('writes the same bytes each time', async () => {
    await run(tinyTensors(), { scheme: 'nested8', groupSize: 32 });
    const first = await contents(output);
    await run(tinyTensors(), { scheme: 'nested8', groupSize: 32 }, { overwrite: true });
    expect(await contents(output)).toEqual(first);
  });

  it('tells its progress in order', async () => {
    const events: QuantizeEvent[] = [];
    await run(tinyTensors(), { groupSize: 64 }, { onProgress: (event) => events.push(event) });
    const types = events.map(({ type }) => type);
    expect(types[0]).toBe('start');
    expect(types.at(-1)).toBe('commit');
    expect(types.filter((type) => type === 'tensor-start').length).toBe(21);
    expect(types.filter((type) => type === 'tensor-end').length).toBe(21);
    const progress = events.flatMap((event) => (event.type === 'progress' ? event : []));
    const done = progress.map(({ numWeightsDone }) => numWeightsDone);
    expect(done).toEqual([...done].sort((a, b) => a - b));
    expect(done.at(-1)).toBe(progress[0]?.numWeights);
  });
});

describe('a failed run', () => {
  it('leaves nothing behind when it is aborted, at any moment', async () => {
    for (const stop of [0, 1, 7, 40, 62]) {
      const controller = new AbortController();
      let numEvents = 0;
      const onProgress = () => {
        if (numEvents++ === stop) controller.abort(new Error('enough'));
      };
      const result = run(tinyTensors(), { groupSize: 64 }, { onProgress, signal: controller.signal });
      const error = await result.catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(RequestAbortedError);
      expect((error as Error).cause).toEqual(new Error('enough'));
      expect(await leftovers()).toEqual([]);
    }
  });

  it('does nothing at all when the signal has fired before', async () => {
    const result = run(tinyTensors(), { groupSize: 64 }, { signal: AbortSignal.abort() });
    await expect(result).rejects.toThrow(RequestAbortedError);
    expect(await leftovers()).toEqual([]);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('names the tensor with a weight of %d', async (bad) => {
    const tensors = tinyTensors();
    tensors[DOWN]!.values[200] = bad;
    const error = await run(tensors, { groupSize: 64 }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(CheckpointError);
    expect((error as Error).message).toContain(DOWN);
    expect(await leftovers()).toEqual([]);
  });

  it('passes on what a listener throws', async () => {
    const onProgress = ({ type }: QuantizeEvent) => {
      if (type === 'tensor-end') throw new TypeError('listener');
    };
    await expect(run(tinyTensors(), { groupSize: 64 }, { onProgress })).rejects.toThrow(new TypeError('listener'));
    expect(await leftovers()).toEqual([]);
  });

  it.each([
    [{ groupSize: 128 }, 'groupSize', 'K = 64'],
    [{ groupSize: 32, head: 'nested8', headGroupSize: 128 }, 'groupSize', '`lm_head.weight`'],
    [{ groupSize: 64, hadamardBlock: 128 }, 'hadamardBlock', 'The largest block for this tensor is 64'],
  ] as const)('refuses recipe %j before it writes anything', async (recipe, option, words) => {
    const error = await run(tinyTensors(), recipe).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).details['option']).toBe(option);
    expect((error as Error).message).toContain(words);
    expect(await leftovers()).toEqual([]);
  });

  it.each([{ numWorkers: -1 }, { numWorkers: 1.5 }, { outputPath: '' }])('refuses %j', async (options) => {
    await expect(run(tinyTensors(), { groupSize: 64 }, options)).rejects.toThrow(ConfigError);
    expect(await leftovers()).toEqual([]);
  });

  it('refuses to replace the original', async () => {
    await expect(run(tinyTensors(), { groupSize: 64 }, { outputPath: original, overwrite: true })).rejects.toThrow(
      ConfigError,
    );
    await using source = await openCheckpoint(original);
    expect(source.kind).toBe('hugging-face');
  });

  it('refuses weights that are quantised already', async () => {
    await run(tinyTensors(), { groupSize: 64 });
    await using checkpoint = await openCheckpoint(output);
    const again = quantize({ checkpoint, outputPath: join(folder, 'again'), recipe: { groupSize: 64 }, numWorkers: 0 });
    await expect(again).rejects.toThrow(UnsupportedFormatError);
    expect((await leftovers()).sort()).toEqual(['output']);
  });

  it('never touches a folder that is no artifact', async () => {
    await mkdir(output);
    await writeFile(join(output, 'thesis.txt'), 'years of work');
    for (const overwrite of [false, true]) {
      await expect(run(tinyTensors(), { groupSize: 64 }, { overwrite })).rejects.toThrow(ConfigError);
    }
    expect(await contents(output)).toEqual({ 'thesis.txt': Buffer.from('years of work').toString('base64') });
    expect(await leftovers()).toEqual(['output']);
  });

  it('keeps the artifact that was there, unless it was to be overwritten and everything went well', async () => {
    await run(tinyTensors(), { groupSize: 64 });
    const before = await contents(output);
    await expect(run(tinyTensors(), { groupSize: 32 })).rejects.toThrow(ConfigError);
    const tensors = tinyTensors();
    tensors[DOWN]!.values[0] = Number.NaN;
    await expect(run(tensors, { groupSize: 32 }, { overwrite: true })).rejects.toThrow(CheckpointError);
    expect(await contents(output)).toEqual(before);
    await run(tinyTensors(), { groupSize: 32 }, { overwrite: true });
    expect(await contents(output)).not.toEqual(before);
    expect(await leftovers()).toEqual(['output']);
  });
});
