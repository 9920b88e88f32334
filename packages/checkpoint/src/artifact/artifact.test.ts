import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  bf16ToFloat,
  CheckpointError,
  ConfigError,
  DisposedError,
  ShapeMismatchError,
  UnsupportedFormatError,
} from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { int4Source, nestedSource, TINY_CONFIG } from '../../testing/sources.js';
import { temporaryFolder } from '../../testing/temporary-folder.js';
import { EMBEDDING, fillTinyArtifact, ODD_BYTES, Q_PROJ, writeTinyArtifact } from '../../testing/tiny-artifact.js';
import { openCheckpoint } from '../open-checkpoint.js';
import { createArtifactWriter } from './create-artifact-writer.js';
import { sealManifest } from './manifest.js';
import { verifyArtifact } from './open-artifact.js';

describe('an artifact that was written', () => {
  it.each([undefined, 1000])('reads back as it was given, in shards of %s bytes', async (maxShardBytes) => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    const summary = await writeTinyArtifact(path, maxShardBytes === undefined ? {} : { maxShardBytes });
    expect(summary.numTensors).toBe(5);
    expect(summary.numShards).toBe(maxShardBytes === undefined ? 1 : 4);
    await using checkpoint = await openCheckpoint(path);
    expect(checkpoint.kind).toBe('artifact');
    expect(checkpoint.config.vocabSize).toBe(7);
    expect(checkpoint.manifest).toMatchObject({ recipe: { scheme: 'w4' }, report: { layers: [{ error: 0.01 }] } });
    expect(await checkpoint.weightSource(Q_PROJ.name)).toEqual(Q_PROJ);
    expect(await checkpoint.weightSource(EMBEDDING.name)).toEqual(EMBEDDING);
    const odd = await checkpoint.readFloat32('odd.weight');
    expect(odd).toEqual(Float32Array.from(new Uint16Array(ODD_BYTES.buffer), bf16ToFloat));
    expect((await checkpoint.readFloat32('model.norm.weight'))[9]).toBe(9 / 8);
    expect(checkpoint.tensorInfo('counts')).toMatchObject({ dtype: 'i32', shape: [2, 2] });
    expect(checkpoint.tokenizerFiles()).toEqual({ tokenizer: join(path, 'tokenizer.json') });
    expect(await readdir(folder.path)).toEqual(['artifact', 'tokenizer.json']);
    await verifyArtifact(path);
  });

  it('dequantises int4 as scale · hi and nested8 as scale / radix · (radix · hi + lo), by any rows', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await writeTinyArtifact(path);
    await using checkpoint = await openCheckpoint(path);
    for (const source of [Q_PROJ, EMBEDDING]) {
      const { groupSize } = source.format;
      const values = await checkpoint.readFloat32(source.name);
      const expected = values.map((_, i) => {
        const scale = bf16ToFloat(source.scales[Math.floor(i / groupSize)]!);
        const nibble = (words: Int32Array): number => ((words[i >> 3]! >> (4 * (i % 8))) & 15) - 8;
        if (source.format.kind === 'int4') return scale * nibble(source.hi);
        return (scale / 12) * (12 * nibble(source.hi) + nibble(EMBEDDING.lo));
      });
      expect(values).toEqual(expected);
      expect(await checkpoint.readRowsFloat32(source.name, 2, 5)).toEqual(values.slice(2 * 64, 5 * 64));
    }
  });

  it('claims to be pack-quantized only where other tools may believe it', async () => {
    await using folder = await temporaryFolder();
    const quantization = async (hadamardBlock: number): Promise<unknown> => {
      const path = join(folder.path, `block-${hadamardBlock}`);
      const writer = await createArtifactWriter(path, { config: TINY_CONFIG, recipe: {} });
      await writer.addInt4(int4Source({ name: 'a.q_proj.weight', shape: [8, 64], hadamardBlock }));
      await writer.addDense('lm_head.weight', 'bf16', [2, 64], new Uint8Array(256));
      await writer.commit();
      return JSON.parse(await readFile(join(path, 'config.json'), 'utf8')).quantization_config;
    };
    expect(await quantization(0)).toMatchObject({
      quant_method: 'compressed-tensors',
      format: 'pack-quantized',
      ignore: ['lm_head'],
      config_groups: { group_0: { targets: ['Linear'], weights: { num_bits: 4, group_size: 32, symmetric: true } } },
    });
    expect(await quantization(64)).toMatchObject({ quant_method: 'qspec', note: expect.stringContaining('Hadamard') });
  });
});

describe('a damaged artifact', () => {
  const reopen = async (path: string): Promise<void> => {
    await using checkpoint = await openCheckpoint(path);
    for (const name of checkpoint.tensorNames) {
      if (checkpoint.tensorInfo(name).format) await checkpoint.weightSource(name);
      else if (name !== 'counts') await checkpoint.readFloat32(name);
    }
  };

  it('is refused wherever one byte is flipped, naming the file or the tensor', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await writeTinyArtifact(path);
    await reopen(path);
    for (const file of await readdir(path)) {
      const original = await readFile(join(path, file));
      const step = Math.max(1, Math.floor(original.length / 40));
      for (let at = 0; at < original.length; at += step) {
        const flipped = Buffer.from(original);
        flipped[at]! ^= 1 << (at % 8);
        await writeFile(join(path, file), flipped);
        const error: unknown = await reopen(path).catch((caught: unknown) => caught);
        // `counts` is no float tensor, so nobody reads it as numbers: only the full check sees it.
        const full: unknown = error ?? (await verifyArtifact(path).catch((caught: unknown) => caught));
        if (!(full instanceof CheckpointError)) expect.fail(`${file}, byte ${at}: ${String(full)}`);
        expect(full.message).toContain(file);
      }
      await writeFile(join(path, file), original);
    }
    await verifyArtifact(path);
  });

  it('checks a tensor before it hands out part of it, and names it', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await writeTinyArtifact(path);
    const shard = join(path, 'model.safetensors');
    const bytes = await readFile(shard);
    bytes[65_536 + 64 * 32 - 1]! ^= 1; // the last byte of q_proj's codes
    await writeFile(shard, bytes);
    await using checkpoint = await openCheckpoint(path);
    await expect(checkpoint.readRowsFloat32(Q_PROJ.name, 0, 1)).rejects.toThrow(/q_proj\.weight_packed/);
    await expect(checkpoint.weightSource(EMBEDDING.name)).resolves.toBeDefined();
  });

  it('is refused when a shard is truncated or a file is missing', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await writeTinyArtifact(path);
    await truncate(join(path, 'model.safetensors'), 66_000);
    await expect(openCheckpoint(path)).rejects.toThrow(CheckpointError);
    await writeTinyArtifact(path, { overwrite: true });
    await rm(join(path, 'tokenizer.json'));
    await expect(openCheckpoint(path)).rejects.toThrow(/tokenizer\.json/);
  });

  it('says so when it was made by a later version', async () => {
    await using folder = await temporaryFolder();
    await writeFile(join(folder.path, 'qspec.json'), sealManifest({ format: 'qspec-artifact', format_version: 2 }));
    await expect(openCheckpoint(folder.path)).rejects.toThrow(UnsupportedFormatError);
  });
});

describe('the place of an artifact', () => {
  it('is never taken from a folder that is not an artifact', async () => {
    await using folder = await temporaryFolder();
    await writeFile(join(folder.path, 'thesis.txt'), 'x');
    await expect(writeTinyArtifact(folder.path, { overwrite: true })).rejects.toThrow(ConfigError);
    expect(await readdir(folder.path)).toEqual(['thesis.txt']);
  });

  it('is taken from an artifact only with `overwrite`, and only at commit', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await writeTinyArtifact(path);
    await expect(writeTinyArtifact(path)).rejects.toThrow(/overwrite/);
    const writer = await createArtifactWriter(path, { config: TINY_CONFIG, recipe: { second: true }, overwrite: true });
    await fillTinyArtifact(writer, path);
    await verifyArtifact(path);
    await writer.commit();
    await using checkpoint = await openCheckpoint(path);
    expect(checkpoint.manifest).toMatchObject({ recipe: { second: true } });
    expect(await readdir(folder.path)).toEqual(['artifact', 'tokenizer.json']);
  });

  it('may be an empty folder', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    await mkdir(path);
    await writeTinyArtifact(path);
    await verifyArtifact(path);
  });
});

describe('a writer', () => {
  it('leaves nothing behind when it is aborted or disposed', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'artifact');
    const writer = await createArtifactWriter(path, { config: TINY_CONFIG, recipe: {} });
    await writer.addInt4(Q_PROJ);
    const pending = writer.addNested8(EMBEDDING);
    writer.abort();
    expect(await readdir(folder.path)).toEqual([]);
    await expect(pending).rejects.toThrow(DisposedError);
    await expect(writer.commit()).rejects.toThrow(DisposedError);
    {
      await using second = await createArtifactWriter(path, { config: TINY_CONFIG, recipe: {} });
      await second.addInt4(Q_PROJ);
    }
    expect(await readdir(folder.path)).toEqual([]);
  });

  it('refuses arrays that do not fit their shape', async () => {
    await using folder = await temporaryFolder();
    const attempts = [
      (path: string) => writeOne(path, (writer) => writer.addDense('x', 'f32', [3], new Uint8Array(8))),
      (path: string) => writeOne(path, (writer) => writer.addInt4({ ...Q_PROJ, scales: new Uint16Array(3) })),
      (path: string) => writeOne(path, (writer) => writer.addNested8({ ...EMBEDDING, lo: new Int32Array(1) })),
    ];
    for (const attempt of attempts) await expect(attempt(join(folder.path, 'a'))).rejects.toThrow(ShapeMismatchError);
    const ragged = nestedSource({ name: 'x.weight', shape: [4, 96], groupSize: 32 });
    const wrong = { ...ragged, format: { ...ragged.format, groupSize: 64 as const } };
    await expect(writeOne(join(folder.path, 'a'), (writer) => writer.addNested8(wrong))).rejects.toThrow(ConfigError);
    expect(existsSync(join(folder.path, 'a'))).toBe(false);
    expect(await readdir(folder.path)).toEqual([]);
  });
});

async function writeOne(
  path: string,
  add: (writer: Awaited<ReturnType<typeof createArtifactWriter>>) => Promise<void>,
): Promise<void> {
  await using writer = await createArtifactWriter(path, { config: TINY_CONFIG, recipe: {} });
  await add(writer);
  await writer.commit();
}
