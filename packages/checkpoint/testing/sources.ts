import type { GroupSize, Int4WeightSource, Nested8WeightSource } from '@qspec/core';

/** Configuration of a model with one layer of two heads of 32; every linear has rows of 64. */
export const TINY_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 2,
  vocab_size: 7,
  tie_word_embeddings: true,
  eos_token_id: 2,
};

/** A small deterministic generator (mulberry32): the same bytes in every run. */
export function randomBytes(length: number, seed: number): Uint8Array<ArrayBuffer> {
  let state = seed >>> 0;
  return Uint8Array.from({ length }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) & 255;
  });
}

export interface SourceShape {
  readonly name: string;
  readonly shape: readonly [number, number];
  readonly groupSize?: GroupSize;
  readonly hadamardBlock?: number;
  readonly seed?: number;
}

export function int4Source({
  name,
  shape,
  groupSize = 32,
  hadamardBlock = 0,
  seed = 1,
}: SourceShape): Int4WeightSource {
  const numElements = shape[0] * shape[1];
  return {
    name,
    shape,
    format: { kind: 'int4', groupSize, hadamardBlock },
    hi: new Int32Array(randomBytes(numElements / 2, seed).buffer),
    scales: randomScales(numElements / groupSize, seed + 1),
  };
}

export function nestedSource(options: SourceShape & { readonly radix?: number }): Nested8WeightSource {
  const { format, ...source } = int4Source(options);
  const numElements = options.shape[0] * options.shape[1];
  return {
    ...source,
    format: { ...format, kind: 'nested8', radix: options.radix ?? 12 },
    lo: new Int32Array(randomBytes(numElements / 2, (options.seed ?? 1) + 2).buffer),
  };
}

/** bfloat16 bits of positive numbers from 2^-8 to 2^-4. */
function randomScales(length: number, seed: number): Uint16Array {
  const bytes = randomBytes(length * 2, seed);
  return Uint16Array.from({ length }, (_, i) => 0x3b80 + (((bytes[2 * i]! << 8) | bytes[2 * i + 1]!) & 0x1ff));
}
