import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ModelConfig } from '@qspec/core';
import type { Checkpoint, StoredDType, TensorInfo } from '../checkpoint.js';
import { parseModelConfig } from '../config/parse-model-config.js';
import { FileCheckpoint } from '../file-checkpoint.js';
import { isFloatDType } from '../float-conversion.js';
import type { UnknownFields } from '../json.js';
import type { Region } from '../region.js';
import { DenseTensor, type StoredTensor } from '../stored-tensor.js';
import { findTokenizerFiles } from '../tokenizer-files.js';
import { GGML_TYPES, ggmlTypeLabel } from './gguf/ggml-types.js';
import { configFromMetadata, ggufArchitecture } from './gguf/gguf-config.js';
import { huggingFaceName } from './gguf/gguf-names.js';
import { BlockTensor, UnreadableTensor } from './gguf/gguf-tensor.js';
import { type GgufFile, type GgufTensorEntry, readGguf } from './gguf/read-gguf.js';
import { RotaryRowsRegion } from './gguf/rotary-rows.js';
import { readModelConfig } from './hugging-face.js';

/** A GGUF file; `config.json` beside it, where there is one, says more exactly what its metadata says. */
export async function openGguf(path: string): Promise<Checkpoint> {
  const gguf = await readGguf(path);
  try {
    const architecture = ggufArchitecture(path, gguf.metadata);
    const folder = dirname(path);
    const { config, rawConfig } = existsSync(join(folder, 'config.json'))
      ? await readModelConfig(folder)
      : await configOf(path, gguf);
    const headDim = architecture === 'llama' ? config.headDim : undefined;
    const stored = gguf.tensors.map((entry) => storedTensor(path, entry, headDim));
    return new FileCheckpoint({
      kind: 'gguf',
      path,
      config,
      rawConfig,
      tensors: new Map(stored.map((tensor) => [tensor.info.name, tensor])),
      tokenizerFiles: findTokenizerFiles(folder),
      closeFiles: () => gguf.file.close(),
    });
  } catch (error) {
    await gguf.file.close();
    throw error;
  }
}

async function configOf(path: string, gguf: GgufFile): Promise<{ config: ModelConfig; rawConfig: UnknownFields }> {
  const frequencies = gguf.tensors.find((tensor) => tensor.name === 'rope_freqs.weight');
  const factors =
    frequencies && (await storedTensor(path, frequencies, undefined).readRows(0, frequencies.shape[0] ?? 1));
  const rawConfig = configFromMetadata(path, gguf.metadata, gguf.tensors, factors);
  return { rawConfig, config: parseModelConfig(rawConfig, path) };
}

/** @param rotaryHeadDim given where q and k rows are interleaved in heads of this size. */
function storedTensor(path: string, entry: GgufTensorEntry, rotaryHeadDim: number | undefined): StoredTensor {
  const type = GGML_TYPES.get(entry.ggmlType);
  const name = huggingFaceName(entry.name);
  const label = ggmlTypeLabel(entry.ggmlType);
  const dtype: StoredDType = type?.dtype ?? `ggml:${label}`;
  const floatDType = type?.codec ? 'f32' : dtype;
  const info: TensorInfo = {
    name,
    shape: entry.shape,
    dtype,
    ...(entry.shape.length === 2 &&
      isFloatDType(floatDType) && { format: { kind: 'dense', dtype: floatDType } as const }),
    storedBytes: entry.region?.byteLength ?? 0,
    file: path,
  };
  if (!type || !entry.region) return new UnreadableTensor(info, label);
  const region = isRotary(name) ? rotaryRegion(entry.region, entry.shape, rotaryHeadDim) : entry.region;
  return type.codec ? new BlockTensor(info, region, type.codec) : new DenseTensor(info, region);
}

function rotaryRegion(region: Region, shape: readonly number[], headDim: number | undefined): Region {
  const numRows = shape[0] ?? 0;
  // Rows that are not whole heads are a wrong shape, which validation reports.
  if (headDim === undefined || numRows === 0 || numRows % headDim !== 0) return region;
  return new RotaryRowsRegion(region, region.byteLength / numRows, headDim);
}

const isRotary = (name: string): boolean => /\.self_attn\.[qk]_proj\.(weight|bias)$/.test(name);
