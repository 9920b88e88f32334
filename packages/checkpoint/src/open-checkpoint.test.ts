import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError, ConfigError, DisposedError, ShapeMismatchError, UnsupportedFormatError } from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { vectorPath } from '../testing/paths.js';
import { safetensorsBytes } from '../testing/safetensors-bytes.js';
import { TINY_CONFIG } from '../testing/sources.js';
import { temporaryFolder } from '../testing/temporary-folder.js';
import { validateModelTensors } from './model-tensors.js';
import { openCheckpoint } from './open-checkpoint.js';

type Tensors = Record<string, { dtype: string; shape: number[]; bytes: Uint8Array }>;

const bf16 = (...bits: number[]): Uint8Array => new Uint8Array(Uint16Array.from(bits).buffer);
const matrix = (shape: number[], dtype = 'BF16'): Tensors[string] => ({
  dtype,
  shape,
  bytes: new Uint8Array(shape.reduce((product, size) => product * size, 2)),
});

function fileOf(tensors: Tensors): Uint8Array {
  let at = 0;
  const header = Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
    const begin = at;
    at += bytes.length;
    return [name, { dtype, shape, data_offsets: [begin, at] }];
  });
  return safetensorsBytes(Object.fromEntries(header), Buffer.concat(Object.values(tensors).map(({ bytes }) => bytes)));
}

async function writeModel(folder: string, tensors: Tensors, config: object = TINY_CONFIG): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  await writeFile(join(folder, 'model.safetensors'), fileOf(tensors));
}

const P = 'model.layers.0.';
const COMPLETE: Tensors = {
  'model.embed_tokens.weight': matrix([7, 64]),
  ...Object.fromEntries(['q', 'k', 'v', 'o'].map((name) => [`${P}self_attn.${name}_proj.weight`, matrix([64, 64])])),
  ...Object.fromEntries(['gate', 'up', 'down'].map((name) => [`${P}mlp.${name}_proj.weight`, matrix([64, 64])])),
  [`${P}input_layernorm.weight`]: matrix([64]),
  [`${P}post_attention_layernorm.weight`]: matrix([64]),
  'model.norm.weight': matrix([64]),
};

describe('a Hugging Face folder', () => {
  it('converts bf16 and f16 exactly and keeps their type in sources', async () => {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, {
      a: { dtype: 'BF16', shape: [2, 2], bytes: bf16(0x3f80, 0xc000, 0x0001, 0x7f80) },
      b: { dtype: 'F16', shape: [2, 2], bytes: bf16(0x3c00, 0xc000, 0x0001, 0x7bff) },
    });
    await using checkpoint = await openCheckpoint(folder.path);
    expect(await checkpoint.readFloat32('a')).toEqual(Float32Array.of(1, -2, 2 ** -133, Number.POSITIVE_INFINITY));
    expect(await checkpoint.readFloat32('b')).toEqual(Float32Array.of(1, -2, 2 ** -24, 65504));
    expect(await checkpoint.readRowsFloat32('b', 1, 2)).toEqual(Float32Array.of(2 ** -24, 65504));
    const source = await checkpoint.weightSource('b');
    expect(source).toMatchObject({ name: 'b', shape: [2, 2], format: { kind: 'dense', dtype: 'f16' } });
    expect(source.format.kind === 'dense' && 'data' in source && source.data).toEqual(
      bf16(0x3c00, 0xc000, 0x0001, 0x7bff),
    );
    await expect(checkpoint.readRowsFloat32('b', 1, 3)).rejects.toThrow(ConfigError);
  });

  it('joins shards and notices one that the index is wrong about', async () => {
    await using folder = await temporaryFolder();
    const weightMap = { a: 'one.safetensors', b: 'two.safetensors' };
    const write = (map: object): Promise<void> =>
      writeFile(join(folder.path, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
    await writeFile(join(folder.path, 'config.json'), JSON.stringify(TINY_CONFIG));
    await writeFile(join(folder.path, 'one.safetensors'), fileOf({ a: matrix([1, 2]) }));
    await writeFile(join(folder.path, 'two.safetensors'), fileOf({ b: matrix([1, 2]) }));
    await write(weightMap);
    await using checkpoint = await openCheckpoint(folder.path);
    expect(checkpoint.tensorNames).toEqual(['a', 'b']);
    await write({ ...weightMap, c: 'two.safetensors' });
    await expect(openCheckpoint(folder.path)).rejects.toThrow(/`c`.*two\.safetensors/);
    await write({ ...weightMap, c: 'three.safetensors' });
    await expect(openCheckpoint(folder.path)).rejects.toThrow(/three\.safetensors/);
    await write({ a: '../one.safetensors' });
    await expect(openCheckpoint(folder.path)).rejects.toThrow(CheckpointError);
    await writeFile(join(folder.path, 'two.safetensors'), fileOf({ a: matrix([1, 2]), b: matrix([1, 2]) }));
    await write(weightMap);
    await expect(openCheckpoint(folder.path)).rejects.toThrow(/`a` in one file/);
  });

  it('is validated for missing and misshapen tensors, by name', async () => {
    await using folder = await temporaryFolder();
    const validate = async (tensors: Tensors, config: object = TINY_CONFIG): Promise<void> => {
      await writeModel(folder.path, tensors, config);
      await using checkpoint = await openCheckpoint(folder.path);
      validateModelTensors(checkpoint);
    };
    await validate(COMPLETE);
    const { 'model.norm.weight': _, ...withoutNorm } = COMPLETE;
    await expect(validate(withoutNorm)).rejects.toThrow(/`model\.norm\.weight` in/);
    const misshapen = { ...COMPLETE, [`${P}mlp.up_proj.weight`]: matrix([64, 32]) };
    await expect(validate(misshapen)).rejects.toThrow(ShapeMismatchError);
    await expect(validate(misshapen)).rejects.toThrow(/up_proj.*\[64, 64\] but received \[64, 32\]/);
    await expect(validate(COMPLETE, { ...TINY_CONFIG, attention_bias: true })).rejects.toThrow(/q_proj\.bias.*3 more/);
    await expect(validate(COMPLETE, { ...TINY_CONFIG, tie_word_embeddings: false })).rejects.toThrow(/lm_head/);
    const qwen3 = { ...TINY_CONFIG, architectures: ['Qwen3ForCausalLM'], head_dim: 32 };
    await expect(validate(COMPLETE, qwen3)).rejects.toThrow(/q_norm/);
  });

  it('hides the copy of a tied head', async () => {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, { ...COMPLETE, 'lm_head.weight': matrix([7, 64]) });
    await using checkpoint = await openCheckpoint(folder.path);
    expect(checkpoint.hasTensor('lm_head.weight')).toBe(false);
  });

  it('refuses integers where numbers are wanted, a missing tensor, and reads after close', async () => {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, { a: matrix([2, 2], 'I16') });
    const checkpoint = await openCheckpoint(folder.path);
    await expect(checkpoint.readFloat32('a')).rejects.toThrow(UnsupportedFormatError);
    await expect(checkpoint.weightSource('a')).rejects.toThrow(/`a`.*i16/);
    await expect(checkpoint.weightSource('b')).rejects.toThrow(/`b`.*missing/);
    await checkpoint.close();
    await checkpoint.close();
    await expect(checkpoint.readFloat32('a')).rejects.toThrow(DisposedError);
  });

  it('quantised by another tool is unsupported, naming the method', async () => {
    await using folder = await temporaryFolder();
    await writeModel(folder.path, COMPLETE, { ...TINY_CONFIG, quantization_config: { quant_method: 'awq' } });
    await expect(openCheckpoint(folder.path)).rejects.toThrow(/awq/);
  });
});

describe('a path', () => {
  it('to nothing, to another file, or to two GGUF files says what is wanted', async () => {
    await using folder = await temporaryFolder();
    await expect(openCheckpoint(join(folder.path, 'none'))).rejects.toThrow(/there is nothing/);
    await expect(openCheckpoint(folder.path)).rejects.toThrow(/config\.json/);
    await writeFile(join(folder.path, 'model.bin'), 'x');
    await expect(openCheckpoint(join(folder.path, 'model.bin'))).rejects.toThrow(UnsupportedFormatError);
    for (const name of ['a.gguf', 'b.gguf']) {
      await copyFile(vectorPath('formats', 'gguf-Q8_0', 'model.gguf'), join(folder.path, name));
    }
    await expect(openCheckpoint(folder.path)).rejects.toThrow(/a\.gguf, b\.gguf/);
    await using checkpoint = await openCheckpoint(join(folder.path, 'b.gguf'));
    expect(checkpoint.kind).toBe('gguf');
  });
});
