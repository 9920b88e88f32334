import {
  bf16ToFloat,
  type Int4Format,
  type Int4WeightSource,
  type Nested8Format,
  type Nested8WeightSource,
} from '@qspec/core';
import { describe, expect, it } from 'vitest';
import { hadamardRows, quantizeWeight, unpackNibbles } from '../src/index.js';
import { bytesOf, floats, halves, readGolden, words } from './golden.js';

/** Mean ratio of squared errors, fast over exhaustive; 1.001 to 1.007 over millions of weights, more on these few groups. */
const FAST_SEARCH_SLACK = 1.02;

const golden = readGolden();
const source = {
  name: 'golden',
  shape: golden.shape,
  format: { kind: 'dense', dtype: 'f32' },
  data: bytesOf(golden.weights),
} as const;

describe('against NumPy', () => {
  it('rotates to the same float32 values', () => {
    const rotated = floats(golden.weights);
    hadamardRows(rotated, 64);
    expect(rotated).toEqual(floats(golden.rotated64));
  });

  describe.each(golden.cases)(
    'group $groupSize, Hadamard $hadamardBlock, clip search $clipSearch, radix $radix',
    (expected) => {
      const { groupSize, hadamardBlock, clipSearch, radix } = expected;
      const format: Int4Format | Nested8Format =
        radix === 0 ? { kind: 'int4', groupSize, hadamardBlock } : { kind: 'nested8', groupSize, hadamardBlock, radix };

      it('finds the same scales and codes', () => {
        const { source: quantized, error } = quantizeWeight(source, format, { clipSearch });
        expect(quantized.scales).toEqual(halves(expected.scales));
        expect(quantized.hi).toEqual(words(expected.hi));
        expect('lo' in quantized ? quantized.lo : new Int32Array(0)).toEqual(words(expected.lo));
        expect(error.relativeError.hi).toBeCloseTo(expected.hiError, 12);
        expect(error.relativeError.full).toBeCloseTo(expected.fullError, 12);
      });

      it.runIf(clipSearch === 'exhaustive')('comes within 2 % of the best squared error by the fast search', () => {
        const { source: quantized } = quantizeWeight(source, format, { clipSearch: 'fast' });
        const errors = groupErrors(quantized, hadamardBlock === 64 ? golden.rotated64 : golden.weights);
        const ratios = errors.map((error, group) => (error + 1e-30) / (expected.groupErrors[group]! + 1e-30));
        expect(Math.min(...ratios)).toBeGreaterThan(0.999999);
        expect(ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length).toBeLessThan(FAST_SEARCH_SLACK);
      });
    },
  );
});

/** Squared error of the high plane, group by group. */
function groupErrors(quantized: Int4WeightSource | Nested8WeightSource, base64: string): number[] {
  const weights = floats(base64);
  const errors = Array.from(quantized.scales, () => 0);
  unpackNibbles(quantized.hi).forEach((code, i) => {
    const group = Math.floor(i / quantized.format.groupSize);
    errors[group]! += (weights[i]! - bf16ToFloat(quantized.scales[group]!) * code) ** 2;
  });
  return errors;
}
