import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError, ShapeMismatchError, UnsupportedFormatError } from '@qspec/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vectorPath } from '../testing/paths.js';
import { safetensorsBytes } from '../testing/safetensors-bytes.js';
import { TINY_CONFIG } from '../testing/sources.js';
import { temporaryFolder } from '../testing/temporary-folder.js';
import { parseModelConfig } from './config/parse-model-config.js';
import { requiredTensors, validateModelTensors } from './model-tensors.js';
import { openCheckpoint } from './open-checkpoint.js';

const NUM_RUNS = 150;

interface Damage {
  readonly keep: number;
  readonly flips: readonly { readonly at: number; readonly xor: number }[];
}

/** Cut to a share of the length and some bytes changed, most of them among the first `headerBytes`. */
const damage = (length: number, headerBytes: number): fc.Arbitrary<Damage> =>
  fc.record({
    keep: fc.oneof({ weight: 3, arbitrary: fc.constant(length) }, { weight: 1, arbitrary: fc.nat(length) }),
    flips: fc.array(fc.record({ at: fc.nat(headerBytes - 1), xor: fc.integer({ min: 1, max: 255 }) }), {
      maxLength: 4,
    }),
  });

function applyDamage(original: Uint8Array, { keep, flips }: Damage): Uint8Array {
  const bytes = Buffer.from(original.subarray(0, keep));
  for (const { at, xor } of flips) if (at < bytes.length) bytes[at]! ^= xor;
  return bytes;
}

/** Opens, validates and reads everything: either all of it works or the error is one of ours. */
async function expectTypedOutcome(path: string): Promise<void> {
  try {
    await using checkpoint = await openCheckpoint(path);
    validateModelTensors(checkpoint);
    for (const name of checkpoint.tensorNames) await checkpoint.readRowsFloat32(name, 0, 1);
  } catch (error) {
    const isTyped =
      error instanceof CheckpointError ||
      error instanceof UnsupportedFormatError ||
      error instanceof ShapeMismatchError;
    if (!isTyped) expect.fail(`untyped: ${error instanceof Error ? error.stack : String(error)}`);
  }
}

describe('random damage', () => {
  it('to a GGUF never ends in anything but a typed error', async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, 'model.gguf');
    const original = await readFile(vectorPath('formats', 'gguf-Q4_0', 'model.gguf'));
    const check = fc.asyncProperty(damage(original.length, 1400), async (how) => {
      await writeFile(path, applyDamage(original, how));
      await expectTypedOutcome(path);
    });
    await fc.assert(check, { numRuns: NUM_RUNS });
  });

  it('to a safetensors header or a config.json never ends in anything but a typed error', async () => {
    await using folder = await temporaryFolder();
    const config = Buffer.from(JSON.stringify(TINY_CONFIG));
    const model = tinyModel();
    const headerBytes = 8 + Number(Buffer.from(model).readBigUInt64LE());
    const check = fc.asyncProperty(
      damage(model.length, headerBytes),
      damage(config.length, config.length),
      async (a, b) => {
        await writeFile(join(folder.path, 'model.safetensors'), applyDamage(model, a));
        await writeFile(join(folder.path, 'config.json'), applyDamage(config, { ...b, flips: b.flips.slice(0, 1) }));
        await expectTypedOutcome(folder.path);
      },
    );
    await fc.assert(check, { numRuns: NUM_RUNS });
  });

  it('to any field of config.json never ends in anything but a typed error', () => {
    const fields = [
      ...Object.keys(TINY_CONFIG),
      'head_dim',
      'rope_scaling',
      'rope_parameters',
      'rope_theta',
      'layer_types',
    ];
    const architectures = ['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM', 'Qwen3ForCausalLM'];
    const check = fc.property(
      fc.constantFrom(...architectures),
      fc.constantFrom(...fields),
      fc.oneof(
        fc.jsonValue(),
        fc.double(),
        fc.record({ rope_type: fc.constantFrom('yarn', 'llama3', 'linear'), factor: fc.jsonValue() }),
      ),
      (architecture, field, value) => {
        try {
          parseModelConfig({ ...TINY_CONFIG, architectures: [architecture], [field]: value }, 'config.json');
        } catch (error) {
          expect(error instanceof CheckpointError || error instanceof UnsupportedFormatError, String(error)).toBe(true);
        }
      },
    );
    fc.assert(check, { numRuns: 2000 });
  });
});

function tinyModel(): Uint8Array {
  const header: Record<string, object> = {};
  let at = 0;
  for (const [name, shape] of requiredTensors(parseModelConfig(TINY_CONFIG, 'config.json'))) {
    const numBytes = shape.reduce((product, size) => product * size, 2);
    header[name] = { dtype: 'BF16', shape, data_offsets: [at, at + numBytes] };
    at += numBytes;
  }
  return safetensorsBytes(header, new Uint8Array(at));
}
