import { cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CheckpointError, ConfigError, ShapeMismatchError, UnsupportedFormatError } from '@qspec/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeBackend } from '../testing/fake-backend.js';
import { vectorPath } from '../testing/golden.js';
import { LLM } from './llm.js';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'qspec-load-'));
  await cp(vectorPath('qwen3-qk-norm'), folder, { recursive: true });
});

afterEach(() => rm(folder, { recursive: true, force: true }));

const load = (options = {}) => LLM.load(folder, { backend: new FakeBackend(), ...options });

async function changeConfig(changes: object): Promise<void> {
  const path = join(folder, 'config.json');
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), ...changes }));
}

describe('LLM.load', () => {
  it('loads a checkpoint without a tokenizer and says so only when text is asked for', async () => {
    await using llm = await load();
    expect((await llm.generate({ tokens: [5, 6], maxTokens: 3, ignoreEos: true })).tokenIds).toHaveLength(3);
    await expect(llm.generate({ prompt: 'text' })).rejects.toThrow(/Expected tokenizer\.json beside/);
  });

  it('names an architecture that nobody knows', async () => {
    await changeConfig({ architectures: ['MambaForCausalLM'], model_type: 'mamba' });
    await expect(load()).rejects.toThrow(UnsupportedFormatError);
    await expect(load()).rejects.toThrow(/[Mm]amba/);
  });

  it('names the tensor whose shape differs from the configuration', async () => {
    await changeConfig({ intermediate_size: 128 });
    await expect(load()).rejects.toThrow(ShapeMismatchError);
    await expect(load()).rejects.toThrow(/model\.layers\.0\.mlp\./);
  });

  it('names a tensor that is missing', async () => {
    await changeConfig({ num_hidden_layers: 3, layer_types: undefined });
    await expect(load()).rejects.toThrow(CheckpointError);
    await expect(load()).rejects.toThrow(/model\.layers\.2\./);
  });

  it('names a file that is cut off', async () => {
    await truncate(join(folder, 'model.safetensors'), 100_000);
    await expect(load()).rejects.toThrow(CheckpointError);
    await expect(load()).rejects.toThrow(/model\.safetensors/);
  });

  it('refuses a draft for dense weights, with the remedy', async () => {
    await expect(load({ draft: 'w4a4' })).rejects.toThrow(ConfigError);
    await expect(load({ draft: 'w4a4' })).rejects.toThrow(/Quantise the checkpoint first/);
  });

  it('stops between two tensors when its signal fires', async () => {
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('changed my mind'));
    await expect(load({ signal: controller.signal, onProgress })).rejects.toThrow('changed my mind');
  });
});
