import {
  bf16ToFloat,
  type Int4WeightSource,
  type Nested8WeightSource,
  ShapeMismatchError,
  type WeightPlane,
} from '@qspec/core';
import { unpackNibbles } from './pack.js';
import { hadamardRows } from './transforms/hadamard.js';

/**
 * The real numbers that a quantised weight stands for, in the basis it is stored in (rotated when its format has a Hadamard block).
 * `plane` `hi`: scale·hi. `full`: scale / radix·(radix·hi + lo) for nested weights, the same as `hi` for others.
 * For tests and reports; kernels never expand weights.
 *
 * @returns [N, K]
 * @throws ShapeMismatchError when the arrays do not fit the shape.
 */
export function dequantize(source: Int4WeightSource | Nested8WeightSource, plane: WeightPlane): Float32Array {
  const numValues = source.shape[0] * source.shape[1];
  expectLength(source.name, 'hi', source.hi.length, numValues / 8);
  expectLength(source.name, 'scales', source.scales.length, numValues / source.format.groupSize);
  const hi = unpackNibbles(source.hi);
  const lo = plane === 'full' && 'lo' in source ? unpackNibbles(source.lo) : undefined;
  if (lo) expectLength(source.name, 'lo', lo.length, numValues);
  const radix = source.format.kind === 'nested8' ? source.format.radix : 1;
  const values = new Float32Array(numValues);
  for (let i = 0; i < numValues; i++) {
    const scale = bf16ToFloat(source.scales[Math.floor(i / source.format.groupSize)]!);
    values[i] = lo ? (scale / radix) * (radix * hi[i]! + lo[i]!) : scale * hi[i]!;
  }
  return values;
}

/** {@link dequantize}, then rotated back: comparable to the checkpoint's own weights. */
export function dequantizeUnrotated(source: Int4WeightSource | Nested8WeightSource, plane: WeightPlane): Float32Array {
  const values = dequantize(source, plane);
  if (source.format.hadamardBlock > 0) hadamardRows(values, source.format.hadamardBlock);
  return values;
}

function expectLength(name: string, part: string, received: number, expected: number): void {
  if (received !== expected) {
    throw new ShapeMismatchError(
      `Expected \`${part}\` of \`${name}\` to have ${expected} elements but received ${received}.`,
      {
        tensor: name,
        part,
        expected,
        received,
      },
    );
  }
}
