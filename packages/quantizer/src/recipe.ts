import {
  ConfigError,
  expectInteger,
  GROUP_SIZES,
  type GroupSize,
  type Int4Format,
  type Nested8Format,
} from '@qspec/core';
import { MAX_RADIX, MIN_RADIX } from './nested.js';
import { CLIP_SEARCHES, type ClipSearch } from './rounding/clip-search.js';
import { ROUNDINGS } from './rounding/index.js';
import type { RoundingName } from './rounding/rounding.js';
import { isHadamardBlock } from './transforms/hadamard.js';

/** `w4`: symmetric INT4. `nested8`: an 8-bit weight whose high nibbles are that W4. */
export const SCHEMES = ['w4', 'nested8'] as const;
export type Scheme = (typeof SCHEMES)[number];

/** `keep`: the checkpoint's own 16 (or 32) bits. */
export const HEAD_SCHEMES = ['keep', 'nested8'] as const;
export type HeadScheme = (typeof HEAD_SCHEMES)[number];

/** How to quantise a checkpoint. All optional; {@link resolveRecipe} has the defaults. */
export interface Recipe {
  /** Of the linear layers inside the transformer blocks. Default `w4`. */
  readonly scheme?: Scheme;
  /** Weights along K that share a scale: 32, 64 or 128 (default). Smaller is more exact and larger on disk (16 / groupSize bits a weight). */
  readonly groupSize?: GroupSize;
  /** Block of the Hadamard rotation along K, a power of two from 2; 0 (default) = none. Holds for everything that is quantised. */
  readonly hadamardBlock?: number;
  /** Steps of `lo` in one step of `hi`, 8 to 15, for everything nested. Default 12. */
  readonly radix?: number;
  /** `lm_head`. Default `keep`. Where it is tied to the embeddings, one matrix serves both: nested as soon as either is. */
  readonly head?: HeadScheme;
  /** `embed_tokens`. Default `keep`. */
  readonly embeddings?: HeadScheme;
  /** Group size of nested head and embeddings. Default: `groupSize`. */
  readonly headGroupSize?: GroupSize;
  /** How scales are found. Default `fast`. */
  readonly clipSearch?: ClipSearch;
  /** How codes are found. Default `rtn`. */
  readonly rounding?: RoundingName;
}

/** A type alias rather than an interface, so that it can be stored as plain JSON. */
export type ResolvedRecipe = { readonly [Field in keyof Recipe]-?: NonNullable<Recipe[Field]> };

/** Fills in defaults and checks every field. @throws ConfigError naming the option, what is allowed and what came. */
export function resolveRecipe(recipe: Recipe = {}): ResolvedRecipe {
  expectKnownFields(recipe);
  const groupSize = recipe.groupSize ?? 128;
  const resolved: ResolvedRecipe = {
    scheme: recipe.scheme ?? 'w4',
    groupSize,
    hadamardBlock: recipe.hadamardBlock ?? 0,
    radix: recipe.radix ?? 12,
    head: recipe.head ?? 'keep',
    embeddings: recipe.embeddings ?? 'keep',
    headGroupSize: recipe.headGroupSize ?? groupSize,
    clipSearch: recipe.clipSearch ?? 'fast',
    rounding: recipe.rounding ?? 'rtn',
  };
  expectOneOf('scheme', resolved.scheme, SCHEMES);
  expectOneOf('groupSize', resolved.groupSize, GROUP_SIZES);
  expectOneOf('headGroupSize', resolved.headGroupSize, GROUP_SIZES);
  expectOneOf('head', resolved.head, HEAD_SCHEMES);
  expectOneOf('embeddings', resolved.embeddings, HEAD_SCHEMES);
  expectOneOf('clipSearch', resolved.clipSearch, CLIP_SEARCHES);
  expectOneOf('rounding', resolved.rounding, Object.keys(ROUNDINGS));
  expectInteger('radix', resolved.radix, MIN_RADIX, MAX_RADIX);
  if (resolved.hadamardBlock !== 0 && !isHadamardBlock(resolved.hadamardBlock)) {
    throw new ConfigError(
      `Expected \`hadamardBlock\` to be 0 or a power of two from 2 but received ${resolved.hadamardBlock}. 64 is a good choice.`,
      { option: 'hadamardBlock', received: resolved.hadamardBlock },
    );
  }
  return resolved;
}

/** Which of the recipe's decisions a matrix falls under. */
export type TensorRole = 'linear' | 'head' | 'embedding' | 'tiedEmbedding';

/** @returns undefined when the matrix stays as it is. */
export function formatFor(recipe: ResolvedRecipe, role: TensorRole): Int4Format | Nested8Format | undefined {
  const { hadamardBlock, radix } = recipe;
  if (role === 'linear') {
    const groupSize = recipe.groupSize;
    return recipe.scheme === 'w4'
      ? { kind: 'int4', groupSize, hadamardBlock }
      : { kind: 'nested8', groupSize, hadamardBlock, radix };
  }
  const isNested =
    (role !== 'embedding' && recipe.head === 'nested8') || (role !== 'head' && recipe.embeddings === 'nested8');
  return isNested ? { kind: 'nested8', groupSize: recipe.headGroupSize, hadamardBlock, radix } : undefined;
}

/**
 * Does the format fit a matrix with `numColumns` inputs?
 * @throws ConfigError naming the tensor, its K and the size that does not divide it.
 */
export function expectFormatFits(name: string, numColumns: number, format: Int4Format | Nested8Format): void {
  const { groupSize, hadamardBlock } = format;
  if (numColumns % groupSize !== 0) {
    throw new ConfigError(
      `Expected \`groupSize\` to divide K = ${numColumns} of \`${name}\` but received ${groupSize}. ${groupRemedy(numColumns)}`,
      { option: 'groupSize', tensor: name, numColumns, received: groupSize },
    );
  }
  if (hadamardBlock > 0 && numColumns % hadamardBlock !== 0) {
    const largest = numColumns & -numColumns;
    throw new ConfigError(
      `Expected \`hadamardBlock\` to divide K = ${numColumns} of \`${name}\` but received ${hadamardBlock}. ` +
        `The largest block for this tensor is ${largest}; 0 turns the rotation off.`,
      { option: 'hadamardBlock', tensor: name, numColumns, received: hadamardBlock },
    );
  }
}

function groupRemedy(numColumns: number): string {
  const fitting = GROUP_SIZES.filter((size) => numColumns % size === 0);
  return fitting.length > 0
    ? `Group sizes that do: ${fitting.join(', ')}.`
    : 'No supported group size does (32, 64, 128): this model cannot be quantised to 4 bits.';
}

function expectOneOf(option: string, received: unknown, allowed: readonly unknown[]): void {
  if (allowed.includes(received)) return;
  throw new ConfigError(`Expected \`${option}\` to be one of ${allowed.join(', ')} but received ${String(received)}.`, {
    option,
    allowed,
    received,
  });
}

const FIELDS: Readonly<Record<keyof Recipe, true>> = {
  scheme: true,
  groupSize: true,
  hadamardBlock: true,
  radix: true,
  head: true,
  embeddings: true,
  headGroupSize: true,
  clipSearch: true,
  rounding: true,
};

function expectKnownFields(recipe: Recipe): void {
  if (recipe === null || typeof recipe !== 'object') {
    throw new ConfigError(`Expected \`recipe\` to be an object but received ${String(recipe)}.`, { option: 'recipe' });
  }
  const unknown = Object.keys(recipe).find((field) => !(field in FIELDS));
  if (unknown === undefined) return;
  throw new ConfigError(
    `Expected the recipe's fields to be among ${Object.keys(FIELDS).join(', ')} but received \`${unknown}\`.`,
    { option: unknown },
  );
}
