import { type DenseWeightSource, floatToBf16 } from '@qspec/core';

/** Gaussian float32s of deviation 0.02 from a linear congruential generator: the same on every machine. */
export function gaussianWeights(length: number, seed: number): Float32Array {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length },
    () => 0.02 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** [numRows, numColumns] in bf16 or f32. */
export function denseSource(
  name: string,
  shape: readonly [number, number],
  dtype: 'f32' | 'bf16' = 'bf16',
  values = gaussianWeights(shape[0] * shape[1], name.length + shape[0] * 31 + shape[1]),
): DenseWeightSource {
  const elements = dtype === 'f32' ? values : Uint16Array.from(values, floatToBf16);
  return { name, shape, format: { kind: 'dense', dtype }, data: new Uint8Array(elements.buffer) };
}
