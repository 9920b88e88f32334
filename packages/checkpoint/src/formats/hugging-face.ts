import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UnsupportedFormatError } from '@qspec/core';
import type { Checkpoint, TensorInfo } from '../checkpoint.js';
import { parseModelConfig } from '../config/parse-model-config.js';
import { FileCheckpoint } from '../file-checkpoint.js';
import { isFloatDType } from '../float-conversion.js';
import { describe, isObject, readJsonFile, type UnknownFields } from '../json.js';
import type { SafetensorsEntry } from '../safetensors.js';
import { openShards } from '../shard-index.js';
import { DenseTensor } from '../stored-tensor.js';
import { findTokenizerFiles } from '../tokenizer-files.js';

/** A folder with config.json and safetensors, elements F32, F16 or BF16. */
export async function openHuggingFace(folder: string): Promise<Checkpoint> {
  const { config, rawConfig } = await readModelConfig(folder);
  expectNotQuantized(rawConfig, join(folder, 'config.json'));
  const shards = await openShards(folder);
  const tensors = new Map([...shards.entries].map(([name, entry]) => [name, denseTensor(entry)]));
  return new FileCheckpoint({
    kind: 'hugging-face',
    path: folder,
    config,
    rawConfig,
    tensors,
    tokenizerFiles: findTokenizerFiles(folder),
    closeFiles: shards.close,
  });
}

/** config.json of a folder, and generation_config.json where there is one. */
export async function readModelConfig(
  folder: string,
): Promise<{ config: ReturnType<typeof parseModelConfig>; rawConfig: UnknownFields }> {
  const path = join(folder, 'config.json');
  const rawConfig = await readJsonFile(path);
  const generationPath = join(folder, 'generation_config.json');
  const generation = existsSync(generationPath) ? await readJsonFile(generationPath) : undefined;
  return { config: parseModelConfig(rawConfig, path, generation), rawConfig };
}

function denseTensor(entry: SafetensorsEntry): DenseTensor {
  const { name, shape, dtype, region } = entry;
  const info: TensorInfo = {
    name,
    shape,
    dtype,
    ...(isFloatDType(dtype) && shape.length === 2 && { format: { kind: 'dense', dtype } as const }),
    storedBytes: region.byteLength,
    file: region.path,
  };
  return new DenseTensor(info, region);
}

function expectNotQuantized(rawConfig: UnknownFields, path: string): void {
  const quantization = rawConfig['quantization_config'];
  if (quantization === undefined || quantization === null) return;
  const method = isObject(quantization) ? quantization['quant_method'] : quantization;
  throw new UnsupportedFormatError(
    `Expected \`${path}\` to describe an unquantised model but received \`quant_method\` ${describe(method)}. Use the original checkpoint and quantise it here, or a GGUF file.`,
    { path, received: method },
  );
}
