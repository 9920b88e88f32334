import { ConfigError } from '@qspec/core';

/** Blocks that {@link hadamardRows} accepts: powers of two from 2; 0 stands for "no rotation" elsewhere. */
export function isHadamardBlock(block: number): boolean {
  return Number.isInteger(block) && block >= 2 && block <= 2 ** 20 && (block & (block - 1)) === 0;
}

/**
 * Multiplies each run of `block` elements of every row by the orthonormal Hadamard matrix in Sylvester order, in place:
 * y = x·H / √block with H₁ = [1], H₂ₙ = [[Hₙ, Hₙ], [Hₙ, -Hₙ]]. H is symmetric and its own inverse, so applying this twice gives
 * the input back, and W' = W·H meets rotated activations without change: W'·(Hx) = W·x.
 * Fast Walsh-Hadamard transform (block·log₂ block additions) in double; each result is rounded to float32 once.
 *
 * @param values row-major rows whose length `block` divides, so that runs never cross rows.
 * @throws ConfigError unless `block` is a power of two that divides the number of values.
 */
export function hadamardRows(values: Float32Array, block: number): void {
  if (!isHadamardBlock(block) || values.length % block !== 0) {
    throw new ConfigError(
      `Expected \`block\` to be a power of two from 2 that divides ${values.length} but received ${block}.`,
      { option: 'block', received: block },
    );
  }
  const scratch = new Float64Array(block);
  const norm = 1 / Math.sqrt(block);
  for (let start = 0; start < values.length; start += block) {
    for (let i = 0; i < block; i++) scratch[i] = values[start + i]!;
    butterflies(scratch);
    for (let i = 0; i < block; i++) values[start + i] = scratch[i]! * norm;
  }
}

function butterflies(values: Float64Array): void {
  for (let half = 1; half < values.length; half *= 2) {
    for (let start = 0; start < values.length; start += 2 * half) {
      for (let i = start; i < start + half; i++) {
        const a = values[i]!;
        const b = values[i + half]!;
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
}
