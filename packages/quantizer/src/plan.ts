import type { Checkpoint, TensorInfo } from '@qspec/checkpoint';
import { type Int4Format, isQuantized, type Nested8Format, UnsupportedFormatError } from '@qspec/core';
import { expectFormatFits, formatFor, type ResolvedRecipe, type TensorRole } from './recipe.js';

/** What becomes of one tensor. */
export interface PlannedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly numWeights: number;
  /** Absent: kept as it is. */
  readonly format?: Int4Format | Nested8Format;
}

/**
 * Decides for every tensor of the checkpoint, in its order, without reading any.
 * @throws ConfigError when a group size or Hadamard block does not fit a matrix; UnsupportedFormatError when the weights are quantised already.
 */
export function planTensors(checkpoint: Checkpoint, recipe: ResolvedRecipe): PlannedTensor[] {
  const isTied = checkpoint.config.tieWordEmbeddings && !checkpoint.hasTensor('lm_head.weight');
  return checkpoint.tensorNames.map((name) => {
    const info = checkpoint.tensorInfo(name);
    expectUnquantized(info);
    const role = roleOf(info, isTied);
    const format = role && formatFor(recipe, role);
    if (format) expectFormatFits(name, info.shape[1]!, format);
    const numWeights = info.shape.reduce((product, length) => product * length, 1);
    return { name, shape: info.shape, numWeights, ...(format && { format }) };
  });
}

/** @returns undefined for what is never quantised: norms, biases. */
function roleOf({ name, shape }: TensorInfo, isTied: boolean): TensorRole | undefined {
  if (shape.length !== 2) return undefined;
  if (name === 'lm_head.weight') return 'head';
  if (name === 'model.embed_tokens.weight') return isTied ? 'tiedEmbedding' : 'embedding';
  return name.startsWith('model.layers.') ? 'linear' : undefined;
}

function expectUnquantized(info: TensorInfo): void {
  if (!info.format || !isQuantized(info.format)) return;
  throw new UnsupportedFormatError(
    `Expected \`${info.name}\` to hold floating-point weights but it is ${info.dtype} already. Quantise the original checkpoint instead.`,
    { tensor: info.name, received: info.dtype, file: info.file },
  );
}
